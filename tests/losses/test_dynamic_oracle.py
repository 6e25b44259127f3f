import math

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.losses import dynamic_oracle

jit_oracle = jax.jit(dynamic_oracle.dynamic_oracle_nll)


def likelihoods(logits):
    return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


def picks(*values):
    return jnp.array([values], jnp.int32)


def test_it_is_the_printed_sum():
    # Both steps have the same sum of exponentials: e^1 + e^0 + e^2 + e^0.
    total = math.log(math.e + 1 + math.e**2 + 1)
    step_1 = (total - 1) + (total - 2)  # passages 0 and 2 are right
    step_2 = total - 2  # 2 was picked, 0 is left
    loss = jit_oracle(
        likelihoods([[[1, 0, 2, 0], [2, 0, 0, 1]]]),
        picks(2, 1),
        jnp.array([[True, False, True, False]]),
    )
    np.testing.assert_allclose(loss, [step_1 + step_2], rtol=1e-6)
    np.testing.assert_allclose(loss, [2.481435], rtol=1e-6)


def test_one_step_is_the_loss_of_independent_picks():
    scores = likelihoods([[[1, 0, 2, 0]]])
    is_positive = jnp.array([[True, False, True, False]])
    loss = dynamic_oracle.dynamic_oracle_nll(scores, picks(-1), is_positive)
    np.testing.assert_allclose(loss, [-scores[0, 0, 0] - scores[0, 0, 2]])


def test_without_negatives_steps_after_the_last_positive_add_nothing():
    scores = likelihoods([[[1, 0, 2], [0, 0, 1], [5, -3, 1]]])
    is_positive = jnp.array([[True, False, True]])
    loss = dynamic_oracle.dynamic_oracle_nll(scores, picks(2, 0, -1), is_positive)
    want = -scores[0, 0, 0] - scores[0, 0, 2] - scores[0, 1, 0]
    np.testing.assert_allclose(loss, [want], rtol=1e-6)


def test_teacher_forcing_follows_one_sequence():
    scores = likelihoods([[[1, 0, 2], [0, 0, 1], [5, -3, 1]]])
    loss = dynamic_oracle.sequence_nll(scores, picks(2, 0, -1))
    np.testing.assert_allclose(loss, [-scores[0, 0, 2] - scores[0, 1, 0]], rtol=1e-6)


def test_likelihoods_are_over_the_choices_or_over_the_vocabulary():
    logits = jnp.array([[[0.0, 1.0, 2.0, 3.0]]])
    choices, where = jnp.array([[3, 1, 0]]), jnp.array([[True, True, False]])
    of_choices = dynamic_oracle.choice_log_likelihoods(logits, choices, where)
    total = math.log(math.exp(3) + math.exp(1))
    np.testing.assert_allclose(of_choices[0, 0, :2], [3 - total, 1 - total], rtol=1e-6)
    assert of_choices[0, 0, 2] < -1e8
    of_all = dynamic_oracle.choice_log_likelihoods(
        logits, choices, where, over_vocabulary=True
    )
    total = math.log(sum(map(math.exp, range(4))))
    np.testing.assert_allclose(of_all[0, 0, :2], [3 - total, 1 - total], rtol=1e-6)


def test_gradients_are_finite_where_there_is_no_choice():
    def loss(logits):
        scores = dynamic_oracle.choice_log_likelihoods(
            logits, jnp.array([[2, 0]]), jnp.array([[True, False]])
        )
        is_positive = jnp.array([[True, False]])
        return dynamic_oracle.dynamic_oracle_nll(scores, picks(1, 0), is_positive).sum()

    assert np.isfinite(jax.grad(loss)(jnp.ones((1, 2, 3)))).all()


def plain(scores, prefix, positives):
    total, picked = 0.0, set()
    for step, pick in enumerate(prefix):
        for passage in positives - picked:
            total -= scores[step, passage]
        picked.add(pick)
    return total


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    scores = -rng.exponential(size=(5, 4, 6)).astype(np.float32)
    prefix = np.stack([rng.permutation(6)[:4] for _ in range(5)]).astype(np.int32)
    prefix[rng.random(prefix.shape) < 0.2] = -1
    is_positive = rng.random((5, 6)) < 0.4
    want = [
        plain(one, picks, set(np.flatnonzero(positive)))
        for one, picks, positive in zip(scores, prefix, is_positive, strict=True)
    ]
    np.testing.assert_allclose(jit_oracle(scores, prefix, is_positive), want, rtol=1e-5)
