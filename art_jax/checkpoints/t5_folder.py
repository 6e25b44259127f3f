"""A T5 trained here as a folder: sizes, weights, tokeniser, and what trained it.

config.json               the T5's settings, the method and its settings, how it went
t5.safetensors            float32 parameters by their path
tokenizer/                as `data.tokenizers` saves it
manifest.json
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from art_jax import atomic, manifest, partitioning
from art_jax.checkpoints import t5_params, tensors
from art_jax.checkpoints.json_files import read_object
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.checkpoints.tensor_files import open_safetensors, write_safetensors
from art_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params

# What a folder of `save_t5` is called where formats are told apart.
FORMAT = "a T5 of art_jax"
TOKENIZER = "tokenizer"

_KIND = "t5"
_CONFIG = "config.json"
_PARAMS = "t5.safetensors"
_ONE_FILE = 2**62  # bytes: never split


@dataclasses.dataclass(frozen=True)
class SavedT5:
    """A T5 with its weights, its tokeniser, and what a method made of it.

    config: of the T5.
    params: its parameters: arrays on the host or a mesh, or tensors that are unread.
    tokenizer: its own.
    method: the name of the method's class that trained it, such as "Jpr".
    settings: of the method, JSON values: what it needs to be used again.
    training: facts about how it was trained, JSON values.
    """

    config: T5Config
    params: Params
    tokenizer: Tokenizer
    method: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def save_t5(folder: pathlib.Path, saved: SavedT5) -> None:
    """Writes the folder, all of it or nothing; the first process alone writes."""
    flat = traverse_util.flatten_dict(saved.params, sep="/")
    arrays = {name: _on_host(value) for name, value in flat.items()}
    if jax.process_index() == 0:
        unfinished = atomic.new_directory(folder)
        config = {
            "t5": dataclasses.asdict(saved.config),
            "method": saved.method,
            "settings": dict(saved.settings),
            "training": dict(saved.training),
        }
        atomic.write_text(unfinished / _CONFIG, json.dumps(config, indent=1) + "\n")
        stem = _PARAMS.removesuffix(".safetensors")
        write_safetensors(unfinished, arrays, stem, max_shard_bytes=_ONE_FILE)
        save_tokenizer(saved.tokenizer, unfinished / TOKENIZER)
        manifest.write_manifest(unfinished, {"kind": _KIND})
        atomic.finish_directory(folder)
    partitioning.barrier("t5_saved")


def load_t5(
    folder: str | pathlib.Path, mesh: Mesh | None = None, *, dtype: str | None = None
) -> SavedT5:
    """Returns a T5, its parameters in memory.

    Args:
        folder: of `save_t5`, or the run that holds one.
        mesh: where the parameters go, split over its model axis; None: they are NumPy
            arrays.
        dtype: of parameters, activations and matmuls; None: as they were trained.

    Raises:
        ConfigError: there is none, or the mesh's model axis does not divide it.
        CorruptError: a file is missing or damaged, or does not fit the others.
    """
    opened = open_t5(folder)
    config, params = opened.config, opened.params
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    if mesh is None:
        params = tensors.to_host(params, dtype)
    else:
        params = t5_params.place_params(params, config, mesh, dtype or "float32")
    return dataclasses.replace(opened, config=config, params=params)


def open_t5(folder: str | pathlib.Path) -> SavedT5:
    """Returns what a folder holds, verified, its parameters unread.

    Args:
        folder: of `save_t5`, or the run that holds one.

    Raises:
        ConfigError: there is none.
        CorruptError: a file is missing or damaged, or of another version.
    """
    folder = find_t5(folder)
    manifest.verify_manifest(folder)
    held = read_facts(folder)
    try:
        sizes = dict(held["t5"])
        sizes["mlp_activations"] = tuple(sizes["mlp_activations"])
        config = T5Config(**sizes)
        facts = {name: held[name] for name in ("method", "settings", "training")}
    except (TypeError, KeyError) as error:
        raise CorruptError(
            f"{folder / _CONFIG} describes a T5 this art_jax does not know ({error}): "
            "use the art_jax that wrote it, or a newer one."
        ) from error
    flat = open_safetensors(folder / _PARAMS)
    params = traverse_util.unflatten_dict(flat, sep="/")
    require_shapes(params, t5.param_shapes(config), folder / _PARAMS)
    return SavedT5(config, params, load_tokenizer(folder / TOKENIZER), **facts)


def read_facts(folder: str | pathlib.Path) -> dict[str, Any]:
    """Returns what a folder says of itself: `t5`, `method`, `settings`, `training`.

    Args:
        folder: of `save_t5`, or the run that holds one.

    Raises:
        ConfigError: there is none.
        CorruptError: it cannot be read.
    """
    return read_object(find_t5(folder) / _CONFIG)


def load_tokenizer_of(path: str | pathlib.Path) -> Tokenizer:
    """Returns the tokeniser of a T5's folder, or of the run that holds one."""
    return load_tokenizer(find_t5(path) / TOKENIZER)


def settings_of(method: Any) -> dict[str, Any]:
    """Returns a method's settings as JSON values, without what it was trained on.

    Args:
        method: a dataclass; its fields that hold several dataclasses, such as sets of
            examples, are left out.
    """

    def is_data(value: object) -> bool:
        return isinstance(value, tuple | list) and any(
            dataclasses.is_dataclass(one) for one in value
        )

    return {
        field.name: _plain(getattr(method, field.name))
        for field in dataclasses.fields(method)
        if not is_data(getattr(method, field.name))
    }


def make_method(kind: type, settings: Mapping[str, Any]) -> Any:
    """Returns a method from what `settings_of` made of it.

    Args:
        kind: its dataclass; a field that is annotated with another one, or with that
            or None, is rebuilt as one too.
        settings: JSON values.

    Raises:
        ConfigError: a setting is none of the method's, so another art_jax wrote it.
    """
    values = {}
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(
                f"{kind.__name__} has no setting {name!r}: the model was trained by "
                "another art_jax; use that one, or a newer one."
            )
        if isinstance(value, Mapping):
            inner = (known[name], *typing.get_args(known[name]))
            value = make_method(next(filter(dataclasses.is_dataclass, inner)), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def find_t5(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the T5's folder, given it or the run it is in.

    Raises:
        ConfigError: neither is one.
    """
    path = pathlib.Path(path)
    for candidate in (path / "t5", path):
        atomic.recover_directory(candidate)
        if _is_t5(candidate):
            return candidate
    raise ConfigError(
        f"{path} holds no T5 that was trained here: give the MODEL_DIR of a finished "
        "`art-jax train` of a reranker or a reader, or its folder `t5`."
    )


def holds_t5(path: pathlib.Path) -> bool:
    """Whether `find_t5` finds one, be it damaged."""
    return any(_is_t5(folder) for folder in (path / "t5", path))


def _on_host(value: Any) -> np.ndarray:
    """An array, whole; of a mesh's, every process must ask for it."""
    is_on_mesh = isinstance(value, jax.Array)
    return partitioning.to_host(value) if is_on_mesh else np.asarray(value)


def _is_t5(folder: pathlib.Path) -> bool:
    """Whether a folder is a T5's; a file may be gone, which loading names."""
    others = (folder / name for name in (_CONFIG, manifest.MANIFEST_NAME))
    if (folder / _PARAMS).is_file():
        return any(other.is_file() for other in others)
    return manifest.says(folder, kind=_KIND)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    return list(value) if isinstance(value, tuple) else value
