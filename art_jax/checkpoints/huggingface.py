"""Hugging Face model folders in and out: BERT, MegatronBERT, DPR's towers and T5.

A folder is config.json beside tensors. Reading gives a configuration of ours and a
tree of tensors that are still in their files, in the files' dtype; `tensors.to_host`
and `tensors.to_devices` read and cast them. Nothing here runs code from a file.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from art_jax.checkpoints import hf_configs, names, tensor_files
from art_jax.checkpoints import tensors as file_tensors
from art_jax.checkpoints.hf_configs import Settings
from art_jax.checkpoints.json_files import read_object
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.checkpoints.tensors import FileTensor
from art_jax.checkpoints.weights import to_params
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert, t5
from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config
from art_jax.types import Params

_BERT_KINDS = ("bert", "megatron-bert")
_T5_KINDS = ("t5",)
_DPR_ENCODERS = ("question_encoder", "ctx_encoder")
_COMPARED_BYTES = 2**24


def open_tensors(folder: str | os.PathLike) -> dict[str, FileTensor]:
    """All tensors of a model folder, by their names there, unread.

    Raises:
        ConfigError: the folder holds no file of tensors.
        CorruptError: a file is missing or damaged, or an index names files outside
            the folder.
    """
    folder = pathlib.Path(folder)
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if single.exists():
        found = tensor_files.open_safetensors(single)
    elif index.exists():
        found = _open_shards(index, tensor_files.open_safetensors)
    else:
        raise ConfigError(
            f"{folder} holds neither {single.name} nor {index.name}: point to a folder "
            "that does."
        )
    # Files converted from TensorFlow keep its names of the two.
    return {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in found.items()
    }


def open_bert(folder: str | os.PathLike, **changes) -> tuple[BertConfig, Params]:
    """Opens a BertModel or MegatronBertModel, or the one inside a model with a head.

    Args:
        folder: holds config.json and tensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters unread, in the file's dtype.

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = hf_configs.read_settings(folder, *_BERT_KINDS)
    config = hf_configs.bert_config(settings)
    tensors = open_tensors(folder)
    prefix = _bert_prefix(tensors, folder)
    _require_layers(tensors, f"{prefix}encoder.layer.", settings, "num_hidden_layers")
    has_pooler = f"{prefix}pooler.dense.weight" in tensors
    config = dataclasses.replace(config, **{"add_pooler": has_pooler, **changes})
    params = to_params(names.bert_weights(config, prefix), tensors, folder)
    require_shapes(params, bert.param_shapes(config), folder)
    return config, params


def open_dpr(folder: str | os.PathLike, **changes) -> tuple[BertConfig, int, Params]:
    """Opens a DPRQuestionEncoder or DPRContextEncoder.

    Args:
        folder: holds config.json and tensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, `projection_dim` and one tower's parameters (see
        dual_encoder.py), unread, in the file's dtype; DPR's pooling is "cls".

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = hf_configs.read_settings(folder, "dpr")
    config = hf_configs.bert_config(settings)
    projection_dim = settings.size("projection_dim", least=0, default=0)
    tensors = open_tensors(folder)
    encoder, _, rest = _bert_prefix(tensors, folder).partition(".")
    if encoder not in _DPR_ENCODERS or rest != "bert_model.":
        raise ConfigError(
            f"{folder}: its BERT is named {encoder!r}, and DPR's two encoders are "
            f"{' and '.join(_DPR_ENCODERS)}: this is another model of DPR's, such as "
            "its reader."
        )
    _require_layers(
        tensors, f"{encoder}.{rest}encoder.layer.", settings, "num_hidden_layers"
    )
    config = dataclasses.replace(config, **changes)
    weights = names.dpr_weights(config, projection_dim, encoder)
    tower = to_params(weights, tensors, folder)
    require_shapes(tower["encoder"], bert.param_shapes(config), folder)
    return config, projection_dim, tower


def open_t5(folder: str | os.PathLike, **changes) -> tuple[T5Config, Params]:
    """Opens a T5ForConditionalGeneration: T5, LM-adapted T5, T0, Flan-T5.

    Args:
        folder: holds config.json and tensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters in T5X's tree, unread, in the file's
        dtype.

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = hf_configs.read_settings(folder, *_T5_KINDS)
    config = hf_configs.t5_config(settings)
    tensors = open_tensors(folder)
    _require_layers(tensors, "encoder.block.", settings, "num_layers")
    _require_layers(
        tensors, "decoder.block.", settings, "num_decoder_layers", "num_layers"
    )
    _require_same_tie(config, tensors, folder)
    config = dataclasses.replace(config, **changes)
    params = to_params(names.t5_weights(config), tensors, folder)
    require_shapes(params, t5.param_shapes(config), folder)
    return config, params


