"""Refresh: embed the evidence again, as a new generation of the table."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.index import embed
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.index.table import EmbeddingTable
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Refresher:
    """All that stays the same from one refresh of the evidence to the next.

    encode: (params, tokens [B, L]) -> [B, D] float32, without dropout.
    rows: the evidence's tokens as the retriever reads them.
    lengths: [N] int32, tokens of each row.
    width: D.
    mesh: where rows and table are.
    evidence_digest: of the evidence store.
    dtype: of the table.
    chunk_tokens: tokens embedded at a time on each device.
    """

    encode: embed.EncodeFn
    rows: DeviceRows | HostRows
    lengths: np.ndarray
    width: int
    mesh: Mesh
    evidence_digest: str
    dtype: str = "bfloat16"
    chunk_tokens: int = embed.DEFAULT_CHUNK_TOKENS


def refresh(
    refresher: Refresher,
    params: Params,
    *,
    step: int,
    generation: int,
    on_progress: Callable[[int], None] = lambda num_rows: None,
) -> EmbeddingTable:
    """Returns a new table made by `params`; the old one is untouched until then.

    The result depends on the weights, the evidence and the mesh alone, so a table can
    be rebuilt bit for bit from the weights that made it.

    Args:
        refresher: what stays the same.
        params: the passage encoder's parameters.
        step: the training step they are of.
        generation: of the new table.
        on_progress: called with the passages done so far; may raise to stop.

    Raises:
        DivergedError: an embedding is not finite; the old table stays in use.
    """
    num_rows = len(refresher.lengths)
    shards = partitioning.num_row_shards(refresher.mesh)
    rows_per_shard = partitioning.padded_rows(num_rows, refresher.mesh) // shards
    chunks = embed.plan_chunks(
        refresher.lengths,
        num_shards=shards,
        rows_per_shard=rows_per_shard,
        max_tokens=refresher.rows.width,
        chunk_tokens=refresher.chunk_tokens,
    )
    embeddings = embed.embed_rows(
        refresher.encode,
        params,
        refresher.rows,
        chunks,
        width=refresher.width,
        mesh=refresher.mesh,
        dtype=refresher.dtype,
        on_progress=on_progress,
    )
    return EmbeddingTable(
        embeddings=embeddings,
        num_rows=num_rows,
        generation=generation,
        table_step=step,
        evidence_digest=refresher.evidence_digest,
        mesh=refresher.mesh,
    )
