"""Top-K by scoring every row and merging block by block: the plain reference.

Every faster search must find what this one finds.
"""

import jax
import jax.numpy as jnp

from art_jax.index.table_rows import slice_rows
from art_jax.types import SearchResults

MAX_BLOCK_ROWS = 8192


def dot_products(rows: jax.Array, queries: jax.Array) -> jax.Array:
    """Returns the score of every row for every query, [R, B] float32.

    Args:
        rows: [R, D], of the queries' dtype.
        queries: [B, D].
    """
    return jax.lax.dot_general(
        rows,
        queries,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def keep_best(scores: jax.Array, rows: jax.Array, k: int) -> SearchResults:
    """Returns the k best of some candidates; the first of equal scores wins.

    A NaN ranks first, so that it is seen in the result.

    Args:
        scores: [B, C] float32, C >= k.
        rows: [B, C] int32.
        k: kept a query.
    """
    # top_k has a total order: below all else stands a NaN whose sign bit is set, which
    # is what x86 makes of inf - inf, and -0. stands below 0.
    scores = jnp.where(jnp.isnan(scores), jnp.nan, scores)
    scores, places = jax.lax.top_k(jnp.where(scores == 0, 0.0, scores), k)
    rows = jnp.take_along_axis(rows, places, axis=1)
    return SearchResults(scores, jnp.where(scores == -jnp.inf, -1, rows))


def no_results(batch: int, k: int) -> SearchResults:
    """Returns what was found before a search begins."""
    return SearchResults(
        scores=jnp.full((batch, k), -jnp.inf, jnp.float32),
        rows=jnp.full((batch, k), -1, jnp.int32),
    )


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
        queries: [B, D] float, of the embeddings' dtype.
        embeddings: [S, D], one shard.
        k: rows kept a query.
        first_row: [] int32, the table's row that is this shard's first.
        num_rows: [] int32, rows of the table that hold passages.
        excluded_rows: [B, E] int32, rows of the table to leave out, -1 for none.
        block_rows: rows scored at a time.
    """
    batch, shard_rows = queries.shape[0], embeddings.shape[0]
    block_rows = min(block_rows, shard_rows)

    def merge_block(best, start, size):
        block = slice_rows(embeddings, start, size)
        scores = dot_products(block, queries).T
        rows = first_row + start + jnp.arange(size, dtype=jnp.int32)
        scores = jnp.where((rows < num_rows)[None, :], scores, -jnp.inf)
        scores = _mask_columns(scores, excluded_rows - (first_row + start))
        # What was best so far comes first: its rows are lower, so ties stay right.
        return keep_best(
            jnp.concatenate([best.scores, scores], axis=1),
            jnp.concatenate([best.rows, jnp.broadcast_to(rows, scores.shape)], axis=1),
            k,
        )

    num_blocks, rest = divmod(shard_rows, block_rows)
    starts = jnp.arange(num_blocks, dtype=jnp.int32) * block_rows
    best, _ = jax.lax.scan(
        lambda best, start: (merge_block(best, start, block_rows), None),
        no_results(batch, k),
        starts,
    )
    if rest:
        best = merge_block(best, jnp.int32(num_blocks * block_rows), rest)
    return best


def _mask_columns(scores: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns scores [B, size] with -inf at `columns` [B, E]; others are ignored."""
    if columns.shape[1] == 0:
        return scores
    batch, size = scores.shape
    # JAX counts negative indices from the end; send them past it, to be dropped.
    columns = jnp.where(columns < 0, size, columns)
    queries = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return scores.at[queries, columns].set(-jnp.inf, mode="drop")
