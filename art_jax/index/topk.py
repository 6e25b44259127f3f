"""Exact top-K over a table whose rows are split over every device.

Each shard scores its rows block by block and keeps its K best; K candidates a shard
are gathered and merged. No score matrix larger than [B, block_rows] ever exists, and
the result does not depend on the number of shards: equal scores go to the lower row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax.errors import ConfigError
from art_jax.partitioning import DATA_AXIS, MODEL_AXIS, ROW_AXES
from art_jax.types import SearchResults

DEFAULT_BLOCK_ROWS = 8192


def sharded_top_k(
    queries: jax.Array,
    embeddings: jax.Array,
    *,
    k: int,
    num_rows: jax.Array | int,
    mesh: Mesh,
    excluded_rows: jax.Array | None = None,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> SearchResults:
    """Returns the k rows of highest dot product with each query. Usable under jit.

    Args:
        queries: [B, D] float; cast to the table's dtype, products summed in float32.
        embeddings: [N padded, D], rows split over `mesh` (`partitioning.row_sharding`).
        k: rows kept a query, >= 1.
        num_rows: [] int32, how many leading rows hold passages; the rest is padding.
        mesh: the mesh `embeddings` is laid out on.
        excluded_rows: [B, E] int32, rows that must not be found for a query, -1 for
            none. None: no exclusion.
        block_rows: rows scored at a time on each shard; bounds the memory used to
            4 * B * block_rows bytes and changes no result.

    Returns:
        SearchResults of shape [B, k]. A NaN score ranks first and so is seen in the
        result; `check_finite` turns it into an error.
    """
    batch = queries.shape[0]
    if excluded_rows is None:
        excluded_rows = jnp.zeros((batch, 0), jnp.int32)
    rows_per_shard = embeddings.shape[0] // (
        mesh.shape[DATA_AXIS] * mesh.shape[MODEL_AXIS]
    )

    def search_shard(queries_BD, embeddings_SD, excluded_BE, num_rows):
        first_row = jax.lax.axis_index(ROW_AXES) * rows_per_shard
        local = block_top_k(
            queries_BD,
            embeddings_SD,
            k=k,
            first_row=first_row,
            num_rows=num_rows,
            excluded_rows=excluded_BE,
            block_rows=block_rows,
        )
        # Shard order is row order and top_k keeps the first of equals, so ties do not
        # depend on the number of shards.
        scores = jax.lax.all_gather(local.scores, ROW_AXES, axis=1, tiled=True)
        rows = jax.lax.all_gather(local.rows, ROW_AXES, axis=1, tiled=True)
        return _best(scores, rows, k)

    return jax.shard_map(
        search_shard,
        mesh=mesh,
        in_specs=(
            PartitionSpec(),
            PartitionSpec(ROW_AXES),
            PartitionSpec(),
            PartitionSpec(),
        ),
        out_specs=PartitionSpec(),
        check_vma=False,  # Equal on every shard, but only the gather shows it.
    )(queries, embeddings, excluded_rows, jnp.asarray(num_rows, jnp.int32))


def block_top_k(
    queries: jax.Array,
    embeddings: jax.Array,
    *,
    k: int,
    first_row: jax.Array | int,
    num_rows: jax.Array | int,
    excluded_rows: jax.Array,
    block_rows: int,
) -> SearchResults:
    """Returns the k best rows of one shard, scored in blocks of `block_rows`.

    Args:
        queries: [B, D] float.
        embeddings: [S, D], one shard.
        k: rows kept a query.
        first_row: [] int32, the table's row that is this shard's first.
        num_rows: [] int32, rows of the table that hold passages.
        excluded_rows: [B, E] int32, rows of the table to leave out, -1 for none.
        block_rows: rows scored at a time.
    """
    batch, shard_rows = queries.shape[0], embeddings.shape[0]
    block_rows = min(block_rows, shard_rows)
    queries = queries.astype(embeddings.dtype)

    def merge_block(best, start, size):
        block = jax.lax.dynamic_slice_in_dim(embeddings, start, size)
        scores = jax.lax.dot_general(
            queries,
            block,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        rows = first_row + start + jnp.arange(size, dtype=jnp.int32)
        scores = jnp.where((rows < num_rows)[None, :], scores, -jnp.inf)
        scores = _mask_rows(scores, excluded_rows - (first_row + start))
        # What was best so far comes first: its rows are lower, so ties stay right.
        return _best(
            jnp.concatenate([best.scores, scores], axis=1),
            jnp.concatenate([best.rows, jnp.broadcast_to(rows, scores.shape)], axis=1),
            k,
        )

    best = SearchResults(
        scores=jnp.full((batch, k), -jnp.inf, jnp.float32),
        rows=jnp.full((batch, k), -1, jnp.int32),
    )
    num_blocks, rest = divmod(shard_rows, block_rows)
    starts = jnp.arange(num_blocks, dtype=jnp.int32) * block_rows
    best, _ = jax.lax.scan(
        lambda best, start: (merge_block(best, start, block_rows), None), best, starts
    )
    if rest:
        best = merge_block(best, jnp.int32(num_blocks * block_rows), rest)
    return best


def gather_rows(values: jax.Array, rows: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns rows of a table split over devices, laid out as a batch.

    Args:
        values: [N padded, ...] integer, rows split over `mesh`.
        rows: [B, K] int32; -1 gives zeros. B must be a multiple of the data axis.
        mesh: the mesh `values` is laid out on.

    Returns:
        [B, K, ...] int32, the first axis split over `data`.
    """
    if rows.shape[0] % mesh.shape[DATA_AXIS]:
        raise ConfigError(
            f"a batch of {rows.shape[0]} queries cannot be split evenly over the "
            f"{mesh.shape[DATA_AXIS]} devices of mesh axis {DATA_AXIS!r}: choose a "
            "multiple as BATCH_SIZE."
        )

    def gather_shard(values_S, rows_BK):
        shard_rows = values_S.shape[0]
        local = rows_BK - jax.lax.axis_index(ROW_AXES) * shard_rows
        is_here = (local >= 0) & (local < shard_rows) & (rows_BK >= 0)
        picked = values_S[jnp.clip(local, 0, shard_rows - 1)].astype(jnp.int32)
        is_here = is_here.reshape(is_here.shape + (1,) * (picked.ndim - 2))
        # Exactly one shard holds each row, so the sum over shards is that row.
        picked = jax.lax.psum(jnp.where(is_here, picked, 0), MODEL_AXIS)
        return jax.lax.psum_scatter(picked, DATA_AXIS, scatter_dimension=0, tiled=True)

    return jax.shard_map(
        gather_shard,
        mesh=mesh,
        in_specs=(PartitionSpec(ROW_AXES), PartitionSpec()),
        out_specs=PartitionSpec(DATA_AXIS),
        check_vma=False,
    )(values, rows)


