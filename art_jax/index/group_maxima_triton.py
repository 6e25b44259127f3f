"""Bounds of groups by one fused kernel: scores stay in registers (Pallas, Triton).

Each program multiplies a tile of rows with a tile of queries, chunk by chunk of D, sums
in float32, and writes the highest of every group of rows. One body serves rows in
floating point and rows in int8, which it converts in registers.

Not run on a GPU yet: tests run it in Pallas's interpreter and lower it for CUDA.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from art_jax.index.int8_rows import Int8Rows

# Pallas computes offsets into arrays of up to 4 GiB in 32 bits, which Triton takes as
# signed: those of bytes beyond 2 GiB would be negative. (It takes 64 above 4 GiB.)
_SIGNED_OFFSETS, _LONG_OFFSETS = 1 << 31, 1 << 32


@dataclasses.dataclass(frozen=True)
class Tiles:
    """What one program computes at a time; powers of two.

    rows: of the table; a multiple of the rows of a group.
    queries: columns of a tile.
    chunk: numbers of a row multiplied at a time.
    num_warps: of a program.
    num_stages: chunks on their way from memory while one is multiplied.
    """

    rows: int
    queries: int
    chunk: int
    num_warps: int
    num_stages: int


def choose_tiles(batch: int, row_item_bytes: int, query_item_bytes: int) -> Tiles:
    """Returns tiles for B queries, for the shared memory of an H100 (unmeasured).

    With few queries memory is the bound, and all of them are in one tile, so that the
    table is read once. With many arithmetic is, in tiles of 128 by 128.

    Args:
        batch: B.
        row_item_bytes: of a number of the rows.
        query_item_bytes: of a number of the queries.
    """
    queries = min(128, max(16, 1 << (batch - 1).bit_length()))
    # 128 bytes of a row, a line of the cache; beside float32 queries more would not
    # fit into registers.
    chunk = 128 // max(row_item_bytes, query_item_bytes if query_item_bytes > 2 else 1)
    return Tiles(
        rows=128,
        queries=queries,
        chunk=chunk,
        num_warps=8 if queries == 128 else 4,
        num_stages=4,
    )


def can_address(rows: jax.Array) -> bool:
    """Returns whether the kernel reads all of an array of this size right."""
    num_bytes = rows.size * rows.dtype.itemsize
    return rows.size <= _SIGNED_OFFSETS or num_bytes > _LONG_OFFSETS


def group_maxima(
    queries: jax.Array,
    rows: jax.Array | Int8Rows,
    start: jax.Array,
    size: int,
    *,
    passage_rows: jax.Array,
    group_rows: int,
    norms: jax.Array | None = None,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns the bounds of a segment's groups, [ceil(size / g), B] float32.

    -inf for a group without passages; NaN counts as inf.

    Args:
        queries: [B, D], of the table's dtype.
        rows: [S, D], one shard, of the queries' dtype, or its int8 rows.
        start: [] int32, the segment's first row within the shard.
        size: its rows.
        passage_rows: [] int32, leading rows of the shard that hold passages.
        group_rows: g, a power of two.
        norms: [B] float32, `int8_rows.norm_bounds` of the queries; for int8 rows.
        tiles: None: as `choose_tiles` says.
        interpret: run it in Pallas's interpreter.
    """
    batch, width = queries.shape
    row_items = rows.codes if isinstance(rows, Int8Rows) else rows
    tiles = tiles or choose_tiles(
        batch, row_items.dtype.itemsize, queries.dtype.itemsize
    )
    num_groups = -(-size // group_rows)
    num_query_tiles = -(-batch // tiles.queries)
    # Programs that share rows are neighbours, so that the rows come from the cache.
    num_programs = -(-size // tiles.rows) * num_query_tiles
    segment_end = jnp.minimum(start + size, passage_rows)
    limits = jnp.stack([start, segment_end]).astype(jnp.int32)
    operands = [limits, queries, row_items]
    if isinstance(rows, Int8Rows):
        operands += [rows.scales, rows.errors, norms]
    kernel = functools.partial(
        _kernel,
        tiles=tiles,
        group_rows=group_rows,
        shape=(num_groups, batch, width),
        num_query_tiles=num_query_tiles,
    )
    return pl.pallas_call(
        kernel,
        grid=(num_programs,),
        out_shape=jax.ShapeDtypeStruct((num_groups, batch), jnp.float32),
        compiler_params=plgpu.CompilerParams(
            num_warps=tiles.num_warps, num_stages=tiles.num_stages
        ),
        interpret=interpret,
        name="group_maxima",
    )(*operands)


def _kernel(limits_ref, queries_ref, rows_ref, *refs, **sizes):
    """One program: a tile of rows, a tile of queries. `_ref`s are whole arrays."""
    int8_refs, maxima_ref = refs[:-1], refs[-1]
    tiles, group_rows = sizes["tiles"], sizes["group_rows"]
    num_groups, batch, width = sizes["shape"]
    program = pl.program_id(0)
    row_tile = program // sizes["num_query_tiles"]
    first_query = program % sizes["num_query_tiles"] * tiles.queries
    first_row = limits_ref[0] + row_tile * tiles.rows
    rows_R = pl.ds(first_row, tiles.rows)
    queries_Q = pl.ds(first_query, tiles.queries)
    is_row_R = first_row + _iota(tiles.rows) < limits_ref[1]
    is_query_Q = first_query + _iota(tiles.queries) < batch

    def add_chunk(number, scores_RQ):
        first = number * tiles.chunk
        columns_C = pl.ds(first, tiles.chunk)
        is_column_C = first + _iota(tiles.chunk) < width
        rows_RC = plgpu.load(
            rows_ref.at[rows_R, columns_C],
            mask=is_row_R[:, None] & is_column_C[None, :],
            other=0,
        )
        queries_QC = plgpu.load(
            queries_ref.at[queries_Q, columns_C],
            mask=is_query_Q[:, None] & is_column_C[None, :],
            other=0,
        )
        return scores_RQ + jax.lax.dot_general(
            rows_RC.astype(queries_QC.dtype),
            queries_QC.T,
            (((1,), (0,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    bounds_RQ = jax.lax.fori_loop(
        0,
        pl.cdiv(width, tiles.chunk),
        add_chunk,
        jnp.zeros((tiles.rows, tiles.queries), jnp.float32),
    )
    if int8_refs:
        scales_ref, errors_ref, norms_ref = int8_refs
        scales_R = plgpu.load(scales_ref.at[rows_R], mask=is_row_R, other=0)
        errors_R = plgpu.load(errors_ref.at[rows_R], mask=is_row_R, other=0)
        norms_Q = plgpu.load(norms_ref.at[queries_Q], mask=is_query_Q, other=0)
        bounds_RQ = scales_R[:, None] * bounds_RQ + errors_R[:, None] * norms_Q[None, :]
    # Before the maximum, which passes over NaN on a GPU.
    bounds_RQ = jnp.where(jnp.isnan(bounds_RQ), jnp.inf, bounds_RQ)
    bounds_RQ = jnp.where(is_row_R[:, None], bounds_RQ, -jnp.inf)
    tile_groups = tiles.rows // group_rows
    maxima_GQ = bounds_RQ.reshape(tile_groups, group_rows, tiles.queries).max(axis=1)
    first_group = row_tile * tile_groups
    is_group_G = first_group + _iota(tile_groups) < num_groups
    plgpu.store(
        maxima_ref.at[pl.ds(first_group, tile_groups), queries_Q],
        maxima_GQ,
        mask=is_group_G[:, None] & is_query_Q[None, :],
    )


def _iota(size: int) -> jax.Array:
    return jax.lax.iota(jnp.int32, size)
