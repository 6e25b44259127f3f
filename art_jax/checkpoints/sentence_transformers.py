"""Folders of sentence-transformers in and out, without torch.

One encoder for both sides:

    modules.json                    Transformer, Pooling, then as there are any
                                    Dense (projection) and Normalize
    config.json, model.safetensors, tokenizer.json, vocab.txt, ...    the BERT
    sentence_bert_config.json       max_seq_length
    1_Pooling/config.json           or 1_WeightedMean/, with weighted_mean.py beside
    2_Dense/{config.json,model.safetensors}
    config_sentence_transformers.json    similarity; under "art_jax" what is ours

Two encoders: modules.json has one Router, and each route's modules have a folder
(`query_0_Transformer`, `document_1_Pooling`, ...), listed in router_config.json.
"""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from art_jax.checkpoints import (
    hf_tokenizers,
    huggingface,
    parity,
    st_modules,
    tensor_files,
    tensors,
)
from art_jax.checkpoints.json_files import read_object
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.checkpoints.st_modules import Tower
from art_jax.checkpoints.weights import Weight, to_tensors
from art_jax.errors import ConfigError
from art_jax.types import Params

# The oldest that loads what is written: similarity_fn_name, and the Router.
_ONE_ENCODER_VERSION = "3.0.0"
_TWO_ENCODERS_VERSION = "5.0.0"

# Every version knows these older names of its classes.
_CLASSES = "sentence_transformers.models"
_WEIGHTED_MEAN_FILE = "weighted_mean.py"
_OUR_KEY = "art_jax"
_MODEL_CONFIG = "config_sentence_transformers.json"


def save_retriever(folder: str | os.PathLike, retriever: SavedRetriever) -> None:
    """Writes a folder that SentenceTransformer loads.

    A retriever whose pooling is "weighted_mean" brings its own module, so that
    loading it takes `trust_remote_code=True`.

    Args:
        folder: exists.
        retriever: its parameters on the host or the mesh, written in their dtype.

    Raises:
        ConfigError: its BERT has a form that Hugging Face has no class for.
    """
    folder = pathlib.Path(folder)
    params = tensors.to_host(retriever.params)
    if retriever.encoder.shared:
        chain = _save_tower(
            folder, params["shared"], retriever, retriever.max_passage_tokens
        )
        _write_modules(folder, chain)
    else:
        chains = {}
        for side, limit in (
            ("query", retriever.max_query_tokens),
            ("passage", retriever.max_passage_tokens),
        ):
            route = st_modules.ROUTES[side][0]
            chains[route] = _save_tower(
                folder, params[side], retriever, limit, prefix=f"{route}_"
            )
        _write_modules(folder, {"": f"{_CLASSES}.Router"})
        _write_router(folder, chains)
    if retriever.encoder.pooling == "weighted_mean":
        code = importlib.resources.files(__package__) / f"{_WEIGHTED_MEAN_FILE}.txt"
        (folder / _WEIGHTED_MEAN_FILE).write_bytes(code.read_bytes())
    _write_json(folder / _MODEL_CONFIG, _model_config(retriever))


def open_retriever(folder: str | os.PathLike) -> PretrainedRetriever:
    """Opens the folder of a SentenceTransformer of one BERT, or of two.

    Nothing of the folder is run: its one module with code that is known is
    art_jax's weighted mean.

    A similarity of "cosine" is read as `normalize`: with vectors of length 1 the dot
    product is the cosine. Prompts, which are put before texts, have no place here;
    `format` names those that are left out.

    Raises:
        ConfigError: it has modules, or settings of theirs, that nothing here
            computes.
        CorruptError: a file is missing, damaged, does not fit the others, or leads
            out of the folder.
    """
    folder = pathlib.Path(folder)
    settings = _read_model_config(folder)
    chains = st_modules.read_chains(folder)
    if chains["query"] == chains["passage"]:
        chains = {"shared": chains["query"]}
    towers = {side: st_modules.open_tower(chain) for side, chain in chains.items()}
    query, passage = list(towers.values())[0], list(towers.values())[-1]
    _require_same(query, passage, folder)
    kind = "one encoder" if len(towers) == 1 else "two encoders"
    ours = settings.get(_OUR_KEY, {})
    return PretrainedRetriever(
        format=f"sentence-transformers, {kind}{_left_out(settings)}",
        config=query.config,
        towers={side: tower.params for side, tower in towers.items()},
        pooling=query.pooling,
        normalize=_is_normalized(query, settings, folder),
        projection_dim=query.projection_dim,
        tokenizer=query.tokenizer,
        # One encoder has one limit there, so that ours is a note beside it.
        max_query_tokens=min(
            query.max_query_tokens,
            ours.get("max_query_tokens", query.max_query_tokens),
        ),
        max_passage_tokens=passage.max_passage_tokens,
        training=ours.get("training", {}),
    )


