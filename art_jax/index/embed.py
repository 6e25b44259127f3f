"""Embedding the evidence: each device embeds the rows it holds, no communication.

Which rows a call embeds is put on the devices once, before the first call. After that
a call sends each device four bytes, the call's number, where the tokens are in device
memory, and the tokens of its rows where they are streamed; these are read and copied
by a thread while the call before computes.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax import partitioning
from art_jax.errors import DivergedError
from art_jax.index.buckets import Bucket
from art_jax.index.int8_rows import Int8Rows, quantize_rows
from art_jax.index.read_ahead import read_ahead
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.types import Params

EncodeFn = Callable[[Params, jax.Array], jax.Array]  # params, [B, L] -> [B, D]
# A table's embeddings [N padded, D] and, where it has them, the same in eight bits.
TableArrays = tuple[jax.Array, Int8Rows | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """Rows that every shard embeds together, one call of a bucket.

    bucket: whose `local_rows[:, index]` these are.
    placed_rows: the bucket's `local_rows`, split over the devices.
    index: of the call within the bucket.
    """

    bucket: Bucket
    placed_rows: jax.Array
    index: int

    @property
    def local_rows(self) -> np.ndarray:
        """[shards, C] int32, as in `Bucket`."""
        return self.bucket.local_rows[:, self.index]

    @property
    def num_rows(self) -> int:
        """How many slots, over all shards, hold a row."""
        return int(self.bucket.num_rows[self.index])


def place_calls(buckets: Sequence[Bucket], mesh: Mesh) -> list[Call]:
    """Returns the calls of all buckets in order, their rows put on the devices."""
    calls = []
    for bucket in buckets:
        placed = partitioning.put_global(
            bucket.local_rows, partitioning.row_sharding(mesh)
        )
        calls += [Call(bucket, placed, i) for i in range(bucket.local_rows.shape[1])]
    return calls


def default_chunk_tokens() -> int:
    """Returns how many tokens a device of this kind had best embed at a time.

    On a CPU the activations then stay in its cache: on two cores with 32 MiB of it a
    BERT-base takes 1,024 tokens at more than twice the speed of 16,384. Unmeasured on
    accelerators, which need enough to keep their matrix units busy.
    """
    return 1024 if jax.default_backend() == "cpu" else 16_384


def empty_arrays(
    num_padded: int, width: int, dtype: str, mesh: Mesh, *, int8: bool = False
) -> TableArrays:
    """Returns the arrays of a table of zeros, split over every device.

    Args:
        num_padded: rows, those of padding included.
        width: D.
        dtype: of the embeddings.
        mesh: where to.
        int8: make rows in eight bits, too.
    """
    return _build_empty(num_padded, width, dtype, mesh, int8)()


def embed_calls(
    encode: EncodeFn,
    params: Params,
    rows: DeviceRows | HostRows,
    calls: Sequence[Call],
    arrays: TableArrays,
    *,
    mesh: Mesh,
    on_progress: Callable[[int], None] = lambda num_rows: None,
    on_values: Callable[[Call, jax.Array], None] = lambda call, values: None,
) -> TableArrays:
    """Returns a table's arrays with the rows of some calls embedded anew.

    Args:
        encode: (params, tokens [B, L] int32) -> [B, D] float32, without dropout.
        params: the encoder's parameters, whole on every device.
        rows: the evidence's tokens.
        calls: from `place_calls`, equal on every process.
        arrays: donated; rows of other calls stay as they are.
        mesh: where rows and arrays are.
        on_progress: called with the number of rows done after each call; may raise
            to stop, in which case nothing is returned.
        on_values: called with each call once it is under way and what it gives,
            [shards, C, D] of the table's dtype, the first axis split over devices.

    Raises:
        DivergedError: an embedding is not finite.
    """
    num_bad = _build_counter(mesh)()
    done, before = 0, None
    with _tokens_of_calls(rows, calls) as tokens_of_calls:
        for call, tokens in zip(calls, tokens_of_calls, strict=True):
            length = call.bucket.length if isinstance(rows, DeviceRows) else None
            arrays, num_bad, values = build_write(encode, length, mesh)(
                params, tokens, call.placed_rows, np.int32(call.index), arrays, num_bad
            )
            on_values(call, values)
            # Wait for the call before, so that one computes while the next is made
            # and progress is never ahead of the device by more than that.
            if before is not None:
                jax.block_until_ready(before)
                on_progress(done)
            before = values
            done += call.num_rows
    total_bad = int(partitioning.to_host(num_bad).sum())
    on_progress(done)
    if total_bad:
        raise DivergedError(
            f"{total_bad} of {done} passage embeddings are not finite: the weights of "
            "the passage encoder have diverged; go back to an earlier checkpoint and "
            "lower the learning rate."
        )
    return arrays


def write_values(
    call: Call, values: jax.Array, arrays: TableArrays, *, mesh: Mesh
) -> TableArrays:
    """Returns a table's arrays with what a call gave before, not computed again.

    Args:
        call: whose rows they are.
        values: [shards, C, D], as `embed_calls` gave them to `on_values`.
        arrays: donated.
        mesh: where they are.
    """
    return _build_write_values(mesh)(
        values, call.placed_rows, np.int32(call.index), arrays
    )


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


@functools.lru_cache(maxsize=64)
def build_write(encode: EncodeFn, length: int | None, mesh: Mesh):
    """Returns what makes one call, jitted once a shape.

    Args:
        encode: as for `embed_calls`.
        length: tokens a row, to be taken from the rows in device memory. None: the
            tokens given are those of the call, [shards, C, L].
        mesh: where the rows are.

    Returns:
        `write(params, tokens, placed_rows, index, arrays, num_bad) -> (arrays, num_bad,
        values [shards, C, D])`; `num_bad` [shards] int32 counts rows that are not
        finite, and the last two arguments are donated.
    """
    rows, whole = PartitionSpec(partitioning.ROW_AXES), PartitionSpec()

    @functools.partial(jax.jit, donate_argnums=(4, 5))
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(whole, rows, rows, whole, rows, rows),
        out_specs=rows,
    )
    def write(params, tokens, rows_1NC, index, arrays, num_bad_1):
        shard_rows, dtype = arrays[0].shape[0], arrays[0].dtype
        rows_C = _rows_of_call(rows_1NC, index)
        is_row_C = rows_C < shard_rows
        if length is None:
            tokens_CL = tokens[0]
        else:
            picked = tokens[jnp.minimum(rows_C, shard_rows - 1), :length]
            tokens_CL = jnp.where(is_row_C[:, None], picked.astype(jnp.int32), 0)
        values_CD = encode(params, tokens_CL)
        is_bad_C = is_row_C & ~jnp.isfinite(values_CD).all(axis=-1)
        num_bad_1 += is_bad_C.sum(dtype=jnp.int32)[None]
        values_CD = values_CD.astype(dtype)
        return _scatter(arrays, rows_C, values_CD), num_bad_1, values_CD[None]

    return write


@contextlib.contextmanager
def _tokens_of_calls(
    rows: DeviceRows | HostRows, calls: Sequence[Call]
) -> Iterator[Iterator[jax.Array]]:
    """An iterator over the tokens each call takes: all, or its own read ahead."""
    if isinstance(rows, DeviceRows):
        yield (rows.tokens for _ in calls)
        return
    reads = (
        functools.partial(rows.chunk, call.local_rows, call.bucket.length)
        for call in calls
    )
    with read_ahead(reads) as tokens_of_calls:
        yield tokens_of_calls


@functools.lru_cache(maxsize=16)
def _build_empty(num_padded: int, width: int, dtype: str, mesh: Mesh, int8: bool):
    def empty() -> TableArrays:
        embeddings = jnp.zeros((num_padded, width), dtype)
        if not int8:
            return embeddings, None
        shapes = jax.eval_shape(quantize_rows, embeddings)
        return embeddings, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.jit(empty, out_shardings=partitioning.row_sharding(mesh))


@functools.lru_cache(maxsize=16)
def _build_counter(mesh: Mesh):
    return jax.jit(
        lambda: jnp.zeros(partitioning.num_row_shards(mesh), jnp.int32),
        out_shardings=partitioning.row_sharding(mesh),
    )


@functools.lru_cache(maxsize=16)
def _build_write_values(mesh: Mesh):
    rows, whole = PartitionSpec(partitioning.ROW_AXES), PartitionSpec()

    @functools.partial(jax.jit, donate_argnums=3)
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(rows, rows, whole, rows), out_specs=rows
    )
    def write(values_1CD, rows_1NC, index, arrays):
        return _scatter(arrays, _rows_of_call(rows_1NC, index), values_1CD[0])

    return write


def _rows_of_call(rows_1NC: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(rows_1NC[0], index, keepdims=False)


def _scatter(
    arrays: TableArrays, rows_C: jax.Array, values_CD: jax.Array
) -> TableArrays:
    """A shard's arrays with some rows replaced; slots past the shard are dropped."""
    embeddings_SD, int8_rows = arrays

    def put(whole, part):
        return whole.at[rows_C].set(part, mode="drop")

    if int8_rows is not None:
        int8_rows = jax.tree.map(put, int8_rows, quantize_rows(values_CD))
    return put(embeddings_SD, values_CD), int8_rows
