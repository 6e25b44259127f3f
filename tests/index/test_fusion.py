"""Fusion by hand, against a plain twin, and scores of named rows against a matmul."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import fusion
from art_jax.index.table import EmbeddingTable, search
from art_jax.types import SearchResults


def results(scores, rows):
    return SearchResults(np.array(scores, np.float32), np.array(rows, np.int32))


def scorer(all_scores):
    """From rows to their scores in [B, N]."""
    all_scores = np.array(all_scores, np.float32)

    def score(rows):
        assert rows.shape[0] == len(all_scores)
        got = np.take_along_axis(all_scores, np.maximum(rows, 0), axis=1)
        return np.where(rows >= 0, got, -np.inf)

    return score


def best_of(all_scores, n):
    order = np.argsort(-np.array(all_scores), axis=1, kind="stable")[:, :n]
    return results(np.take_along_axis(np.array(all_scores), order, axis=1), order)


def test_a_weighted_sum_by_hand():
    lexical = [[4.0, 0.0, 2.0, 1.0]]
    dense = [[1.0, 5.0, 3.0, 0.0]]
    # Two of each: 0 and 2 by words, 1 and 2 by meaning; 3 is found by neither.
    found = fusion.weighted_sum(
        best_of(lexical, 2),
        best_of(dense, 2),
        lexical_scores=scorer(lexical),
        dense_scores=scorer(dense),
        k=4,
        weight=0.5,
    )
    assert found.rows.tolist() == [[0, 2, 1, -1]]
    want = [4 + 0.5 * 1, 2 + 0.5 * 3, 0 + 0.5 * 5, -np.inf]
    assert found.scores.tolist() == [want]


def test_reciprocal_ranks_by_hand():
    first = results([[9.0, 8.0, -np.inf]], [[5, 3, -1]])
    second = results([[1.0, 0.5, 0.25]], [[3, 7, 5]])
    found = fusion.reciprocal_rank(first, second, k=4)
    assert found.rows.tolist() == [[3, 5, 7, -1]]
    want = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, -np.inf]
    np.testing.assert_allclose(found.scores, [want], rtol=1e-12)


def test_equal_scores_go_to_the_lower_row():
    first, second = results([[1.0]], [[8]]), results([[1.0]], [[2]])
    assert fusion.reciprocal_rank(first, second, k=2).rows.tolist() == [[2, 8]]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 4), k=st.integers(1, 4))
def test_equals_a_plain_twin(data, n, k):
    values = st.lists(st.integers(0, 4), min_size=6, max_size=6)
    lexical, dense = (
        [data.draw(values) for _ in range(2)],
        [data.draw(values) for _ in range(2)],
    )
    one, other = best_of(lexical, n), best_of(dense, n)
    found = fusion.weighted_sum(
        one,
        other,
        lexical_scores=scorer(lexical),
        dense_scores=scorer(dense),
        k=k if k <= 2 * n else 2 * n,
        weight=2.0,
    )
    for place in range(2):
        union = sorted({*one.rows[place].tolist(), *other.rows[place].tolist()})
        score = {row: lexical[place][row] + 2.0 * dense[place][row] for row in union}
        want = sorted(union, key=lambda row: (-score[row], row))[: found.rows.shape[1]]
        got = found.rows[place][found.rows[place] >= 0].tolist()
        assert got == want
        assert found.scores[place][: len(got)].tolist() == [score[r] for r in got]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_of_named_rows_are_those_of_the_search(mesh, dtype, monkeypatch):
    monkeypatch.setattr(fusion, "_ROWS_A_CALL", 12)  # several calls, the last not full
    rng = np.random.default_rng(0)
    values = rng.integers(-4, 5, (24, 16)).astype(np.float32)
    queries = rng.integers(-4, 5, (5, 16)).astype(np.float32)
    embeddings = partitioning.put_tree(
        jnp.asarray(values, dtype), partitioning.row_sharding(mesh)
    )
    table = EmbeddingTable(embeddings, 21, 0, 0, "digest", mesh)
    rows = rng.integers(0, 21, (5, 4))
    rows[1, 2] = rows[4, 0] = -1
    got = fusion.score_rows(table, queries, rows)
    want = np.einsum("bkd,bd->bk", values[rows], queries)
    np.testing.assert_array_equal(got, np.where(rows >= 0, want, -np.inf))
    queries[:, 0] += 2**-12  # lost in bfloat16: the search rounds queries, too
    found = search(table, queries, k=3)
    np.testing.assert_array_equal(
        fusion.score_rows(table, queries, found.rows), found.scores
    )
    assert fusion.score_rows(table, queries[:0], rows[:0]).shape == (0, 4)


def test_what_is_out_of_range():
    found = results([[1.0]], [[0]])
    for k in (0, 3):
        with pytest.raises(ConfigError, match=f"k={k} passages of two searches .* 2"):
            fusion.reciprocal_rank(found, found, k=k)
    with pytest.raises(ConfigError, match="must be > -1"):
        fusion.reciprocal_rank(found, found, k=1, constant=-1)
    with pytest.raises(ConfigError, match="must be finite"):
        fusion.weighted_sum(
            found,
            found,
            lexical_scores=None,
            dense_scores=None,
            k=1,
            weight=float("nan"),
        )
