"""Exact top-K equals a stable full sort: any method, shards, sizes of what it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import int8_rows, topk
from art_jax.index.topk import SearchOptions

METHODS = ["plain", "groups", "int8"]


def search(mesh, queries, table, num_rows, k, excluded=None, **options):
    """Searches as `sharded_top_k`, with int8 rows where the method reads them."""
    quantized = None
    if options.get("method", "").startswith("int8"):
        quantized = int8_rows.build_quantize(mesh)(table)
    build = topk.build_search(mesh, k=k, options=SearchOptions(**options))
    return build(queries, table, num_rows, excluded, quantized)


def assert_same(found, want):
    np.testing.assert_array_equal(found.scores, want[0])
    np.testing.assert_array_equal(found.rows, want[1])


@pytest.mark.parametrize("num_rows", [1024, 1013], ids=["full", "padded"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_a_full_sort_for_any_number_of_shards(
    mesh, num_rows, method, dtype, small_integers, full_sort, place
):
    queries, table = small_integers(0, 5, 6), small_integers(1, num_rows, 6)
    # A scratch of one byte: the smallest blocks and segments there are.
    found = search(
        mesh,
        queries,
        place(table, mesh, dtype),
        num_rows,
        7,
        method=method,
        scratch_bytes=1 if method != "plain" else 4000,
    )
    assert_same(found, full_sort(queries, table, 7))


@pytest.mark.parametrize("method", METHODS)
def test_excluded_rows_are_never_found(mesh, method, small_integers, full_sort, place):
    queries, table = small_integers(2, 4, 8), small_integers(3, 500, 8)
    _, best = full_sort(queries, table, 20)
    excluded = np.concatenate([best, np.full((4, 1), -1)], axis=1).astype(np.int32)
    found = search(mesh, queries, place(table, mesh), 500, 5, excluded, method=method)
    assert_same(found, full_sort(queries, table, 5, excluded))


@pytest.mark.parametrize("method", METHODS)
def test_more_than_there_are_rows_is_padded(
    mesh, method, small_integers, full_sort, place
):
    queries, table = small_integers(4, 3, 4), small_integers(5, 6, 4)
    found = search(mesh, queries, place(table, mesh), 6, 10, method=method)
    assert_same(found, full_sort(queries, table, 10))
    assert (np.asarray(found.rows)[:, 6:] == -1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_query_without_any_row_finds_none(method, small_integers, place):
    mesh = partitioning.make_mesh(2)
    queries, table = small_integers(6, 2, 4), small_integers(7, 40, 4)
    everything = np.stack([np.arange(40), np.full(40, -1)]).astype(np.int32)
    found = search(mesh, queries, place(table, mesh), 40, 3, everything, method=method)
    assert (np.asarray(found.rows)[0] == -1).all()
    assert (np.asarray(found.scores)[0] == -np.inf).all()
    assert (np.asarray(found.rows)[1] >= 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_nan_is_an_error_that_names_the_row(method, bad, small_integers, place):
    mesh = partitioning.make_mesh(2)
    table = small_integers(6, 200, 4)
    table[130, 2] = bad
    queries = small_integers(7, 2, 4)
    found = search(mesh, queries, place(table, mesh), 200, 3, method=method)
    with pytest.raises(ValueError, match="query 0 and row 130 of the table is NaN"):
        topk.check_finite(np.asarray(found.scores), np.asarray(found.rows))


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
