"""In-batch negatives, by hand."""

import jax.numpy as jnp
import numpy as np

from art_jax.losses import contrastive


def test_two_queries_by_hand():
    queries = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    passages = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    # Scores [[3, 0], [0, 2]].
    want = [np.log(np.exp(3) + 1) - 3, np.log(1 + np.exp(2)) - 2]
    got = contrastive.in_batch_nll(queries, passages)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_temperature_and_further_negatives():
    queries = jnp.array([[1.0]])
    passages = jnp.array([[4.0], [2.0], [0.0]])
    want = np.log(np.exp(2) + np.exp(1) + 1) - 2
    got = contrastive.in_batch_nll(queries, passages, temperature=2.0)
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_a_masked_passage_is_no_negative():
    queries = jnp.array([[1.0]])
    passages = jnp.array([[4.0], [2.0]])
    where = jnp.array([[True, False]])
    got = contrastive.in_batch_nll(queries, passages, where=where)
    np.testing.assert_allclose(got, [0.0], atol=1e-6)
