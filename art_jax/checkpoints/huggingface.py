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

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.checkpoints import (
    bert_form,
    hf_configs,
    hf_tokenizers,
    json_files,
    names,
    tensor_files,
    torch_files,
)
from art_jax.checkpoints.hf_configs import Settings
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.checkpoints.tensors import FileTensor
from art_jax.checkpoints.weights import Weight, to_params, to_tensors
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert, t5
from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config
from art_jax.types import Params

_BERT_KINDS = ("bert", "megatron-bert")
_DPR_CLASSES = {
    "question_encoder": "DPRQuestionEncoder",
    "ctx_encoder": "DPRContextEncoder",
}
# The folders, in one folder, of a retriever with two towers.
_TWO_FOLDERS = (
    ("question_encoder", "ctx_encoder"),
    ("query_encoder", "passage_encoder"),
)
_COMPARED_BYTES = 2**24
# transformers keeps a key of config.json that it does not know.
_FORM_KEY = "art_jax_form"


def open_tensors(folder: str | os.PathLike) -> dict[str, FileTensor]:
    """All tensors of a model folder, by their names there, unread.

    Raises:
        ConfigError: the folder holds no file of tensors.
        CorruptError: a file is missing or damaged, or an index names files outside
            the folder.
    """
    found = _open_files(pathlib.Path(folder))
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
    _require_fit(params, bert.param_shapes(config), folder)
    return _own_form(settings, config, params)


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
    if encoder not in _DPR_CLASSES or rest != "bert_model.":
        raise ConfigError(
            f"{folder}: its BERT is named {encoder!r}, and DPR's two encoders are "
            f"{' and '.join(_DPR_CLASSES)}: this is another model of DPR's, such as "
            "its reader."
        )
    _require_layers(
        tensors, f"{encoder}.{rest}encoder.layer.", settings, "num_hidden_layers"
    )
    config = dataclasses.replace(config, **changes)
    weights = names.dpr_weights(config, projection_dim, encoder)
    if bool(projection_dim) != (f"{encoder}.encode_proj.weight" in tensors):
        raise CorruptError(
            f"{settings.path}: projection_dim is {projection_dim}, and the tensors "
            f"hold {'no' if projection_dim else 'a'} projection: the files are of two "
            "models."
        )
    tower = to_params(weights, tensors, folder)
    _require_fit(tower, _tower_shapes(config, projection_dim), folder)
    config, params = _own_form(settings, config, tower["encoder"])
    return config, projection_dim, {**tower, "encoder": params}


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
    settings = hf_configs.read_settings(folder, "t5")
    config = hf_configs.t5_config(settings)
    tensors = open_tensors(folder)
    _require_layers(tensors, "encoder.block.", settings, "num_layers")
    _require_layers(
        tensors, "decoder.block.", settings, "num_decoder_layers", "num_layers"
    )
    if names.T5_EMBEDDINGS not in tensors:
        tensors = {**tensors, **_shared_embeddings(tensors)}
    _require_same_tie(config, tensors, folder)
    config = dataclasses.replace(config, **changes)
    params = to_params(names.t5_weights(config), tensors, folder)
    _require_fit(params, t5.param_shapes(config), folder)
    return config, params


