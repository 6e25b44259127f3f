"""Exact top-K over a table whose rows are split over every device.

Each shard finds its K best rows; K candidates a shard are gathered and merged. The
score matrix never exists whole, and the result depends neither on the number of shards
nor on the method: equal scores go to the lower row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import (
    block_search,
    group_maxima_triton,
    group_search,
    search_options,
)
from art_jax.index.block_search import keep_best
from art_jax.index.int8_rows import Int8Rows, norm_bounds, score_bounds
from art_jax.index.search_options import SearchOptions, SearchShape
from art_jax.index.table_rows import slice_rows
from art_jax.partitioning import DATA_AXIS, MODEL_AXIS, ROW_AXES
from art_jax.types import SearchResults

_DEFAULT_OPTIONS = SearchOptions()


def sharded_top_k(
    queries: jax.Array,
    embeddings: jax.Array,
    *,
    k: int,
    num_rows: jax.Array | int,
    mesh: Mesh,
    excluded_rows: jax.Array | None = None,
    options: SearchOptions = _DEFAULT_OPTIONS,
    int8_rows: Int8Rows | None = None,
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
        options: how to go about it; changes no result.
        int8_rows: of `embeddings`, for the methods that read them.

    Returns:
        SearchResults of shape [B, k]. A NaN score ranks first and so is seen in the
        result; `check_finite` turns it into an error.

    Raises:
        ConfigError: k is below 1, or the method needs another device or int8 rows.
    """
    if k < 1:
        raise ConfigError(f"k ({k}) must be at least 1.")
    batch = queries.shape[0]
    if excluded_rows is None:
        excluded_rows = jnp.zeros((batch, 0), jnp.int32)
    rows_per_shard = embeddings.shape[0] // partitioning.num_row_shards(mesh)
    shape = SearchShape(
        batch=batch,
        shard_rows=rows_per_shard,
        width=embeddings.shape[1],
        item_bytes=embeddings.dtype.itemsize,
        num_results=k,
        num_excluded=excluded_rows.shape[1],
    )
    method = search_options.choose_method(options, shape, _platform(mesh))
    if method.startswith("int8") and int8_rows is None:
        raise ConfigError(
            f"search method {method!r} needs the table's int8 rows: make them with "
            "int8_rows.build_quantize or load_table(..., int8=True)."
        )

    def search_shard(queries_BD, embeddings_SD, int8_rows_S, excluded_BE, num_rows):
        local = _shard_top_k(
            queries_BD.astype(embeddings_SD.dtype),
            embeddings_SD,
            int8_rows_S,
            shape=shape,
            method=method,
            options=options,
            platform=_platform(mesh),
            first_row=jax.lax.axis_index(ROW_AXES) * rows_per_shard,
            num_rows=num_rows,
            excluded_rows=excluded_BE,
        )
        # Shard order is row order and top_k keeps the first of equals, so ties do not
        # depend on the number of shards.
        scores = jax.lax.all_gather(local.scores, ROW_AXES, axis=1, tiled=True)
        rows = jax.lax.all_gather(local.rows, ROW_AXES, axis=1, tiled=True)
        return keep_best(scores, rows, k)

    rows, whole = PartitionSpec(ROW_AXES), PartitionSpec()
    return jax.shard_map(
        search_shard,
        mesh=mesh,
        in_specs=(whole, rows, rows, whole, whole),
        out_specs=whole,
        check_vma=False,  # Equal on every shard, but only the gather shows it.
    )(
        queries,
        embeddings,
        int8_rows if method.startswith("int8") else None,
        excluded_rows,
        jnp.asarray(num_rows, jnp.int32),
    )


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
def build_search(mesh: Mesh, *, k: int, options: SearchOptions = _DEFAULT_OPTIONS):
    """Returns `search(queries, embeddings, num_rows, ...)`, jitted once.

    Its further arguments are `excluded_rows=None` and `int8_rows=None`; they and its
    result are those of `sharded_top_k`.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"k ({k}) must be at least 1.")

    @jax.jit
    def search(queries, embeddings, num_rows, excluded_rows=None, int8_rows=None):
        return sharded_top_k(
            queries,
            embeddings,
            k=k,
            num_rows=num_rows,
            mesh=mesh,
            excluded_rows=excluded_rows,
            options=options,
            int8_rows=int8_rows,
        )

    return search


def check_finite(scores: np.ndarray, rows: np.ndarray) -> None:
    """Raises where a search met NaN or a score beyond float32.

    Args:
        scores: [B, K] float32 on the host.
        rows: [B, K] int32 on the host.

    Raises:
        ValueError: a score is NaN or inf; names the query and the row.
    """
    where = np.argwhere(np.isnan(scores) | (scores == np.inf))
    if where.size:
        query, rank = where[0]
        found = "NaN" if np.isnan(scores[query, rank]) else "infinite"
        raise ValueError(
            f"the score of query {query} and row {rows[query, rank]} of the table is "
            f"{found}: the query's embedding or that row is not finite; embed again "
            "with weights that are."
        )


def _platform(mesh: Mesh) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def _shard_top_k(
    queries: jax.Array,
    embeddings: jax.Array,
    int8_rows: Int8Rows | None,
    *,
    shape: SearchShape,
    method: str,
    options: SearchOptions,
    platform: str,
    first_row: jax.Array,
    num_rows: jax.Array,
    excluded_rows: jax.Array,
) -> SearchResults:
    """Returns the k best rows of one shard; arguments as of `block_top_k`."""
    rows = {
        "k": shape.num_results,
        "first_row": first_row,
        "num_rows": num_rows,
        "excluded_rows": excluded_rows,
    }
    if method == "plain":
        return block_search.block_top_k(
            queries,
            embeddings,
            block_rows=search_options.block_rows(shape, options.scratch_bytes),
            **rows,
        )

    def search_groups(table, oversampling):
        sizes = search_options.group_sizes(
            shape,
            scratch_bytes=options.scratch_bytes,
            oversampling=oversampling,
            platform=platform,
        )
        return group_search.group_top_k(
            queries,
            embeddings,
            _build_segment_bounds(
                queries,
                table,
                sizes=sizes,
                passage_rows=num_rows - first_row,
                use_kernel=method.endswith("triton"),
                interpret=options.interpret,
            ),
            num_rescored=search_options.num_rescored(shape, oversampling=oversampling),
            sizes=sizes,
            **rows,
        )

    if not method.startswith("int8"):
        return search_groups(embeddings, 1)[0]
    results, next_bound = search_groups(int8_rows, options.int8_oversampling)
    return jax.lax.cond(
        group_search.is_certain(results, next_bound).all(),
        lambda: results,
        lambda: search_groups(embeddings, 1)[0],
    )


def _build_segment_bounds(
    queries: jax.Array,
    table: jax.Array | Int8Rows,
    *,
    sizes: group_search.GroupSizes,
    passage_rows: jax.Array,
    use_kernel: bool,
    interpret: bool,
) -> group_search.SegmentBounds:
    """Returns what bounds the groups of a segment, from one shard or its int8 rows."""
    norms = norm_bounds(queries)
    if use_kernel and group_maxima_triton.can_address(jax.tree.leaves(table)[0]):
        return functools.partial(
            group_maxima_triton.group_maxima,
            queries,
            table,
            norms=norms,
            passage_rows=passage_rows,
            group_rows=sizes.group_rows,
            interpret=interpret,
        )

    def bound_block(start, size):
        block = jax.tree.map(lambda leaf: slice_rows(leaf, start, size), table)
        if isinstance(block, Int8Rows):
            return score_bounds(block, queries, norms)
        return block_search.dot_products(block, queries)

    return functools.partial(
        group_search.scan_segment,
        bound_block,
        sizes=sizes,
        passage_rows=passage_rows,
    )
