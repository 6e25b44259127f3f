"""A softmax over every row of the table: all passages are negatives of every query.

The scores, [B, N], never exist whole: blocks of rows are scored one after the other,
forwards and backwards, each device those it holds.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from art_jax.errors import ConfigError
from art_jax.index.score_blocks import over_blocks, vectors_of
from art_jax.partitioning import ROW_AXES

BLOCK_ROWS = 8192
# Below every score; -inf less itself would be NaN.
_LOWEST = -1e30


def full_nll(
    query_embeddings: jax.Array,
    table_embeddings: jax.Array,
    own_rows: jax.Array,
    *,
    num_rows: jax.Array | int,
    mesh: Mesh,
    temperature: float = 1.0,
    block_rows: int = BLOCK_ROWS,
) -> jax.Array:
    """Negative log-likelihood of each query's own row among all rows of the table.

    Exact, and so is its gradient with respect to the queries; the table gets none. No
    number of devices and no block changes either but for rounding. Usable under jit.

    Args:
        query_embeddings: [B, D] float; cast to the table's dtype for dot products,
            which are summed in float32.
        table_embeddings: [N padded, D], rows split over `mesh`.
        own_rows: [B] int32, rows below `num_rows`.
        num_rows: [] int32, how many leading rows hold passages.
        mesh: that the table is laid out on.
        temperature: divides the dot products.
        block_rows: rows scored at a time on each device.

    Returns:
        [B] float32, in nats.

    Raises:
        ConfigError: `block_rows` is below 1.

    Source: Min et al., arXiv:2104.08445, appendix A (DPR+, full negatives). Differs in:
        nothing.
    """
    if block_rows < 1:
        raise ConfigError(f"block_rows is {block_rows}: it must be at least 1.")
    queries = query_embeddings.astype(jnp.float32) / temperature
    return _build_full_nll(mesh, block_rows)(
        queries,
        jax.lax.stop_gradient(table_embeddings),
        own_rows,
        jnp.asarray(num_rows, jnp.int32),
    )


@functools.lru_cache(maxsize=16)
def _build_full_nll(mesh: Mesh, block_rows: int):
    """Returns (queries, table, own rows, number of rows) -> losses, with its VJP."""
    rows, whole = PartitionSpec(ROW_AXES), PartitionSpec()
    # Equal on every shard once summed over them, which only the sums show.
    on_shards = functools.partial(
        jax.shard_map, mesh=mesh, out_specs=whole, check_vma=False
    )
    normalizers = on_shards(
        functools.partial(_normalizers, block_rows=block_rows),
        in_specs=(whole, rows, whole),
    )
    weighted_rows = on_shards(
        functools.partial(_weighted_rows, block_rows=block_rows),
        in_specs=(whole, rows, whole, whole, whole),
    )
    own_vectors = on_shards(vectors_of, in_specs=(rows, whole))

    @jax.custom_vjp
    def full_nll(queries_BD, table, own_rows_B, num_rows):
        return forward(queries_BD, table, own_rows_B, num_rows)[0]

    def forward(queries_BD, table, own_rows_B, num_rows):
        log_sums_B = normalizers(queries_BD, table, num_rows)
        own_BD = own_vectors(table, own_rows_B)
        rounded_BD = queries_BD.astype(table.dtype).astype(jnp.float32)
        losses_B = log_sums_B - jnp.sum(rounded_BD * own_BD, axis=1)
        return losses_B, (queries_BD, table, own_BD, num_rows, log_sums_B)

    def backward(kept, slopes_B):
        queries_BD, table, own_BD, num_rows, log_sums_B = kept
        weighted = weighted_rows(queries_BD, table, log_sums_B, slopes_B, num_rows)
        return weighted - slopes_B[:, None] * own_BD, None, None, None

    full_nll.defvjp(forward, backward)
    return full_nll


def _normalizers(queries_BD, table_SD, num_rows, *, block_rows: int):
    """Returns the log of the sum of exponentials of each query's scores, [B]."""

    def add_block(total, block):
        scores_BR, is_row_R = block.scores, block.is_row[None, :]
        top_B, sums_B = total
        block_top_B = jnp.where(is_row_R, scores_BR, _LOWEST).max(axis=1)
        new_top_B = jnp.maximum(top_B, block_top_B)
        terms_BR = jnp.exp(scores_BR - new_top_B[:, None])
        block_sums_B = jnp.where(is_row_R, terms_BR, 0.0).sum(axis=1)
        return new_top_B, sums_B * jnp.exp(top_B - new_top_B) + block_sums_B

    batch = queries_BD.shape[0]
    start = jnp.full(batch, _LOWEST, jnp.float32), jnp.zeros(batch, jnp.float32)
    top_B, sums_B = over_blocks(
        add_block, start, queries_BD, table_SD, num_rows, block_rows=block_rows
    )
    all_top_B = jax.lax.pmax(top_B, ROW_AXES)
    sums_B = jax.lax.psum(sums_B * jnp.exp(top_B - all_top_B), ROW_AXES)
    return all_top_B + jnp.log(sums_B)


def _weighted_rows(
    queries_BD, table_SD, log_sums_B, slopes_B, num_rows, *, block_rows: int
):
    """Returns each query's mean row by its softmax, times its slope, [B, D]."""

    def add_block(total_BD, block):
        shares_BR = jnp.exp(block.scores - log_sums_B[:, None]) * slopes_B[:, None]
        shares_BR = jnp.where(block.is_row[None, :], shares_BR, 0.0)
        vectors_RD = block.vectors.astype(jnp.float32)
        return total_BD + jnp.einsum("br,rd->bd", shares_BR, vectors_RD)

    total_BD = over_blocks(
        add_block,
        jnp.zeros(queries_BD.shape, jnp.float32),
        queries_BD,
        table_SD,
        num_rows,
        block_rows=block_rows,
    )
    return jax.lax.psum(total_BD, ROW_AXES)