def _save_tower(
    folder: pathlib.Path,
    tower: Params,
    retriever: SavedRetriever,
    max_tokens: int,
    *,
    prefix: str = "",
) -> dict[str, str]:
    """Writes one encoder's modules; returns the type of each by its folder's name."""
    encoder = retriever.encoder
    chain: dict[str, str] = {}

    def add(kind: str, reference: str | None = None) -> pathlib.Path:
        name = f"{prefix}{len(chain)}_{kind}" if prefix or chain else ""
        chain[name] = reference or f"{_CLASSES}.{kind}"
        (folder / name).mkdir(exist_ok=True)
        return folder / name

    path = add("Transformer")
    huggingface.save_bert(path, encoder.config, tower["encoder"])
    hf_tokenizers.save_tokenizer(path, retriever.tokenizer, max_tokens)
    _write_json(
        path / st_modules.TRANSFORMER_CONFIG,
        {"max_seq_length": max_tokens, "do_lower_case": False},
    )
    width = encoder.config.hidden_size
    if encoder.pooling == "weighted_mean":
        path = add("WeightedMean", st_modules.WEIGHTED_MEAN)
        sizes = {"vocab_size": encoder.config.vocab_size, "hidden_size": width}
        _write_json(path / "config.json", sizes)
        _write_weights(path, st_modules.WEIGHTED_MEAN_WEIGHTS, tower["pooling"])
    else:
        _write_json(add("Pooling") / "config.json", _pooling(encoder.pooling, width))
    if encoder.projection_dim:
        path = add("Dense")
        _write_json(path / "config.json", _dense(width, encoder.projection_dim))
        _write_weights(path, st_modules.DENSE_WEIGHTS, tower["projection"])
    if encoder.normalize:
        add("Normalize")
    return chain


def _pooling(mode: str, width: int) -> dict[str, Any]:
    """Pooling's settings, by their older names, which every version reads."""
    modes = {key: name == mode for key, name in st_modules.OLD_POOLING_MODES.items()}
    return {"word_embedding_dimension": width, **modes}


def _dense(inputs: int, outputs: int) -> dict[str, Any]:
    return {
        "in_features": inputs,
        "out_features": outputs,
        "bias": True,
        "activation_function": st_modules.IDENTITY,
    }


def _write_modules(folder: pathlib.Path, chain: Mapping[str, str]) -> None:
    entries = [
        {"idx": i, "name": str(i), "path": name, "type": kind}
        for i, (name, kind) in enumerate(chain.items())
    ]
    _write_json(folder / st_modules.MODULES, entries)


def _write_router(folder: pathlib.Path, chains: Mapping[str, dict[str, str]]) -> None:
    _write_json(
        folder / "router_config.json",
        {
            "types": {name: kind for c in chains.values() for name, kind in c.items()},
            "structure": {route: list(chain) for route, chain in chains.items()},
            "parameters": {
                "default_route": st_modules.ROUTES["passage"][0],
                "allow_empty_key": True,
            },
        },
    )


def _model_config(retriever: SavedRetriever) -> dict[str, Any]:
    encoder = retriever.encoder
    version = _ONE_ENCODER_VERSION if encoder.shared else _TWO_ENCODERS_VERSION
    return {
        # A newer version than the one that loads it would make it warn.
        "__version__": {"sentence_transformers": version},
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": parity.similarity(encoder),
        # Their loader passes over what it does not know.
        _OUR_KEY: {
            "max_query_tokens": retriever.max_query_tokens,
            "training": dict(retriever.training),
        },
    }


def _write_weights(
    path: pathlib.Path, weights: Sequence[Weight], params: Params
) -> None:
    tensor_files.write_safetensors(path, to_tensors(weights, params))


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_model_config(folder: pathlib.Path) -> dict[str, Any]:
    """What is said of the whole model; {} where nothing is, as before version 2."""
    path = folder / _MODEL_CONFIG
    if not path.exists():
        return {}
    settings = read_object(path)
    st_modules.require_value(path, settings, "model_type", "SentenceTransformer")
    ours = settings.get(_OUR_KEY, {})
    if not isinstance(ours, dict) or not isinstance(ours.get("training", {}), dict):
        raise st_modules.wrong(path, f"{_OUR_KEY} or its training is not an object")
    st_modules.size_or_none(path, ours, "max_query_tokens")
    return settings


def _is_normalized(
    tower: Tower, settings: Mapping[str, Any], folder: pathlib.Path
) -> bool | None:
    """Whether vectors are compared by their directions alone; None: nobody says."""
    name = settings.get("similarity_fn_name")
    if name not in (None, "cosine", "dot", "dot_score"):
        raise ConfigError(
            f"{folder / _MODEL_CONFIG}: similarity_fn_name is {name!r}: only cosine "
            "and dot are computed here."
        )
    if tower.normalize or name == "cosine":
        return True
    return None if name is None else False


def _left_out(settings: Mapping[str, Any]) -> str:
    """What `format` says of prompts, if there are any."""
    prompts = settings.get("prompts")
    if not isinstance(prompts, dict) or not any(prompts.values()):
        return ""
    shown = ", ".join(f"{name} {text!r}" for name, text in prompts.items() if text)
    return f" (its prompts are left out: {shown})"


def _require_same(one: Tower, other: Tower, folder: pathlib.Path) -> None:
    """Raises ConfigError where two towers differ in more than weights and lengths."""
    differing = [
        name
        for name in ("config", "pooling", "normalize", "projection_dim")
        if getattr(one, name) != getattr(other, name)
    ]
    digests = {t.tokenizer and t.tokenizer.digest for t in (one, other)}
    if len(digests) > 1:
        differing.append("tokenizer")
    if differing:
        raise ConfigError(
            f"{folder}: its encoders of queries and of passages differ in their "
            f"{', '.join(differing)}: here both have the same."
        )
