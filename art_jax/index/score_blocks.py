"""Scores of every row of a shard, a block at a time, for what only adds them up.

For use within `shard_map` over a table's rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from art_jax.index.table_rows import slice_rows
from art_jax.partitioning import ROW_AXES


class ScoreBlock(NamedTuple):
    """Some rows of a shard.

    vectors: [R, D], of the table's dtype.
    scores: [B, R] float32, dot products.
    rows: [R] int32, rows of the whole table.
    is_row: [R] bool, False for padding and for rows that another block has.
    """

    vectors: jax.Array
    scores: jax.Array
    rows: jax.Array
    is_row: jax.Array


def over_blocks(
    add_block: Callable[[Any, ScoreBlock], Any],
    total: Any,
    queries: jax.Array,
    embeddings: jax.Array,
    num_rows: jax.Array,
    *,
    block_rows: int,
) -> Any:
    """Returns `total` once every block of a shard's rows was added to it.

    Args:
        add_block: (total, block) -> total.
        total: before the first; a tree of arrays.
        queries: [B, D] float; cast to the table's dtype, products summed in float32.
        embeddings: [S, D], one shard.
        num_rows: [] int32, how many leading rows of the whole table hold passages.
        block_rows: R, rows of a block; the last begins earlier where it would not fit.
    """
    shard_rows = embeddings.shape[0]
    block_rows = min(block_rows, shard_rows)
    first_row = jax.lax.axis_index(ROW_AXES) * shard_rows
    queries = queries.astype(embeddings.dtype)

    def step(total, index):
        wanted = index * block_rows
        start = jnp.minimum(wanted, shard_rows - block_rows)
        vectors = slice_rows(embeddings, start, block_rows)
        scores = jnp.einsum(
            "bd,rd->br", queries, vectors, preferred_element_type=jnp.float32
        )
        local = start + jnp.arange(block_rows, dtype=jnp.int32)
        rows = first_row + local
        is_row = (local >= wanted) & (rows < num_rows)
        return add_block(total, ScoreBlock(vectors, scores, rows, is_row)), None

    num_blocks = -(-shard_rows // block_rows)
    return jax.lax.scan(step, total, jnp.arange(num_blocks, dtype=jnp.int32))[0]


def vectors_of(embeddings: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns some rows of the whole table on every shard, [B, D] float32.

    Args:
        embeddings: [S, D], one shard.
        rows: [B] int32, rows of the whole table.
    """
    shard_rows = embeddings.shape[0]
    local = rows - jax.lax.axis_index(ROW_AXES) * shard_rows
    is_here = (local >= 0) & (local < shard_rows)
    vectors = embeddings[jnp.clip(local, 0, shard_rows - 1)].astype(jnp.float32)
    # Exactly one shard holds each row, so the sum over shards is that row.
    return jax.lax.psum(jnp.where(is_here[:, None], vectors, 0.0), ROW_AXES)
