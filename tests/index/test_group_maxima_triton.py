"""The kernel's bounds are those of XLA; and it lowers for a GPU from any machine."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.index import block_search, group_maxima_triton, group_search, int8_rows
from art_jax.index.group_maxima_triton import Tiles, group_maxima

TILES = Tiles(rows=32, queries=16, chunk=16, num_warps=4, num_stages=2)


def xla_maxima(queries, rows, start, size, passage_rows, group_rows):
    if isinstance(rows, int8_rows.Int8Rows):
        norms = int8_rows.norm_bounds(queries)
        bounds = int8_rows.score_bounds(rows, queries, norms)
    else:
        bounds = block_search.dot_products(rows, queries)
    is_passage = np.arange(len(bounds)) < passage_rows
    bounds = jnp.where(is_passage[:, None], bounds, -jnp.inf)
    return group_search.group_maxima(bounds[start : start + size], group_rows)


@pytest.mark.parametrize("int8", [False, True], ids=["rows", "int8"])
@pytest.mark.parametrize(
    ("dtype", "shard_rows", "batch", "width", "start", "size", "passage_rows", "group"),
    [
        ("float32", 96, 16, 32, 0, 96, 96, 8),
        ("bfloat16", 96, 16, 32, 32, 64, 96, 16),
        ("float32", 110, 19, 20, 16, 91, 90, 4),
        ("bfloat16", 45, 5, 3, 8, 37, 45, 8),
    ],
    ids=["full", "from_the_middle", "ragged", "small"],
)
def test_equals_the_maxima_of_xla(
    dtype,
    shard_rows,
    batch,
    width,
    start,
    size,
    passage_rows,
    group,
    int8,
    small_integers,
):
    queries = jnp.asarray(small_integers(0, batch, width), dtype)
    rows = jnp.asarray(small_integers(1, shard_rows, width), dtype)
    rows = int8_rows.quantize_rows(rows) if int8 else rows
    got = group_maxima(
        queries,
        rows,
        jnp.int32(start),
        size,
        passage_rows=jnp.int32(passage_rows),
        group_rows=group,
        norms=int8_rows.norm_bounds(queries),
        tiles=TILES,
        interpret=True,
    )
    want = xla_maxima(queries, rows, start, size, passage_rows, group)
    if int8:  # Scales are no integers; the compiler may or may not fuse scale and sum.
        np.testing.assert_allclose(got, want, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, want)


def test_nan_counts_as_infinite_except_in_padding():
    rows = np.zeros((32, 4), np.float32)
    rows[5], rows[20] = np.nan, np.nan
    got = group_maxima(
        jnp.ones((1, 4), jnp.float32),
        jnp.asarray(rows),
        jnp.int32(0),
        32,
        passage_rows=jnp.int32(18),
        group_rows=4,
        tiles=TILES,
        interpret=True,
    )
    none = -np.inf
    np.testing.assert_array_equal(got[:, 0], [0, np.inf, 0, 0, 0, none, none, none])


def gpu_that_is_not_there():
    """A context in which JAX lowers for an H100; from 0.12 on it asks for one."""
    if jax.__version_info__ < (0, 12):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.parametrize("batch", [5, 64, 1024])
@pytest.mark.parametrize("row_dtype", ["float32", "bfloat16", "int8"])
def test_lowers_for_a_gpu(batch, row_dtype):
    # All of Wikipedia: 16e9 numbers, so that offsets need 64 bits.
    shape = (21_015_324, 768)
    dtype = jnp.float32 if row_dtype == "float32" else jnp.bfloat16
    rows = jax.ShapeDtypeStruct(shape, row_dtype)
    if row_dtype == "int8":
        column = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
        rows = int8_rows.Int8Rows(rows, column, column)

    def maxima(queries, rows, start, passage_rows):
        return group_maxima(
            queries,
            rows,
            start,
            1 << 20,
            passage_rows=passage_rows,
            group_rows=16,
            norms=int8_rows.norm_bounds(queries),
        )

    number = jax.ShapeDtypeStruct((), jnp.int32)
    queries = jax.ShapeDtypeStruct((batch, shape[1]), dtype)
    with gpu_that_is_not_there():
        traced = jax.jit(maxima).trace(queries, rows, number, number)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__gpu$xla.gpu.triton" in text


def test_tiles_fit_the_shared_memory_of_an_h100():
    for batch in (1, 64, 65, 1024):
        for row_bytes, query_bytes in ((4, 4), (2, 2), (1, 2), (1, 4)):
            tiles = group_maxima_triton.choose_tiles(batch, row_bytes, query_bytes)
            numbers = tiles.rows * row_bytes + tiles.queries * query_bytes
            assert numbers * tiles.chunk * tiles.num_stages < 227 * 1024
            assert tiles.queries >= min(batch, 128)


@pytest.mark.parametrize(
    ("num_rows", "dtype", "want"),
    [(1 << 20, "int8", True), (3 << 20, "int8", False), (5 << 20, "int8", True)]
    + [(1 << 20, "bfloat16", True), (3 << 20, "bfloat16", True)],
)
def test_bytes_between_two_and_four_gib_are_not_read(num_rows, dtype, want):
    rows = jax.ShapeDtypeStruct((num_rows, 1024), dtype)
    assert group_maxima_triton.can_address(rows) == want
