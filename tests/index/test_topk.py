"""Exact top-K equals a stable full sort: any method, shards, sizes of what it holds."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import block_search, int8_rows, topk
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


@pytest.mark.parametrize(
    ("num_rows", "padding", "dtype"),
    [(1024, 0, "float32"), (1013, 400, "bfloat16")],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
def test_equals_a_full_sort_for_any_number_of_shards(
    mesh, num_rows, padding, method, dtype, small_integers, full_sort, place
):
    queries, table = small_integers(0, 5, 6), small_integers(1, num_rows, 6)
    _, best = full_sort(queries, table, 20)
    excluded = np.where(best % 3 > 0, best, -1).astype(np.int32)
    found = search(
        mesh,
        queries,
        place(np.pad(table, ((0, padding), (0, 0)), constant_values=9), mesh, dtype),
        num_rows,
        7,
        excluded,
        method=method,
        scratch_bytes=1,  # The smallest blocks and segments there are.
    )
    assert_same(found, full_sort(queries, table, 7, excluded))


@pytest.mark.parametrize("method", METHODS)
def test_more_than_there_are_rows_is_padded(method, small_integers, full_sort, place):
    mesh = partitioning.make_mesh(8)
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


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shard_rows", "num_shards", "k"), [(300, 2, 3), (2000, 1, 5)])
def test_methods_agree_with_a_full_sort(
    shard_rows, num_shards, k, method, seed, small_integers, full_sort, place
):
    generator = np.random.default_rng(seed)
    num_rows = shard_rows * num_shards - int(generator.integers(0, num_shards))
    queries = small_integers(seed, 3, 4)
    table = small_integers(seed + 1, num_rows, 4)
    excluded = generator.integers(-1, num_rows, (3, 2), np.int32)
    mesh = partitioning.make_mesh(num_shards)
    found = search(
        mesh,
        queries,
        place(table, mesh),
        num_rows,
        k,
        excluded,
        method=method,
        scratch_bytes=20_000,
    )
    assert_same(found, full_sort(queries, table, k, excluded))


@pytest.mark.parametrize("method", ["triton", "int8_triton"])
@pytest.mark.parametrize("scratch_bytes", [1 << 30, 12_000])
def test_the_kernel_finds_the_same(
    method, scratch_bytes, small_integers, full_sort, place
):
    mesh = partitioning.make_mesh(2)
    queries, table = small_integers(8, 3, 20), small_integers(9, 401, 20)
    excluded = np.array([[0, -1], [400, 3], [-1, -1]], np.int32)
    found = search(
        mesh,
        queries,
        place(table, mesh, "bfloat16"),
        401,
        4,
        excluded,
        method=method,
        scratch_bytes=scratch_bytes,
        interpret=True,
    )
    assert_same(found, full_sort(queries, table, 4, excluded))


@pytest.mark.parametrize("method", METHODS)
def test_queries_are_rounded_to_the_dtype_of_the_table(method, place):
    mesh = partitioning.make_mesh(1)
    generator = np.random.default_rng(12)
    table = place(generator.normal(size=(200, 8)), mesh, "bfloat16")
    queries = generator.normal(size=(2, 8)).astype(np.float32)
    rounded = queries.astype(jnp.bfloat16).astype(np.float32)
    found = search(mesh, queries, table, 200, 3, method=method)
    want = search(mesh, rounded, table, 200, 3, method=method)
    assert_same(found, (want.scores, want.rows))


@pytest.fixture
def exact_scans(monkeypatch):
    """One entry for every block of rows that is scored exactly."""
    calls = []
    dot_products = block_search.dot_products

    def counted(rows, queries):
        jax.debug.callback(lambda: calls.append(len(rows)))
        return dot_products(rows, queries)

    monkeypatch.setattr(block_search, "dot_products", counted)
    topk.build_search.cache_clear()
    yield calls
    topk.build_search.cache_clear()


def test_int8_rows_find_the_same_without_another_scan(exact_scans, place):
    mesh = partitioning.make_mesh(1)
    generator = np.random.default_rng(10)
    table = place(generator.normal(size=(3000, 64)), mesh, "bfloat16")
    queries = generator.normal(size=(4, 64)).astype(np.float32)
    found = search(mesh, queries, table, 3000, 5, method="int8")
    jax.effects_barrier()
    assert exact_scans == []
    want = search(mesh, queries, table, 3000, 5, method="plain")
    np.testing.assert_array_equal(found.rows, want.rows)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5)


def test_rows_that_int8_cannot_tell_apart_are_scanned_again(exact_scans, place):
    mesh = partitioning.make_mesh(1)
    generator = np.random.default_rng(11)
    # Nearly equal rows: what tells them apart is below a step of their codes.
    table = generator.normal(size=64) + 1e-4 * generator.normal(size=(3000, 64))
    table = place(table, mesh)
    queries = generator.normal(size=(4, 64)).astype(np.float32)
    found = search(mesh, queries, table, 3000, 5, method="int8")
    jax.effects_barrier()
    assert sum(exact_scans) == 3000
    want = search(mesh, queries, table, 3000, 5, method="groups")
    np.testing.assert_array_equal(found.rows, want.rows)
    np.testing.assert_array_equal(found.scores, want.scores)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("scratch_bytes", "dtype"),
    [(1, "float32"), (10**6, "bfloat16"), (10**7, "float32")],
)
def test_a_search_keeps_to_its_memory(method, scratch_bytes, dtype):
    mesh = partitioning.make_mesh(1)
    batch, num_rows, width, k = 64, 200_000, 32, 10
    options = SearchOptions(method=method, scratch_bytes=scratch_bytes)
    column = jax.ShapeDtypeStruct((num_rows,), jnp.float32)
    lowered = topk.build_search(mesh, k=k, options=options).lower(
        jax.ShapeDtypeStruct((batch, width), jnp.float32),
        jax.ShapeDtypeStruct((num_rows, width), dtype),
        jax.ShapeDtypeStruct((), jnp.int32),
        None,
        int8_rows.Int8Rows(
            jax.ShapeDtypeStruct((num_rows, width), jnp.int8), column, column
        ),
    )
    # What is held whatever the setting: one query's rescored rows (48 groups of 32),
    # the best groups of all queries, the queries once more, and where blocks begin.
    least = 48 * 32 * width * 8 + batch * 49 * 64 + batch * width * 8
    least += num_rows // 64 * 4
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < scratch_bytes + least
    assert used < 4 * batch * num_rows / 8  # The scores of all rows.


def test_the_kernel_is_refused_on_a_cpu(small_integers, place):
    mesh = partitioning.make_mesh(1)
    with pytest.raises(ConfigError, match="choose 'groups'"):
        search(
            mesh,
            small_integers(0, 1, 4),
            place(small_integers(1, 9, 4), mesh),
            9,
            1,
            method="triton",
        )


def test_scores_beyond_float32_are_an_error():
    with pytest.raises(ValueError, match="query 0 and row 7 of the table is infinite"):
        topk.check_finite(np.array([[np.inf, 1]]), np.array([[7, 2]]))
    topk.check_finite(np.array([[1, -np.inf]]), np.array([[7, -1]]))
