"""Reads T5X checkpoints, an array at a time: its native format and its Orbax one.

Native, of which every published checkpoint is: `checkpoint_<step>/checkpoint` is a
msgpack index `{"version", "optimizer": {"target", "state"}}`, whose leaves are arrays
or the specs of zarr arrays in the same folder. Older spellings of a spec are read too.

Orbax, today's default of T5X: `checkpoint_<step>/state/` is an OCDBT database of zarr
arrays named `target.encoder...kernel`.

Opening reads indices and shapes, never values. What a file says is not trusted: its
sizes are held against its bytes, and nothing in it can name another folder.
"""

import math
import pathlib
import re
from collections.abc import Collection

import jax
import msgpack
import numpy as np
import tensorstore

from art_jax.checkpoints import t5x_scan, tensors
from art_jax.checkpoints.param_shapes import require_shapes, shapes_by_path
from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params

VERSIONS = (2, 3)

_FLOATS = ("float32", "bfloat16", "float16", "float64")

# zstd's best: a block of 128 KiB in 4 bytes. No codec of zarr v2 does better, so an
# array that says it is larger is none that its files could hold.
_MAX_COMPRESSION = 2**15
_MAX_DEPTH = 64
_MAX_RANK = 32

# flax's extension types and its mark of an array that is stored in pieces.
_NDARRAY, _SCALAR = 1, 3
_IN_PIECES = "__msgpack_chunked_array__"

_WAY_OUT = "copy it again from its source."


def open_t5x(
    folder: str | pathlib.Path, parts: Collection[str] = ("target", "state")
) -> dict:
    """Opens a checkpoint; values stay in its files until a tensor is read.

    A chunk that is missing is an error where it is read, and so is one that its gzip
    checksum finds damaged. Chunks of zstd, which T5X writes from several devices and
    in its Orbax form, carry no checksum.

    Args:
        folder: of one step, `checkpoint_<step>`, in either format.
        parts: which of "target", the parameters, and "state", the step and the
            optimiser's state, to open.

    Returns:
        `{"target": parameters, "state": {"step": ..., "param_states": ...}}`: nested
        dicts of `FileTensor`s in the file's dtypes; None where T5X has nothing.

    Raises:
        ConfigError: the folder is no T5X checkpoint.
        CorruptError: a file is missing, damaged or hostile; the message names the
            array.
    """
    folder = pathlib.Path(folder).resolve()  # tensorstore takes no "..".
    if not _is_step(folder):
        steps = ", ".join(path.name for path in _steps(folder))
        raise ConfigError(
            f"{folder} is no T5X checkpoint: it holds neither the file checkpoint nor "
            "the folder state of one. Point to a folder checkpoint_<step>"
            + (f", one of: {steps}." if steps else ".")
        )
    if (folder / "checkpoint").is_file():
        opened = _open_native(folder, parts)
    else:
        opened = _open_orbax(folder / "state", parts)
    for part in parts:
        if not isinstance(opened.get(part), dict):
            raise CorruptError(f"{folder}: its index has no {part!r}: {_WAY_OUT}")
    return opened


def open_t5(folder: str | pathlib.Path, **changes) -> tuple[T5Config, Params]:
    """Opens the T5 of a checkpoint; the optimiser's state is not touched.

    Its sizes follow from the arrays. Its activations do not: gated MLPs are taken for
    v1.1's ("gelu", "linear"), others for v1.0's ("relu",), unless `changes` says so.

    Args:
        folder: of one step, `checkpoint_<step>`, in either format, of layers that are
            scanned (examples/scalable_t5) or not.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters in our tree, a dict of `FileTensor`s in
        the file's dtype; scanned layers as `t5x_scan` splits them.

    Raises:
        ConfigError: the folder is no T5X checkpoint, or not of a T5.
        CorruptError: a file is missing or damaged, or shapes do not fit together.
    """
    params = t5x_scan.split_layers(open_t5x(folder, ("target",))["target"], folder)
    config = t5_config(params, folder, **changes)
    require_shapes(params, t5.param_shapes(config), folder)
    _require_floats(params, folder)
    return config, params


def is_t5x(path: str | pathlib.Path) -> bool:
    """Whether a path is a T5X checkpoint, or a training run's folder of some."""
    path = pathlib.Path(path)
    return _is_step(path) or bool(_steps(path))


