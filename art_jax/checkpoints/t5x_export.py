"""Writes a T5 in T5X's native checkpoint format, version 3."""

import math
import pathlib
from collections.abc import Sequence

import flax.serialization
import jax
import numpy as np
import tensorstore

from art_jax.checkpoints import t5x_scan, tensors
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.errors import ConfigError
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params

VERSION = 3
DTYPES = ("float32", "bfloat16")
CHUNK_BYTES = 64 * 2**20
_COMPRESSOR = {"id": "gzip", "level": 1}


def save_t5(
    folder: str | pathlib.Path,
    config: T5Config,
    params: Params,
    *,
    step: int,
    dtype: str = "float32",
    scanned: bool | None = None,
) -> None:
    """Writes the checkpoint `folder`, which T5X calls `checkpoint_<step>`.

    T5X restores it for evaluation and inference as it is. Its finetune.gin wants an
    optimiser's state too, and needs to be told that there is none:

        utils.RestoreCheckpointConfig:
            assignment_map = ((r'state/param_states.*', None),)
            fallback_to_scratch = True

    That T5X restores it is not tested with T5X, which no package registry has. Tests
    hold that of parameters that T5X itself has saved, as float32 and bfloat16, scanned
    and not, this writes the same files: names, index and metadata byte for byte, and
    the same bytes in each chunk. T5X of those tests restored its own.

    One array at a time is in host memory, with its chunks and what they are compressed
    to: some 3.5 times the largest array. Scanned, that is one of all layers.
    Another process must not write there at the same time, and nothing is flushed to
    disk: fill a folder of `atomic.new_directory` and give it a manifest.

    Args:
        folder: new or empty.
        config: of the T5.
        params: its parameters; arrays, or `FileTensor`s of any format.
        step: which training step the parameters are of. T5X goes on counting there.
        dtype: to store them in, "float32" or "bfloat16".
        scanned: write scanned layers, for examples/scalable_t5; a table of relative
            position biases that layers share is then repeated in each. None: where
            `config.relpos_bias_per_layer`, which cannot be written otherwise.

    Raises:
        ConfigError: the folder holds something, or the arguments do not fit.
        CorruptError: the parameters are not of `config`, or damaged in their file.
    """
    folder = pathlib.Path(folder).resolve()
    scanned = config.relpos_bias_per_layer if scanned is None else scanned
    _check(folder, config, step, dtype, scanned)
    require_shapes(params, t5.param_shapes(config), "the parameters to save")
    target = t5x_scan.stack_layers(params, config) if scanned else params
    folder.mkdir(parents=True, exist_ok=True)
    specs = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _write_array(folder, path, leaf, dtype), target
    )
    state = {"step": np.array(step, np.int32)}
    index = {"version": VERSION, "optimizer": {"state": state, "target": specs}}
    # Last, so that no folder that has it is unfinished. In place: a copy
    # would have its keys in another order than T5X's.
    data = flax.serialization.msgpack_serialize(index, in_place=True)
    (folder / "checkpoint").write_bytes(data)


def choose_chunks(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The shape of an array's chunks: equal parts, of at most 64 MiB.

    While a chunk is larger, its longest side, the first of equals, becomes the next
    smaller divisor of the array's.

    Source: T5X, `checkpoints.py`.
    """
    chunks = list(shape)
    while math.prod(chunks) * itemsize > CHUNK_BYTES:
        axis = chunks.index(max(chunks))
        sizes = range(chunks[axis] - 1, 0, -1)
        chunks[axis] = next(size for size in sizes if shape[axis] % size == 0)
    return tuple(chunks)


def _check(
    folder: pathlib.Path, config: T5Config, step: int, dtype: str, scanned: bool
) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}: it must be one of {DTYPES}.")
    if not 0 <= step < 2**31:
        raise ConfigError(f"step is {step}: T5X stores 0 to 2**31 - 1.")
    if config.relpos_bias_per_layer and not scanned:
        raise ConfigError(
            "this T5 has relative position biases in every layer, which T5X stores "
            "with scanned layers only: leave scanned out, or make it True."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: give a new folder.")


def _write_array(folder: pathlib.Path, path: tuple, leaf, dtype: str) -> dict:
    """Writes one array; returns its spec in the index, keys in T5X's order."""
    name = ".".join(["target", *(entry.key for entry in path)])
    array = tensors.to_host(leaf, dtype)
    chunks = choose_chunks(array.shape, array.dtype.itemsize)
    metadata = {
        "chunks": list(chunks),
        "compressor": _COMPRESSOR,
        "shape": list(array.shape),
    }
    zarr_dtype = "bfloat16" if dtype == "bfloat16" else array.dtype.str
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder / name}/"},
        "metadata": {**metadata, "dtype": zarr_dtype},
        # Who writes the manifest flushes every file, once.
        "context": {"file_io_sync": False},
    }
    tensorstore.open(spec, create=True).result().write(array).result()
    return {
        "driver": "zarr",
        "dtype": dtype,
        "kvstore": {"driver": "file", "path": f"{name}/"},
        "metadata": metadata,
    }
