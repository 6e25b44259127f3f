"""Refresh: embed the evidence again, as a new generation of the table, or by slices."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index import embed, refresh_parts
from art_jax.index.buckets import Bucket, plan_buckets
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.index.table import EmbeddingTable
from art_jax.models.bert import BertConfig
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
    chunk_tokens: tokens embedded at a time on each device; None: what devices of
        this kind do best with.
    int8: make the table's rows in eight bits, too.
    config: of the encoder, to count operations by; None: they are not counted.
    """

    encode: embed.EncodeFn
    rows: DeviceRows | HostRows
    lengths: np.ndarray
    width: int
    mesh: Mesh
    evidence_digest: str
    dtype: str = "bfloat16"
    chunk_tokens: int | None = None
    int8: bool = False
    config: BertConfig | None = None

    @functools.cached_property
    def buckets(self) -> list[Bucket]:
        """Which rows are embedded together; the same for the same lengths and mesh."""
        return plan_buckets(
            self.lengths,
            num_shards=partitioning.num_row_shards(self.mesh),
            rows_per_shard=self.rows.rows_per_shard,
            max_tokens=self.rows.width,
            chunk_tokens=self.chunk_tokens or embed.default_chunk_tokens(),
        )

    @functools.cached_property
    def calls(self) -> list[embed.Call]:
        """The buckets' calls, their rows on the devices."""
        return embed.place_calls(self.buckets, self.mesh)


def refresh(
    refresher: Refresher,
    params: Params,
    *,
    step: int,
    generation: int,
    on_progress: Callable[[int], None] = lambda num_rows: None,
    parts: pathlib.Path | None = None,
    keep_parts: bool = False,
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
        parts: a folder for finished parts, so that the same refresh, killed and
            called again, does not make them twice; shared by all processes, or each
            with its own. None: nothing is written.
        keep_parts: leave the parts there at the end, for `refresh_parts.remove_folder`
            to remove once the table is safe.

    Raises:
        DivergedError: an embedding is not finite; the old table stays in use.
    """
    arrays = embed.empty_arrays(
        refresher.rows.rows_per_shard * partitioning.num_row_shards(refresher.mesh),
        refresher.width,
        refresher.dtype,
        refresher.mesh,
        int8=refresher.int8,
    )
    if parts is None:
        arrays = _embed(refresher, params, refresher.calls, arrays, on_progress)
    else:
        arrays = _embed_by_parts(refresher, params, arrays, on_progress, parts)
        if not keep_parts:
            refresh_parts.remove_folder(parts)
    return EmbeddingTable(
        embeddings=arrays[0],
        int8_rows=arrays[1],
        num_rows=len(refresher.lengths),
        generation=generation,
        table_step=step,
        evidence_digest=refresher.evidence_digest,
        mesh=refresher.mesh,
    )


def refresh_slice(
    refresher: Refresher,
    params: Params,
    table: EmbeddingTable,
    *,
    slice_index: int,
    num_slices: int,
) -> EmbeddingTable:
    """Returns the table with one slice of its rows made anew by `params`.

    A slice is each `num_slices`-th call of a whole refresh, so slices take about the
    same time, run the programs of a refresh, and all of them in turn with the same
    weights give the bits of a refresh. Generation and step stay the table's.

    Args:
        refresher: what stays the same; its mesh and dtype are the table's.
        params: the passage encoder's parameters.
        table: its arrays are donated, and not to be used after.
        slice_index: from 0; other than within `num_slices` it counts on in turn, so
            that it may be the training step.
        num_slices: of the whole table; those beyond the calls of a refresh are empty.

    Raises:
        ConfigError: the table is not of the refresher's evidence, mesh or dtype.
        DivergedError: an embedding is not finite; the table is lost.
    """
    check_table(refresher, table)
    arrays = _embed(
        refresher,
        params,
        refresher.calls[slice_index % num_slices :: num_slices],
        (table.embeddings, table.int8_rows),
        lambda num_rows: None,
    )
    return dataclasses.replace(table, embeddings=arrays[0], int8_rows=arrays[1])


def check_table(refresher: Refresher, table: EmbeddingTable) -> None:
    """Raises ConfigError unless the table is one that the refresher could have made."""
    ours = (refresher.evidence_digest, refresher.mesh, refresher.dtype)
    theirs = (table.evidence_digest, table.mesh, table.embeddings.dtype.name)
    if ours != theirs:
        raise ConfigError(
            f"the table is of evidence, mesh and dtype {theirs}, the refresher of "
            f"{ours}: embed the evidence anew before its slices."
        )


def _embed(refresher, params, calls, arrays, on_progress, **settings):
    return embed.embed_calls(
        refresher.encode,
        params,
        refresher.rows,
        calls,
        arrays,
        mesh=refresher.mesh,
        on_progress=on_progress,
        **settings,
    )


def _embed_by_parts(
    refresher: Refresher,
    params: Params,
    arrays: embed.TableArrays,
    on_progress: Callable[[int], None],
    directory: pathlib.Path,
) -> embed.TableArrays:
    """As `_embed` of all calls, but what is in the folder is not made again."""
    mesh = refresher.mesh
    folder = refresh_parts.open_folder(directory, _parts_key(refresher, params))
    parts = refresh_parts.split_calls(refresher.calls)
    is_saved = refresh_parts.find_saved(folder, len(parts), mesh)
    done = 0
    with refresh_parts.saving(folder) as save:
        for index, calls in enumerate(parts):
            if is_saved[index]:
                loaded = refresh_parts.load_part(
                    folder,
                    index,
                    calls,
                    width=refresher.width,
                    dtype=refresher.dtype,
                    mesh=mesh,
                )
                for call, values in zip(calls, loaded, strict=True):
                    arrays = embed.write_values(call, values, arrays, mesh=mesh)
                    done += call.num_rows
                on_progress(done)
                continue
            made = []
            arrays = _embed(
                refresher,
                params,
                calls,
                arrays,
                lambda num_rows, before=done: on_progress(before + num_rows),
                on_values=lambda call, values, made=made: made.append(values),
            )
            save(index, made)
            done += sum(call.num_rows for call in calls)
    return arrays


def _parts_key(refresher: Refresher, params: Params) -> str:
    """Returns the digest of all that the numbers of a refresh depend on. Collective.

    The encoder enters as the program that JAX makes of it.
    """
    plan = hashlib.sha256()
    for bucket in refresher.buckets:
        plan.update(f"{bucket.length} {bucket.local_rows.shape}".encode())
        plan.update(np.ascontiguousarray(bucket.local_rows))
    device = refresher.mesh.devices.flat[0]
    facts = {
        "params": refresh_parts.params_digest(params),
        "evidence": refresher.evidence_digest,
        "plan": plan.hexdigest(),
        "mesh": dict(refresher.mesh.shape),
        "dtype": refresher.dtype,
        "width": refresher.width,
        "encode": hashlib.sha256(_encode_text(refresher, params)).hexdigest(),
        "device": f"{device.platform} {device.device_kind}",
        "jax": jax.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _encode_text(refresher: Refresher, params: Params) -> bytes:
    """Returns the program that embeds the rows of the longest bucket."""
    bucket = refresher.buckets[0]
    tokens = jax.ShapeDtypeStruct(
        (bucket.local_rows.shape[2], bucket.length), jnp.int32
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    return jax.jit(refresher.encode).lower(shapes, tokens).as_text().encode()