def find_step(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the checkpoint at a path: itself, or the newest in a training folder.

    Args:
        path: a folder `checkpoint_<step>`, or one that holds several.

    Raises:
        ConfigError: neither is there.
    """
    path = pathlib.Path(path)
    if _is_step(path):
        return path
    steps = _steps(path)
    if not steps:
        raise ConfigError(
            f"{path} holds no T5X checkpoint: point to a folder checkpoint_<step>, or "
            "to the folder of a training run that has some."
        )
    return steps[-1]


def t5_config(params: Params, source: object, **changes) -> T5Config:
    """The T5Config that a tree of unscanned layers is of, `changes` replacing fields.

    Raises:
        ConfigError: the tree is not of a T5.
    """
    shapes = shapes_by_path(params)

    def sizes(path: str) -> tuple[int, int]:
        shape = shapes.get(path, ())
        if len(shape) != 2 or min(shape) < 1:
            found = f"of shape {shape}" if path in shapes else "missing"
            raise ConfigError(
                f"{source} is of no T5: its {path!r} is {found}, where a T5 has a "
                "matrix. Point to a checkpoint of a T5, encoder and decoder."
            )
        return shape

    if "decoder/decoder_norm/scale" not in shapes:
        raise ConfigError(
            f"{source} has no decoder: it is of an encoder alone, or of another model. "
            "Point to a checkpoint of a T5, encoder and decoder."
        )

    def num_layers(stack: str) -> int:
        layers = (re.match(rf"{stack}/(layers_\d+)/", path) for path in shapes)
        return len({match[1] for match in layers if match})

    vocab_size, emb_dim = sizes("token_embedder/embedding")
    per_layer = "encoder/layers_0/relpos_bias/rel_embedding" in shapes
    relpos = "encoder/layers_0/relpos_bias" if per_layer else "encoder/relpos_bias"
    num_heads, _ = sizes(f"{relpos}/rel_embedding")
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    fields = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": sizes("encoder/layers_0/attention/query/kernel")[1] // num_heads,
        "mlp_dim": sizes("encoder/layers_0/mlp/wo/kernel")[0],
        "num_encoder_layers": num_layers("encoder"),
        "num_decoder_layers": num_layers("decoder"),
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
        "relpos_bias_per_layer": per_layer,
    }
    return T5Config(**{**fields, **changes})


def _is_step(folder: pathlib.Path) -> bool:
    files = (folder / "checkpoint", folder / "state" / "manifest.ocdbt")
    return any(file.is_file() for file in files)


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a training run's folder, oldest first."""
    # T5X writes into checkpoint_<step>.tmp-<time> and renames it at the end.
    matches = ((re.fullmatch(r"checkpoint_(\d+)", p.name), p) for p in folder.glob("*"))
    steps = [(int(match[1]), path) for match, path in matches if match]
    return [path for _, path in sorted(steps) if _is_step(path)]


def _require_floats(params: Params, source: object) -> None:
    """Raises CorruptError for what T5X before version 3 made of bfloat16: uint16."""
    wrong = {leaf.dtype.name for leaf in jax.tree.leaves(params)} - set(_FLOATS)
    if wrong:
        raise CorruptError(
            f"{source}: there are parameters of {', '.join(sorted(wrong))}, where "
            f"weights are of {', '.join(_FLOATS)}. T5X refuses such files too: "
            "convert the original again."
        )


# The native format.


def _open_native(folder: pathlib.Path, parts: Collection[str]) -> dict:
    index = _read_index(folder / "checkpoint")

    def open_node(node, path: tuple[str, ...]):
        if isinstance(node, dict) and node.get("driver") == "zarr":
            return _open_array(folder, node)
        if isinstance(node, dict) and _IN_PIECES in node:
            node = _join_pieces(node, folder)
        if isinstance(node, dict) and len(path) < _MAX_DEPTH:
            return {key: open_node(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, bool | int | float | np.ndarray):
            return tensors.from_array(np.asarray(node))
        if node is None:
            return None
        raise CorruptError(
            f"{folder}: {'/'.join(path)[:200]!r} of its index is no array, or it is "
            f"nested deeper than {_MAX_DEPTH}: {_WAY_OUT}"
        )

    return {part: open_node(index[part], (part,)) for part in parts if part in index}


def _read_index(path: pathlib.Path) -> dict:
    try:
        content = _unpack(path.read_bytes())
        version, tree = content["version"], content["optimizer"]
        if not isinstance(tree, dict):
            raise TypeError("its optimizer is no map")
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path} is no index of a T5X checkpoint ({error!r}): {_WAY_OUT}"
        ) from error
    if version not in VERSIONS:
        raise CorruptError(
            f"{path} is of version {version!r}; versions {VERSIONS} can be read."
        )
    return tree


def _unpack(data: bytes):
    # A list is a shape; msgpack makes room for as many items as a list says it has,
    # before it finds that they are not there.
    return msgpack.unpackb(data, max_array_len=_MAX_RANK, ext_hook=_unpack_array)


def _unpack_array(code: int, data: bytes) -> np.ndarray:
    if code not in (_NDARRAY, _SCALAR):
        raise ValueError(f"extension type {code}")
    shape, dtype, values = _unpack(data)
    if not re.fullmatch(r"bool|bfloat16|(float|u?int)\d+", dtype):
        raise ValueError(f"dtype {dtype!r}")
    return _reshape(np.frombuffer(values, np.dtype(dtype)), shape)


