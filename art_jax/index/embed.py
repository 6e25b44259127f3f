"""Embedding the evidence: each device embeds the rows it holds, no communication.

Rows are bucketed by length, so that short passages do not pay for the padding of long
ones. Every shard runs the same number of chunks of the same shape.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax import partitioning
from art_jax.errors import DivergedError
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.types import Params

DEFAULT_CHUNK_TOKENS = 16_384

EncodeFn = Callable[[Params, jax.Array], jax.Array]  # params, [B, L] -> [B, D]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that every shard embeds in one call.

    length: tokens a row; all rows of the chunk are at most as long.
    local_rows: [shards, C] int32, rows within each shard; slots without a row hold
        the number of rows on a shard.
    num_rows: how many slots, over all shards, hold a row.
    """

    length: int
    local_rows: np.ndarray
    num_rows: int


def plan_chunks(
    lengths: np.ndarray,
    *,
    num_shards: int,
    rows_per_shard: int,
    max_tokens: int,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> list[Chunk]:
    """Returns chunks that hold every row once.

    Args:
        lengths: [N] int, tokens of each row.
        num_shards: devices that hold rows.
        rows_per_shard: rows on each; `num_shards * rows_per_shard` >= N.
        max_tokens: the longest bucket; buckets are a quarter, half, three quarters
            and all of it.
        chunk_tokens: tokens in a chunk of one shard, at most (one row at least).
    """
    edges = sorted({max(1, -(-max_tokens * part // 4)) for part in (1, 2, 3, 4)})
    bucket_of_row = np.searchsorted(edges, np.minimum(lengths, max_tokens))
    shard_of_row = np.arange(len(lengths)) // rows_per_shard
    chunks = []
    for bucket, length in enumerate(edges):
        shards = [
            np.flatnonzero((bucket_of_row == bucket) & (shard_of_row == shard))
            - shard * rows_per_shard
            for shard in range(num_shards)
        ]
        most = max(len(rows) for rows in shards)
        if most == 0:
            continue
        size = min(max(1, chunk_tokens // length), most)
        for start in range(0, most, size):
            local_rows = np.full((num_shards, size), rows_per_shard, np.int32)
            for shard, rows in enumerate(shards):
                part = rows[start : start + size]
                local_rows[shard, : len(part)] = part
            num_rows = int((local_rows < rows_per_shard).sum())
            chunks.append(Chunk(length, local_rows, num_rows))
    return chunks


def embed_rows(
    encode: EncodeFn,
    params: Params,
    rows: DeviceRows | HostRows,
    chunks: Sequence[Chunk],
    *,
    width: int,
    mesh: Mesh,
    dtype: str = "bfloat16",
    on_progress: Callable[[int], None] = lambda num_rows: None,
) -> jax.Array:
    """Returns the embeddings of all rows, [N padded, D], split over every device.

    Args:
        encode: (params, tokens [B, L] int32) -> [B, D] float32, without dropout.
        params: the encoder's parameters, whole on every device.
        rows: the evidence's tokens.
        chunks: from `plan_chunks`, equal on every process.
        width: D.
        mesh: where the rows are.
        dtype: of the embeddings.
        on_progress: called with the number of rows done after each chunk; may raise
            to stop, in which case nothing is returned.

    Raises:
        DivergedError: an embedding is not finite.
    """
    num_padded = partitioning.num_row_shards(mesh) * rows.rows_per_shard
    embeddings = _build_zeros((num_padded, width), dtype, mesh)()
    write = _build_write(encode, mesh)
    done = 0
    num_bad = []
    for chunk in chunks:
        tokens = rows.chunk(chunk.local_rows, chunk.length)
        local_rows = partitioning.put_global(
            chunk.local_rows, partitioning.row_sharding(mesh)
        )
        embeddings, bad = write(params, tokens, local_rows, embeddings)
        num_bad.append(bad)
        # Wait for the chunk before, so that one chunk computes while the next is read
        # and progress is never ahead of the device by more than that.
        if len(num_bad) > 1:
            jax.block_until_ready(num_bad[-2])
            on_progress(done)
        done += chunk.num_rows
    # Added up shard by shard, so that the devices meet once and not a chunk.
    total_bad = int(partitioning.to_host(functools.reduce(jnp.add, num_bad)).sum())
    on_progress(done)
    if total_bad:
        raise DivergedError(
            f"{total_bad} of {done} passage embeddings are not finite: the weights of "
            "the passage encoder have diverged; go back to an earlier checkpoint and "
            "lower the learning rate."
        )
    return embeddings


def embed_batches(
    encode: Callable[[jax.Array], jax.Array],
    tokens: np.ndarray,
    *,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[tuple[int, jax.Array]]:
    """Yields (rows in use, embeddings [batch_size, D]) of token rows, in order.

    Args:
        encode: [batch_size, Q] int32 -> [batch_size, D], jitted by the caller.
        tokens: [n, Q] int32 on the host; the last batch is filled up with row 0.
        batch_size: rows at a time; rounded up to a multiple of the data axis.
        mesh: batches are split over its data axis.
    """
    data_size = mesh.shape[partitioning.DATA_AXIS]
    batch_size = -(-min(batch_size, max(len(tokens), 1)) // data_size) * data_size
    for start in range(0, len(tokens), batch_size):
        index = np.arange(start, start + batch_size)
        batch = tokens[np.where(index < len(tokens), index, 0)]
        placed = partitioning.put_global(batch, partitioning.batch_sharding(mesh))
        yield min(batch_size, len(tokens) - start), encode(placed)


@functools.lru_cache(maxsize=16)
def _build_zeros(shape: tuple[int, int], dtype: str, mesh: Mesh):
    return jax.jit(
        lambda: jnp.zeros(shape, dtype),
        out_shardings=partitioning.row_sharding(mesh),
    )


@functools.lru_cache(maxsize=16)
def _build_write(encode: EncodeFn, mesh: Mesh):
    """Returns `write(params, tokens, local_rows, embeddings)`, jitted once a shape."""
    rows = PartitionSpec(partitioning.ROW_AXES)

    @functools.partial(jax.jit, donate_argnums=3)
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows, rows),
        out_specs=(rows, rows),
    )
    def write(params, tokens_1CL, local_rows_1C, embeddings_SD):
        embedded_CD = encode(params, tokens_1CL[0])
        is_row = local_rows_1C[0] < embeddings_SD.shape[0]
        is_bad = is_row & ~jnp.isfinite(embedded_CD).all(axis=-1)
        num_bad_1 = is_bad.sum(dtype=jnp.int32)[None]
        # Slots without a row point past the shard and are dropped.
        embeddings_SD = embeddings_SD.at[local_rows_1C[0]].set(
            embedded_CD.astype(embeddings_SD.dtype), mode="drop"
        )
        return embeddings_SD, num_bad_1

    return write
