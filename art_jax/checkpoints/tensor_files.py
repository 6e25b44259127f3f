"""Safetensors files: read lazily, written a tensor at a time."""

import json
import os
import pathlib
import struct
from collections.abc import Mapping

import ml_dtypes  # noqa: F401 (its import gives NumPy the name "bfloat16")
import numpy as np

from art_jax.checkpoints import json_files
from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import ConfigError, CorruptError

MAX_SHARD_BYTES = 5_000_000_000

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def open_safetensors(path: str | os.PathLike) -> dict[str, FileTensor]:
    """The tensors of a safetensors file, by name, unread.

    The file is mapped into memory and its header checked whole: no larger than 100
    MB, tensors side by side over all of the file's bytes, none over another.

    Raises:
        ConfigError: a tensor's dtype is none of NumPy's, nor bfloat16.
        CorruptError: the file is missing, damaged or made to mislead.
    """
    # Imported here: a training step must run where there is none.
    import safetensors

    path = pathlib.Path(path)
    try:
        reader = safetensors.safe_open(path, framework="numpy")
        parts = {name: reader.get_slice(name) for name in reader.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CorruptError(
            f"{path} cannot be read ({error}): copy it again from its source."
        ) from error
    return {name: _tensor(path, name, part) for name, part in parts.items()}


def _tensor(path: pathlib.Path, name: str, part) -> FileTensor:
    if part.get_dtype() not in _DTYPES:
        raise ConfigError(
            f"{path}: tensor {name!r} is of dtype {part.get_dtype()}, which is not "
            "read here: convert the file to F32, F16 or BF16 first."
        )
    dtype = np.dtype(_DTYPES[part.get_dtype()])

    def read(index: tuple[slice, ...]) -> np.ndarray:
        sizes = tuple(item.stop - item.start for item in index)
        # The library takes no empty slices.
        return part[index] if all(sizes) else np.empty(sizes, dtype)

    return FileTensor(tuple(part.get_shape()), dtype, read)


def write_safetensors(
    directory: str | os.PathLike,
    tensors: Mapping[str, FileTensor | np.ndarray],
    stem: str = "model",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors as `<stem>.safetensors`, or as shards and their index.

    Names and contents of the files are as transformers writes them. Memory holds one
    tensor at a time.

    Args:
        directory: exists.
        tensors: by name.
        stem: what the files' names start with.
        max_shard_bytes: of tensors in a file; a tensor larger than this has a file of
            its own.

    Raises:
        ConfigError: a tensor's dtype is none that is read here either.
    """
    directory = pathlib.Path(directory)
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write(directory / f"{stem}.safetensors", shards[0], tensors)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        _write(directory / file, names, tensors)
        weight_map.update(dict.fromkeys(names, file))
    sizes = {
        "total_parameters": sum(tensor.size for tensor in tensors.values()),
        "total_size": sum(map(_num_bytes, tensors.values())),
    }
    index = {"metadata": sizes, "weight_map": weight_map}
    json_files.write_object(directory / f"{stem}.safetensors.index.json", index)


def _shards(tensors: Mapping, max_shard_bytes: int) -> list[list[str]]:
    """The names that go into each file, in order."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        room -= _num_bytes(tensor)
        if room < 0 and shards[-1]:
            shards.append([])
            room = max_shard_bytes - _num_bytes(tensor)
        shards[-1].append(name)
    return shards


def _write(path: pathlib.Path, names: list[str], tensors: Mapping) -> None:
    """Writes one file, a tensor at a time.

    The library's own writer wants all tensors in memory, and leaves a file that only
    its owner may read.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # Wide values first, so that all of them are aligned.
    names = sorted(names, key=lambda name: -np.dtype(tensors[name].dtype).itemsize)
    end = 0
    for name in names:
        start, end = end, end + _num_bytes(tensors[name])
        header[name] = {
            "dtype": _code(name, tensors[name].dtype),
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            file.write(_bytes(tensors[name]))


def _bytes(tensor: FileTensor | np.ndarray) -> memoryview:
    """A tensor's values in the order of its shape, whatever its strides are."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def _code(name: str, dtype: np.dtype) -> str:
    codes = {np.dtype(ours): code for code, ours in _DTYPES.items()}
    if np.dtype(dtype) not in codes:
        raise ConfigError(
            f"tensor {name!r} is of dtype {dtype}: safetensors files are written with "
            f"{', '.join(_DTYPES.values())} only."
        )
    return codes[np.dtype(dtype)]


def _num_bytes(tensor: FileTensor | np.ndarray) -> int:
    return tensor.size * np.dtype(tensor.dtype).itemsize