def load_t5(folder: str | os.PathLike, **changes) -> tuple[T5Config, Params]:
    """`open_t5`, read whole."""
    config, params = open_t5(folder, **changes)
    return config, file_tensors.to_host(params)


def _open_shards(index: pathlib.Path, open_file) -> dict[str, FileTensor]:
    """The tensors that an index says are in files beside it."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptError(f"{index} has no weight_map: copy it again from its source.")
    for name, file in weight_map.items():
        # A name alone: an index must not lead out of its folder.
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*", file):
            raise CorruptError(
                f"{index}: tensor {name!r} is said to be in {file!r}, which is not the "
                "name of a file beside it: get the model from a source you trust."
            )
    shards = {file: open_file(index.parent / file) for file in set(weight_map.values())}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise CorruptError(
                f"{index.parent / file} holds no tensor {name!r}, where {index.name} "
                "says it is: copy both again from their source."
            )
    return {name: shards[file][name] for name, file in weight_map.items()}


def _bert_prefix(tensors: Iterable[str], source: object) -> str:
    """What stands before BERT's own names, such as "ctx_encoder.bert_model."."""
    anchor = names.WORD_EMBEDDINGS
    prefixes = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    if len(prefixes) != 1:
        raise CorruptError(
            f"{source}: {len(prefixes)} tensors are named {anchor!r}, with or without "
            "a prefix, where a BERT has one: this is another kind of model."
        )
    return prefixes[0]


def _require_layers(
    tensors: Iterable[str], prefix: str, settings: Settings, *keys: str
) -> None:
    """Checks a config's number of layers, under the first key it has, by names."""
    key = next((key for key in keys if settings.values.get(key) is not None), keys[-1])
    pattern = re.compile(rf"{re.escape(prefix)}([0-9]{{1,6}})\.")
    matches = map(pattern.match, tensors)
    held = len({int(match[1]) for match in matches if match})
    if held != settings.values[key]:
        raise CorruptError(
            f"{settings.path}: {key} is {settings.values[key]}, and the tensors named "
            f"{prefix}* are of {held} layers: the files are of two models, or cut "
            "short."
        )


def _require_same_tie(
    config: T5Config, tensors: Mapping[str, FileTensor], source: object
) -> None:
    """Checks that a T5's logits are tied to its embeddings as its config says."""
    head = tensors.get(names.T5_HEAD)
    shared = tensors.get(names.T5_EMBEDDINGS)
    tied = head is None or (shared is not None and _are_equal(head, shared))
    scaled = config.logits_via_embedding
    if tied != scaled:
        raise ConfigError(
            f"{source}: logits are {'' if tied else 'not '}tied to the embeddings and "
            f"{'' if scaled else 'not '}scaled. T5 v1.0 does both, v1.1 neither: "
            "compare scale_decoder_outputs and tie_word_embeddings of config.json "
            "with the model's own."
        )


def _are_equal(one: FileTensor, other: FileTensor) -> bool:
    """Whether two tensors hold the same, read in pieces up to the first difference."""
    if (one.shape, one.dtype) != (other.shape, other.dtype) or not one.ndim:
        return False
    row_bytes = max(1, one.size // one.shape[0] * one.dtype.itemsize)
    step = max(1, _COMPARED_BYTES // row_bytes)
    rest = tuple(slice(0, size) for size in one.shape[1:])
    pieces = (
        (slice(start, min(start + step, one.shape[0])), *rest)
        for start in range(0, one.shape[0], step)
    )
    return all(np.array_equal(one.read(part), other.read(part)) for part in pieces)
