"""In-batch negatives, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.losses import contrastive

# Each query's passages stand together: q1's positive and hard negative, then q2's.
QUERIES = jnp.array([[1.0, 0.0], [0.0, 1.0]])
PASSAGES = jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [1.0, 0.0]])


def test_two_queries_by_hand():
    queries = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    passages = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    # Scores [[3, 0], [0, 2]].
    want = [np.log(np.exp(3) + 1) - 3, np.log(1 + np.exp(2)) - 2]
    got = contrastive.in_batch_nll(queries, passages)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_dpr_with_a_hard_negative_each_by_hand():
    # Scores [[2, 1, 0, 1], [0, 1, 3, 0]].
    want = [
        np.log(np.exp(2) + 2 * np.exp(1) + 1) - 2,
        np.log(2 + np.exp(1) + np.exp(3)) - 3,
    ]
    got = contrastive.in_batch_nll(QUERIES, PASSAGES)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(got, [0.626523, 0.210998], atol=1e-6)
    np.testing.assert_allclose(got.mean(), 0.418760, atol=1e-6)


def test_the_gradient_is_the_true_one_on_any_mesh(mesh):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(8, 4)).astype(np.float32)
    passages = rng.normal(size=(24, 4)).astype(np.float32)

    def loss(queries, passages):
        return contrastive.in_batch_nll(queries, passages).mean()

    # By hand: softmax less one at the own passage, over the batch.
    scores = queries @ passages.T
    slopes = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    slopes[np.arange(8), np.arange(8) * 3] -= 1
    want = slopes @ passages / 8, slopes.T @ queries / 8
    split = partitioning.put_tree(
        (queries, passages), partitioning.batch_sharding(mesh)
    )
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(*split)
    np.testing.assert_allclose(got[0], want[0], atol=1e-6)
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)


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


def test_similarities_by_hand():
    queries = jnp.array([[3.0, 4.0]])
    passages = jnp.array([[0.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    want = {
        "dot": [[8.0, 25.0, 0.0]],
        "cosine": [[0.8, 1.0, 0.0]],
        "l2": [[-np.sqrt(9 + 4), -1e-6, -5.0]],
    }
    assert set(want) == set(contrastive.SIMILARITIES)
    for name, scores in want.items():
        got = contrastive.similarity_scores(queries, passages, similarity=name)
        np.testing.assert_allclose(got, scores, rtol=1e-6, atol=1e-7)
    with pytest.raises(ConfigError, match="no similarity 'l1': choose of dot"):
        contrastive.similarity_scores(queries, passages, similarity="l1")


@pytest.mark.parametrize("similarity", contrastive.SIMILARITIES)
def test_a_search_by_dot_products_can_rank_by_any_similarity(similarity):
    rng = np.random.default_rng(0)
    queries = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    passages = jnp.asarray(2 * rng.normal(size=(30, 3)), jnp.float32)
    scores = contrastive.similarity_scores(queries, passages, similarity=similarity)
    queries, passages = contrastive.dot_product_vectors(
        queries, passages, similarity=similarity
    )
    np.testing.assert_array_equal(
        np.argsort(queries @ passages.T, axis=1), np.argsort(scores, axis=1)
    )


@pytest.mark.parametrize("similarity", contrastive.SIMILARITIES)
def test_gradients_are_finite_where_vectors_are_equal_or_zero(similarity):
    def total(vectors):
        scores = contrastive.similarity_scores(vectors, vectors, similarity=similarity)
        return contrastive.nll(scores).sum()

    grads = jax.jit(jax.grad(total))(jnp.array([[0.0, 0.0], [1.0, 2.0]]))
    assert np.isfinite(grads).all()


def test_triplet_by_hand():
    scores = jnp.array([[2.0, 1.0, 0.0, 1.0], [0.0, 1.0, 3.0, 0.0]])
    # Row 0: negatives 1, 0, 1 against 2; row 1: 0, 1, 0 against 3.
    got = contrastive.triplet(scores, margin=1.5)
    np.testing.assert_allclose(got, [(0.5 + 0.0 + 0.5) / 3, 0.0])
    where = jnp.array([[True, True, False, False], [False, False, True, False]])
    got = contrastive.triplet(scores, margin=1.5, where=where)
    np.testing.assert_allclose(got, [0.5, 0.0])


def test_which_queries_have_their_own_passage_first():
    scores = jnp.array([[2.0, 1.0, 3.0, 1.0], [0.0, 1.0, 3.0, 3.0]])
    assert contrastive.is_best(scores).tolist() == [False, True]
    where = jnp.array([[True, True, False, True], [True] * 4])
    assert contrastive.is_best(scores, where).tolist() == [True, True]


def test_only_the_gradient_is_scaled():
    value, slope = jax.value_and_grad(lambda x: contrastive.scale_gradient(x * x, 0.5))(
        jnp.float32(3.0)
    )
    assert (float(value), float(slope)) == (9.0, 3.0)
