"""Native T5X checkpoints: a folder of zarr arrays beside a msgpack index.

Layout, as T5X writes it: `checkpoint` holds `{"version", "optimizer": {"target",
"state"}}`, whose leaves are arrays or the specs of zarr arrays in the same folder.
Older spellings of a spec are read too. Nothing here runs code from a file.
"""

import pathlib

import flax.serialization
import jax
import numpy as np
import tensorstore

from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params

VERSIONS = (2, 3)


def read_t5x(directory: str | pathlib.Path) -> dict:
    """Everything a checkpoint holds, as NumPy arrays.

    Args:
        directory: a step's folder, `checkpoint_<step>`.

    Returns:
        `{"target": parameters, "state": {"step": ..., "param_states": ...}}`, each
        array in the file's dtype.

    Raises:
        ConfigError: the folder is no native T5X checkpoint.
        CorruptError: a file is missing or damaged; the message names the array.
    """
    directory = pathlib.Path(directory)
    index = _read_index(directory)
    leaves, treedef = jax.tree.flatten(index, is_leaf=_is_spec)
    # All reads start before the first is waited for.
    leaves = [_open(directory, x) if _is_spec(x) else x for x in leaves]
    return treedef.unflatten([_finish(directory, leaf) for leaf in leaves])


def load_t5(directory: str | pathlib.Path, **changes) -> tuple[T5Config, Params]:
    """Reads the T5 of a native checkpoint; its sizes follow from the arrays.

    Args:
        directory: a step's folder, `checkpoint_<step>`.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters in the file's dtype.

    Raises:
        ConfigError: the folder is no native checkpoint of an unscanned T5.
        CorruptError: a file is missing or damaged, or shapes do not fit together.
    """
    params = read_t5x(directory)["target"]
    config = t5_config(params, directory, **changes)
    require_shapes(params, t5.param_shapes(config), directory)
    return config, params


def t5_config(params: Params, source: object, **changes) -> T5Config:
    """The T5Config that a T5X parameter tree is of, `changes` replacing fields.

    Raises:
        ConfigError: the tree is not of a T5 with unscanned layers.
    """
    try:
        encoder, decoder = params["encoder"], params["decoder"]
        vocab_size, emb_dim = params["token_embedder"]["embedding"].shape
        num_heads = encoder["relpos_bias"]["rel_embedding"].shape[0]
        mlp = encoder["layers_0"]["mlp"]
        joined = encoder["layers_0"]["attention"]["query"]["kernel"].shape[1]
    except KeyError as error:
        raise ConfigError(
            f"{source}: there is no {error} where a T5 with unscanned layers has it: "
            "it is of another model, or of scalable_t5 (scanned layers), which is "
            "not read."
        ) from error
    gated = "wi_0" in mlp

    def num_layers(stack: Params) -> int:
        return sum(name.startswith("layers_") for name in stack)

    fields = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": joined // num_heads,
        "mlp_dim": mlp["wo"]["kernel"].shape[0],
        "num_encoder_layers": num_layers(encoder),
        "num_decoder_layers": num_layers(decoder),
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "logits_dense" not in decoder,
    }
    return T5Config(**{**fields, **changes})


def _read_index(directory: pathlib.Path) -> dict:
    path = directory / "checkpoint"
    if not path.is_file():
        raise ConfigError(
            f"{directory} holds no file named checkpoint, so it is no native T5X "
            "checkpoint: point to a folder checkpoint_<step> of one."
        )
    try:
        index = flax.serialization.msgpack_restore(path.read_bytes())
        version, tree = index["version"], index["optimizer"]
    except Exception as error:  # msgpack raises its own, ValueError, KeyError, ...
        raise CorruptError(
            f"{path} is no index of a T5X checkpoint ({error!r}): copy it again from "
            "its source."
        ) from error
    if version not in VERSIONS:
        raise CorruptError(
            f"{path} is of version {version}; versions {VERSIONS} can be read."
        )
    return tree


def _is_spec(leaf: object) -> bool:
    return isinstance(leaf, dict) and leaf.get("driver") == "zarr"


def _open(directory: pathlib.Path, spec: dict):
    """Starts reading the array of a spec; returns its name and the read's future."""
    # tensorstore before 0.1.14 kept the path beside the kvstore. The driver of the
    # kvstore is where T5X wrote, not where the folder is now.
    path = spec.get("path") or spec.get("kvstore", {}).get("path", "")
    name = pathlib.PurePosixPath(path).name
    if name in ("", "..") or name != str(path).rstrip("/"):
        raise CorruptError(
            f"{directory}: its index points to {path!r}, where the name of a folder "
            "beside it belongs: the index is damaged or was tampered with."
        )
    store = {"driver": "file", "path": f"{directory.absolute() / name}/"}
    try:
        array = tensorstore.open(
            # A chunk that is missing would otherwise read as zeros.
            {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False},
            open=True,
        ).result()
    except ValueError as error:
        raise _damaged(directory, name, error) from error
    shape = spec.get("metadata", {}).get("shape", array.shape)
    if tuple(shape) != tuple(array.shape):
        raise CorruptError(
            f"{directory}: array {name!r} is {array.shape} on disk and {tuple(shape)} "
            "in the index: files of two checkpoints are mixed."
        )
    return name, array.read()


def _finish(directory: pathlib.Path, leaf):
    if not isinstance(leaf, tuple):
        return np.asarray(leaf)
    name, future = leaf
    try:
        return future.result()
    except ValueError as error:
        raise _damaged(directory, name, error) from error


def _damaged(directory: pathlib.Path, name: str, error: Exception) -> CorruptError:
    return CorruptError(
        f"{directory}: array {name!r} cannot be read ({error}): copy it again from "
        "its source."
    )