def open_retriever(folder: str | os.PathLike) -> PretrainedRetriever:
    """Opens what Hugging Face folders hold of a retriever, its tokeniser included.

    Args:
        folder: of a BertModel, MegatronBertModel or Contriever, or of one of DPR's
            encoders, which then embeds both sides; or a folder of two such folders,
            question_encoder and ctx_encoder, or query_encoder and passage_encoder.

    Returns:
        The towers, each with BERT's pooler where its file has one, which no retriever
        uses. A BertModel does not say how to pool; DPR's encoders and Contriever do by
        being what they are.

    Raises:
        ConfigError: the folder is of another kind of model, or its two towers do not
            fit together.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    folder = pathlib.Path(folder)
    for sides in _TWO_FOLDERS:
        query, passage = (folder / side for side in sides)
        if query.is_dir() and passage.is_dir():
            return _paired(_open_tower(query), _open_tower(passage), folder)
    return _open_tower(folder)


def save_bert(folder: str | os.PathLike, config: BertConfig, params: Params) -> None:
    """Writes a BertModel or MegatronBertModel, in the parameters' dtype.

    What transformers' classes have and the model has not (positions, token types,
    heads enough to fill hidden_size, the pooler) is written as zeros; config.json says
    so, and `open_bert` leaves it out again.

    Args:
        folder: exists; config.json and safetensors are written into it.
        config: of the model.
        params: its parameters, arrays or unread.

    Raises:
        ConfigError: transformers has no class that computes it.
        CorruptError: the parameters are not those of `config`.
    """
    require_shapes(params, bert.param_shapes(config), "the parameters to write")
    own, (config, params) = config, bert_form.published_form(config, params)
    kind = "megatron-bert" if config.pre_layer_norm else "bert"
    name = "MegatronBertModel" if config.pre_layer_norm else "BertModel"
    settings = {
        **hf_configs.bert_settings(config),
        "model_type": kind,
        **_form_entry(own, config),
    }
    _write(folder, name, settings, names.bert_weights(config), params)


def save_dpr(
    folder: str | os.PathLike,
    config: BertConfig,
    projection_dim: int,
    tower: Params,
    encoder: str,
) -> None:
    """Writes a DPRQuestionEncoder or DPRContextEncoder, in the parameters' dtype.

    Args:
        folder: exists; config.json and safetensors are written into it.
        config: of the tower's BERT, post-LN; its pooler is left out.
        projection_dim: of the tower; 0: it has none.
        tower: its parameters (see dual_encoder.py), arrays or unread.
        encoder: "question_encoder" or "ctx_encoder".

    Raises:
        ConfigError: DPR has no class that computes it.
        CorruptError: the parameters are not those of `config`.
    """
    if encoder not in _DPR_CLASSES:
        raise ConfigError(
            f"encoder is {encoder!r}: DPR has {' and '.join(_DPR_CLASSES)}."
        )
    extra = tower.keys() - {"encoder", "projection"}
    if extra or bool(projection_dim) != ("projection" in tower):
        raise ConfigError(
            f"a tower of {', '.join(sorted(tower))} with projection_dim "
            f"{projection_dim} is none of DPR's, which takes the first token's vector "
            "and maps it where projection_dim is not 0."
        )
    require_shapes(tower, _tower_shapes(config, projection_dim), "the tower to write")
    own = config = dataclasses.replace(config, add_pooler=False)
    config, params = bert_form.published_form(
        config, tower["encoder"], with_pooler=False
    )
    settings = {
        **hf_configs.bert_settings(config),
        "model_type": "dpr",
        "projection_dim": projection_dim,
        **_form_entry(own, config),
    }
    weights = names.dpr_weights(config, projection_dim, encoder)
    _write(
        folder, _DPR_CLASSES[encoder], settings, weights, {**tower, "encoder": params}
    )


def save_t5(folder: str | os.PathLike, config: T5Config, params: Params) -> None:
    """Writes a T5ForConditionalGeneration, in the parameters' dtype.

    Args:
        folder: exists; config.json, generation_config.json and safetensors are
            written into it.
        config: of the model.
        params: its parameters in T5X's tree, arrays or unread.

    Raises:
        ConfigError: transformers has no class that computes it.
        CorruptError: the parameters are not those of `config`.
    """
    require_shapes(params, t5.param_shapes(config), "the parameters to write")
    settings = {**hf_configs.t5_settings(config), "model_type": "t5"}
    weights = names.t5_weights(config)
    _write(folder, "T5ForConditionalGeneration", settings, weights, params)
    json_files.write_object(
        pathlib.Path(folder) / "generation_config.json", hf_configs.T5_TOKENS
    )


def _form_entry(config: BertConfig, published: BertConfig) -> dict:
    """What config.json says of a form that transformers has not."""
    changes = bert_form.form_changes(config, published)
    return {_FORM_KEY: changes} if changes else {}


def _own_form(
    settings: Settings, config: BertConfig, params: Params
) -> tuple[BertConfig, Params]:
    """The BERT that was written, where `_form_entry` says it had another form."""
    if _FORM_KEY not in settings.values:
        return config, params
    changes = settings.values[_FORM_KEY]
    return bert_form.own_form(config, params, changes, settings.path)


def _open_tower(folder: pathlib.Path) -> PretrainedRetriever:
    """A retriever with one tower for both sides."""
    settings = hf_configs.read_settings(folder, *_BERT_KINDS, "dpr")
    tokenizer = _wordpiece(folder)
    if settings.model_type == "dpr":
        config, projection_dim, tower = open_dpr(folder)
        name, says = "DPR encoder", {"pooling": "cls", "normalize": False}
    else:
        config, params = open_bert(folder)
        projection_dim, tower = 0, {"encoder": params}
        name, says = "BertModel", {}
        if config.pre_layer_norm:
            name = "MegatronBertModel"
        elif "Contriever" in settings.architectures:
            name, says = "Contriever", {"pooling": "mean", "normalize": False}
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CorruptError(
            f"{folder}: the vocabulary has {tokenizer.vocab_size} pieces and the "
            f"model's table {config.vocab_size} rows: the files are of two models."
        )
    return PretrainedRetriever(
        format=f"Hugging Face {name}",
        config=config,
        towers={"shared": tower},
        projection_dim=projection_dim,
        tokenizer=tokenizer,
        **says,
    )


def _paired(
    query: PretrainedRetriever, passage: PretrainedRetriever, folder: pathlib.Path
) -> PretrainedRetriever:
    """A retriever of two towers; what both say must be the same."""
    forms = []
    for side in (query, passage):
        said = {key: getattr(side, key) for key in ("pooling", "projection_dim")}
        forms.append({**dataclasses.asdict(side.config), **said})
    differing = [key for key in forms[0] if forms[0][key] != forms[1][key]]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{folder}: the query tower has {key} {forms[0][key]}, the passage tower "
            f"{forms[1][key]}: a retriever's two towers are of one form here."
        )
    known = [side.tokenizer for side in (query, passage) if side.tokenizer is not None]
    if len({tokenizer.digest for tokenizer in known}) > 1:
        raise ConfigError(
            f"{folder}: the two towers have different vocabularies: both sides are "
            "tokenised by one here."
        )
    return dataclasses.replace(
        query,
        format=f"two towers, {query.format}",
        towers={"query": query.towers["shared"], "passage": passage.towers["shared"]},
        tokenizer=known[0] if known else _wordpiece(folder),
    )


def _wordpiece(folder: pathlib.Path) -> WordPieceTokenizer | None:
    tokenizer = hf_tokenizers.open_tokenizer(folder)
    if tokenizer is not None and not isinstance(tokenizer, WordPieceTokenizer):
        raise ConfigError(
            f"{folder} holds a tokeniser of kind {tokenizer.kind!r}, where a BERT has "
            "WordPiece: the files are of two models."
        )
    return tokenizer


def _write(
    folder: str | os.PathLike,
    architecture: str,
    settings: Mapping,
    weights: Iterable[Weight],
    params: Params,
) -> None:
    """Writes a model's tensors, then the config.json that describes them."""
    tensors = to_tensors(weights, params)
    dtypes = {np.dtype(tensor.dtype).name for tensor in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    tensor_files.write_safetensors(folder, tensors)
    config = {
        **settings,
        "architectures": [architecture],
        # Transformers 5's name and transformers 4's.
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    json_files.write_object(pathlib.Path(folder) / "config.json", config)


def _tower_shapes(config: BertConfig, projection_dim: int) -> Params:
    """What a tower of DPR's holds, as shapes."""
    shapes: dict = {"encoder": bert.param_shapes(config)}
    if projection_dim:
        kernel, bias = (config.hidden_size, projection_dim), (projection_dim,)
        shapes["projection"] = {
            "kernel": jax.ShapeDtypeStruct(kernel, np.float32),
            "bias": jax.ShapeDtypeStruct(bias, np.float32),
        }
    return shapes


def _open_files(folder: pathlib.Path) -> Mapping[str, FileTensor]:
    """The tensors of the first file or index, of those known, that is there."""
    readers = {
        "model.safetensors": tensor_files.open_safetensors,
        "pytorch_model.bin": _open_bin,
    }
    for name, read in readers.items():
        path, index = folder / name, folder / f"{name}.index.json"
        if path.exists():
            return read(path)
        if index.exists():
            return _open_shards(index, read)
    raise ConfigError(
        f"{folder} holds neither {' nor '.join(readers)}, whole or with an index: "
        "point to a folder that does."
    )


def _open_bin(path: pathlib.Path) -> dict[str, FileTensor]:
    found = torch_files.open_torch(path)
    if not isinstance(found, dict):
        raise CorruptError(
            f"{path} holds a {type(found).__name__} where a model's named tensors are "
            "needed: get the model from its source again."
        )
    return {
        name: tensor
        for name, tensor in found.items()
        if isinstance(name, str) and isinstance(tensor, FileTensor)
    }


def _open_shards(index: pathlib.Path, open_file) -> dict[str, FileTensor]:
    """The tensors that an index says are in files beside it."""
    weight_map = json_files.read_object(index).get("weight_map")
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


def _require_fit(params: Params, expected: Params, folder: object) -> None:
    """Checks that opened tensors are a model's parameters: shapes, and dtypes."""
    require_shapes(params, expected, folder)
    wrong = {
        leaf.dtype
        for leaf in jax.tree.leaves(params)
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    if wrong:
        raise ConfigError(
            f"{folder}: its parameters are of dtype {min(map(str, wrong))}, so they "
            "are quantised, or of another model: get the model in float32, float16 or "
            "bfloat16."
        )


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


def _shared_embeddings(tensors: Mapping[str, FileTensor]) -> dict[str, FileTensor]:
    """A T5's embeddings, from one of the copies that files of tied tensors keep."""
    copies = (f"{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
    found = [tensors[name] for name in copies if name in tensors]
    return {names.T5_EMBEDDINGS: found[0]} if found else {}


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
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.ndim == 0 or one.size == 0:
        return np.array_equal(one, other)
    row_bytes = one.size // one.shape[0] * one.dtype.itemsize
    step = max(1, _COMPARED_BYTES // row_bytes)
    rest = tuple(slice(0, size) for size in one.shape[1:])
    pieces = (
        (slice(start, min(start + step, one.shape[0])), *rest)
        for start in range(0, one.shape[0], step)
    )
    return all(np.array_equal(one.read(part), other.read(part)) for part in pieces)