def _reshape(values: np.ndarray, shape: list[int]) -> np.ndarray:
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return values.reshape(shape)


def _join_pieces(node: dict, folder: pathlib.Path) -> np.ndarray:
    """The array of a map {"shape", "chunks"}, each a map from "0", "1", ... ."""
    try:
        shape, pieces = (
            [node[key][str(i)] for i in range(len(node[key]))]
            for key in ("shape", "chunks")
        )
        return _reshape(np.concatenate(pieces), shape)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{folder}: an array in pieces of its index does not fit together "
            f"({error!r}): {_WAY_OUT}"
        ) from error


def _open_array(folder: pathlib.Path, spec: dict) -> FileTensor:
    """Opens the zarr array of a spec in the index."""
    try:
        # tensorstore before 0.1.14 kept the path beside the kvstore. The driver of
        # the kvstore is where T5X wrote, not where the folder is now.
        path = spec.get("path") or spec.get("kvstore", {}).get("path", "")
        name = pathlib.PurePosixPath(path).name
        shape = spec.get("metadata", {}).get("shape")
        is_inside = name == path.rstrip("/") and name not in ("", "..")
    except (AttributeError, TypeError) as error:
        raise CorruptError(
            f"{folder}: its index has a spec that is none ({spec}): {_WAY_OUT}"
        ) from error
    if not is_inside:
        raise CorruptError(
            f"{folder}: its index points to {path!r}, where the name of a folder "
            "beside it belongs: the index is damaged or was tampered with."
        )
    kvstore = {"driver": "file", "path": f"{folder / name}/"}
    tensor = _open_zarr(kvstore, name, folder, _file_bytes(folder / name))
    if shape is not None and shape != list(tensor.shape):
        raise CorruptError(
            f"{folder}: array {name!r} is {tensor.shape} on disk and {shape} in the "
            "index: files of two checkpoints are mixed."
        )
    return tensor


# The Orbax format.


def _open_orbax(folder: pathlib.Path, parts: Collection[str]) -> dict:
    base = {"driver": "file", "path": f"{folder}/"}
    stored_bytes = _file_bytes(folder)
    try:
        database = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        keys = [key.decode() for key in database.list().result()]
    except ValueError as error:
        raise CorruptError(
            f"{folder} is no OCDBT database ({error}): {_WAY_OUT}"
        ) from error
    tree: dict = {}
    for key in keys:
        name = key.removesuffix("/.zarray")
        if name == key or name.split(".")[0] not in parts:
            continue
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        tensor = _open_zarr(kvstore, name, folder, stored_bytes)
        _put(tree, name.split("."), tensor, folder)
    return tree


def _put(tree: dict, path: list[str], tensor: FileTensor, source: object) -> None:
    """Puts a tensor into nested dicts."""
    *parents, leaf = path
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf in node or len(path) > _MAX_DEPTH:
        raise CorruptError(
            f"{source}: array {'.'.join(path)[:200]!r} lies within another array, or "
            f"deeper than {_MAX_DEPTH}: {_WAY_OUT}"
        )
    node[leaf] = tensor


# Zarr arrays, of both formats.


def _open_zarr(
    kvstore: dict, name: str, source: pathlib.Path, stored_bytes: int
) -> FileTensor:
    """Opens an array; `stored_bytes` bounds what its files hold, compressed."""
    # A chunk that is missing would otherwise read as zeros.
    spec = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}

    def damaged(error: Exception) -> CorruptError:
        return CorruptError(
            f"{source}: array {name!r} cannot be read ({error}): {_WAY_OUT}"
        )

    try:
        array = tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise damaged(error) from error
    dtype = array.dtype.numpy_dtype
    chunk = array.chunk_layout.read_chunk.shape or ()  # None for a single value
    num_bytes = max(math.prod(array.shape), math.prod(chunk)) * dtype.itemsize
    if num_bytes > stored_bytes * _MAX_COMPRESSION:
        raise CorruptError(
            f"{source}: array {name!r} of shape {array.shape} in chunks {chunk} takes "
            f"{num_bytes} bytes, and its files have {stored_bytes}: {_WAY_OUT}"
        )

    def read(index: tensors.Index) -> np.ndarray:
        try:
            return array[index].read().result()
        except ValueError as error:
            raise damaged(error) from error

    return FileTensor(tuple(array.shape), dtype, read)


def _file_bytes(folder: pathlib.Path) -> int:
    """The bytes of all files under a folder.

    Raises:
        CorruptError: there is something else: to read a pipe would wait for ever.
    """
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            total += path.stat().st_size
        elif not path.is_dir():
            raise CorruptError(f"{path} is no file: {_WAY_OUT}")
    return total
