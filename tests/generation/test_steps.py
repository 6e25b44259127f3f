import jax.numpy as jnp
import numpy as np

from art_jax.generation import steps


def test_what_is_not_allowed_is_lost_and_not_shared_by_the_rest():
    logits = jnp.full((1, 4), 2.0, jnp.bfloat16)

    def allowed(tokens, num_tokens):
        return jnp.array([[True, False, True, False]]) & (tokens[:, :1] == num_tokens)

    tokens, two = jnp.array([[2, 0]]), jnp.int32(2)
    got = steps.next_log_likelihoods(logits, allowed, tokens, two)
    assert got.dtype == jnp.float32
    quarter = np.log(0.25)
    want = [[quarter, -np.inf, quarter, -np.inf]]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    everything = steps.next_log_likelihoods(logits, None, tokens, two)
    np.testing.assert_allclose(everything, [[quarter] * 4], rtol=1e-6)
