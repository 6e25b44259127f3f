"""Biencoders of facebookresearch/DPR: .cp files, read without torch.

A file is a dict of model_dict, optimizer_dict, scheduler_dict, offset, epoch and
encoder_params. model_dict holds Hugging Face's BertModel twice, as question_model.*
and ctx_model.*, each with an encode_proj where embeddings are narrower than BERT. The
embedding is the hidden state of [CLS]; BERT's pooler lies in the file unused.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from art_jax.checkpoints import names
from art_jax.checkpoints.pickles import Record
from art_jax.checkpoints.pretrained import PretrainedRetriever, require_towers
from art_jax.checkpoints.tensors import FileTensor
from art_jax.checkpoints.torch_files import named_tensors, open_torch
from art_jax.checkpoints.weights import Weight, to_params
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert
from art_jax.models.bert import BertConfig
from art_jax.types import Params

_MODELS = {"query": "question_model", "passage": "ctx_model"}
_HEAD_DIM = 64
# What is told of a file's making, with the type each has.
_FACTS = {
    "epoch": int,
    "do_lower_case": bool,
    "pretrained_model_cfg": str,
    "sequence_length": int,
}


def open_retriever(
    path: str | pathlib.Path, num_heads: int | None = None
) -> PretrainedRetriever:
    """Opens a biencoder; no tensor is read.

    Args:
        path: the .cp file.
        num_heads: of the BERTs, which the file does not say; None: as many as are 64
            wide, as in every BERT that Google published.

    Raises:
        ConfigError: there is no file, or it is a reader, or another kind of model.
        CorruptError: it is damaged, asks for code, or its tensors do not fit.
    """
    path = pathlib.Path(path)
    checkpoint = open_torch(path)
    if not isinstance(checkpoint, dict) or "model_dict" not in checkpoint:
        raise ConfigError(
            f"{path} is a file of torch.save without model_dict, so no checkpoint of "
            "DPR: give the .cp file of a biencoder."
        )
    tensors = named_tensors(checkpoint["model_dict"], path)
    _require_biencoder(tensors, path)
    config, *others = {
        _config(tensors, model, num_heads, path) for model in _MODELS.values()
    }
    if others:
        raise CorruptError(f"{path}: its two encoders are not of one size.")
    towers = {
        side: _open_tower(config, model, tensors, path)
        for side, model in _MODELS.items()
    }
    facts = _facts(checkpoint)
    epoch, max_tokens = facts.get("epoch"), facts.get("sequence_length")
    if max_tokens is not None and not 0 < max_tokens <= config.max_positions:
        max_tokens = None
    projection = towers["query"].get("projection")
    found = PretrainedRetriever(
        format="DPR biencoder checkpoint"
        + ("" if epoch is None else f", epoch {epoch}"),
        config=config,
        towers=towers,
        pooling="cls",
        normalize=False,
        projection_dim=projection["bias"].size if projection else 0,
        max_query_tokens=max_tokens,
        max_passage_tokens=max_tokens,
        training=facts,
    )
    require_towers(found, path)
    return found


def _require_biencoder(tensors: Mapping[str, FileTensor], path: pathlib.Path) -> None:
    if any(name.startswith("qa_outputs.") for name in tensors):
        raise ConfigError(
            f"{path} is a reader of DPR, which finds answers in passages; a retriever "
            "is needed: give the .cp file of a biencoder."
        )
    for model in _MODELS.values():
        if not any(name.startswith(f"{model}.") for name in tensors):
            raise ConfigError(
                f"{path}: model_dict has no {model}, so it is no biencoder of DPR: "
                "give the .cp file of one."
            )


def _facts(checkpoint: Mapping) -> dict[str, Any]:
    """What a file says of its making, JSON values of the right types alone.

    Since 2021 the settings of the encoder are an object of omegaconf, whose values
    are objects too.
    """
    settings = checkpoint.get("encoder_params")
    settings = dict(settings) if isinstance(settings, dict) else {}
    encoder = settings.get("encoder")
    if isinstance(encoder, Record) and isinstance(encoder.state, dict):
        content = encoder.state.get("_content")
        for name, node in (content if isinstance(content, dict) else {}).items():
            if isinstance(node, Record) and isinstance(node.state, dict):
                settings[name] = node.state.get("_val")
    settings["epoch"] = checkpoint.get("epoch")
    return {
        name: settings[name]
        for name, kind in _FACTS.items()
        if type(settings.get(name)) is kind
    }


def _config(
    tensors: Mapping[str, FileTensor],
    model: str,
    num_heads: int | None,
    path: pathlib.Path,
) -> BertConfig:
    """The sizes of one encoder, from its tensors."""

    def shape(name: str) -> tuple[int, int]:
        tensor = tensors.get(f"{model}.{name}")
        if tensor is None or tensor.ndim != 2:
            raise CorruptError(
                f"{path}: {model} has no matrix {name!r}: the file was cut short, or "
                "its encoder is no BERT of Hugging Face."
            )
        return tensor.shape

    vocab_size, hidden_size = shape(names.WORD_EMBEDDINGS)
    num_heads = num_heads or hidden_size // _HEAD_DIM
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(
            f"{path}: {num_heads} heads do not divide the hidden size {hidden_size}."
        )
    layer_of = re.compile(rf"{model}\.encoder\.layer\.(\d+)\.").match
    return bert.base(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=len({match[1] for match in map(layer_of, tensors) if match}),
        num_heads=num_heads,
        intermediate_size=shape("encoder.layer.0.intermediate.dense.weight")[0],
        max_positions=shape("embeddings.position_embeddings.weight")[0],
        type_vocab_size=shape("embeddings.token_type_embeddings.weight")[0],
    )


def _open_tower(
    config: BertConfig,
    model: str,
    tensors: Mapping[str, FileTensor],
    path: pathlib.Path,
) -> Params:
    """One tower's tree, as dual_encoder.py describes it."""
    weights = names.bert_weights(config, f"{model}.")
    tower = {"encoder": to_params(weights, tensors, path)}
    if f"{model}.encode_proj.weight" in tensors:
        projection = [
            Weight("kernel", f"{model}.encode_proj.weight", True),
            Weight("bias", f"{model}.encode_proj.bias"),
        ]
        tower["projection"] = to_params(projection, tensors, path)
    return tower
