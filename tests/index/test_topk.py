"""Exact top-K equals a stable full sort, for any number of shards and block size."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import topk


def small_integers(seed, *shape):
    # Small integers: each dot product is exact in float32 and bfloat16 sums, so == is
    # right, and ties are common.
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def numpy_full_sort(queries, table, k, excluded=None):
    scores = queries @ table.T
    rows = np.tile(np.arange(len(table)), (len(queries), 1))
    if excluded is not None:
        for query, row in np.argwhere(np.ones_like(excluded)):
            if excluded[query, row] >= 0:
                scores[query, excluded[query, row]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, 1)
    best_rows = np.where(best == -np.inf, -1, np.take_along_axis(rows, order, 1))
    missing = k - best.shape[1]
    if missing > 0:
        best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
        best_rows = np.pad(best_rows, ((0, 0), (0, missing)), constant_values=-1)
    return best, best_rows


def place(table, mesh, dtype=np.float32):
    padded = partitioning.padded_rows(len(table), mesh)
    # Padding rows score high, so that a search that does not mask them fails.
    whole = np.full((padded, table.shape[1]), 9, np.float32)
    whole[: len(table)] = table
    array = partitioning.put_global(whole, partitioning.row_sharding(mesh))
    return array.astype(dtype)


@pytest.mark.parametrize("num_rows", [64, 61], ids=["full", "padded"])
@pytest.mark.parametrize("block_rows", [3, 1000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_a_full_sort_for_any_number_of_shards(mesh, num_rows, block_rows, dtype):
    queries, table = small_integers(0, 5, 16), small_integers(1, num_rows, 16)
    search = topk.build_search(mesh, k=7, block_rows=block_rows)
    found = search(queries, place(table, mesh, dtype), num_rows)
    want_scores, want_rows = numpy_full_sort(queries, table, 7)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


def test_excluded_rows_are_never_found(mesh):
    queries, table = small_integers(2, 4, 8), small_integers(3, 30, 8)
    _, best = numpy_full_sort(queries, table, 2)
    excluded = np.concatenate([best, np.full((4, 1), -1)], axis=1).astype(np.int32)
    search = topk.build_search(mesh, k=5, block_rows=4)
    found = search(queries, place(table, mesh), 30, excluded)
    want_scores, want_rows = numpy_full_sort(queries, table, 5, excluded)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


def test_more_than_there_are_rows_is_padded(mesh):
    queries, table = small_integers(4, 3, 4), small_integers(5, 6, 4)
    found = topk.build_search(mesh, k=10, block_rows=4)(queries, place(table, mesh), 6)
    want_scores, want_rows = numpy_full_sort(queries, table, 10)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)
    assert (np.asarray(found.rows)[:, 6:] == -1).all()


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    num_rows=st.integers(1, 40), block_rows=st.integers(1, 41), seed=st.integers(0, 99)
)
def test_blocks_change_nothing(num_rows, block_rows, seed):
    queries, table = small_integers(seed, 2, 3), small_integers(seed + 1, num_rows, 3)
    found = topk.block_top_k(
        jnp.asarray(queries),
        jnp.asarray(table),
        k=4,
        first_row=0,
        num_rows=num_rows,
        excluded_rows=jnp.zeros((2, 0), jnp.int32),
        block_rows=block_rows,
    )
    want_scores, want_rows = numpy_full_sort(queries, table, 4)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


def test_nan_is_an_error_that_names_the_row(mesh):
    table = small_integers(6, 20, 4)
    table[13, 2] = np.nan
    found = topk.build_search(mesh, k=3)(
        small_integers(7, 2, 4), place(table, mesh), 20
    )
    with pytest.raises(ValueError, match="query 0 and row 13"):
        topk.check_finite(np.asarray(found.scores), np.asarray(found.rows))


def test_the_score_matrix_never_exists_whole():
    mesh = partitioning.make_mesh(1)
    batch, num_rows, width, block_rows = 64, 40_000, 4, 500
    search = topk.build_search(mesh, k=8, block_rows=block_rows)
    shapes = [
        jax.ShapeDtypeStruct((batch, width), jnp.float32),
        jax.ShapeDtypeStruct((num_rows, width), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    ]
    memory = search.lower(*shapes).compile().memory_analysis()
    score_matrix_bytes = 4 * batch * num_rows
    assert memory.temp_size_in_bytes < score_matrix_bytes / 8


def test_gather_rows_picks_from_every_shard(mesh):
    values = np.arange(32 * 3, dtype=np.uint16).reshape(32, 3)
    rows = np.array([[0, 31], [7, -1]] * 4, np.int32)
    placed = partitioning.put_global(values, partitioning.row_sharding(mesh))
    got = jax.jit(lambda v, r: topk.gather_rows(v, r, mesh))(placed, rows)
    want = np.where(rows[..., None] >= 0, values[rows], 0)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == jnp.int32


def test_gather_rows_refuses_an_uneven_batch():
    mesh = partitioning.make_mesh(8)
    values = partitioning.put_global(
        np.zeros((8, 1), np.uint16), partitioning.row_sharding(mesh)
    )
    with pytest.raises(ConfigError, match="BATCH_SIZE"):
        topk.gather_rows(values, jnp.zeros((3, 1), jnp.int32), mesh)


def test_k_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        topk.build_search(partitioning.make_mesh(1), k=0)