@functools.lru_cache(maxsize=64)
def build_search(mesh: Mesh, *, k: int, block_rows: int = DEFAULT_BLOCK_ROWS):
    """Returns `search(queries, embeddings, num_rows, excluded_rows=None)`, jitted once.

    Its arguments and result are those of `sharded_top_k`.

    Raises:
        ConfigError: k or block_rows is below 1.
    """
    if k < 1 or block_rows < 1:
        raise ConfigError(f"k ({k}) and block_rows ({block_rows}) must be at least 1.")

    @jax.jit
    def search(queries, embeddings, num_rows, excluded_rows=None):
        return sharded_top_k(
            queries,
            embeddings,
            k=k,
            num_rows=num_rows,
            mesh=mesh,
            excluded_rows=excluded_rows,
            block_rows=block_rows,
        )

    return search


def check_finite(scores: np.ndarray, rows: np.ndarray) -> None:
    """Raises where a search met NaN.

    Args:
        scores: [B, K] float32 on the host.
        rows: [B, K] int32 on the host.

    Raises:
        ValueError: a score is NaN; names the query and the row.
    """
    where = np.argwhere(np.isnan(scores))
    if where.size:
        query, rank = where[0]
        raise ValueError(
            f"the score of query {query} and row {rows[query, rank]} of the table is "
            "NaN: the query's embedding or that row is not finite; embed again with "
            "weights that are."
        )


def _best(scores: jax.Array, rows: jax.Array, k: int) -> SearchResults:
    scores, places = jax.lax.top_k(scores, k)
    rows = jnp.take_along_axis(rows, places, axis=1)
    return SearchResults(scores, jnp.where(scores == -jnp.inf, -1, rows))


def _mask_rows(scores: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns scores [B, size] with -inf at `columns` [B, E]; others are ignored."""
    if columns.shape[1] == 0:
        return scores
    batch, size = scores.shape
    # JAX counts negative indices from the end; send them past it, to be dropped.
    columns = jnp.where(columns < 0, size, columns)
    queries = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return scores.at[queries, columns].set(-jnp.inf, mode="drop")
