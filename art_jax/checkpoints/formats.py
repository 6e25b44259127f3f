"""Which format a path holds, told from its files; one door for all of them.

A path that no format knows gets one error that lists what can be read.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from art_jax.checkpoints import (
    dpr,
    huggingface,
    megatron,
    retriever,
    sentence_transformers,
    t5_folder,
    t5x,
)
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.errors import ConfigError
from art_jax.models.t5 import T5Config
from art_jax.types import Params


class PretrainedT5(NamedTuple):
    """A T5 as its files say it is.

    format: what was recognised, for people.
    config: its sizes and form.
    params: a tree of `FileTensor`s.
    vocabulary: its SentencePiece model, where one lies beside the weights.
    """

    format: str
    config: T5Config
    params: Params
    vocabulary: pathlib.Path | None


def open_retriever(path: str | pathlib.Path) -> PretrainedRetriever:
    """Returns the retriever, or the BERT, that a path holds in any format.

    Args:
        path: a run or retriever of art_jax; a folder of Hugging Face or of
            sentence-transformers; a checkpoint of Megatron (ART, EMDR2) or of DPR.

    Raises:
        ConfigError: there is nothing, or nothing that is known, or a T5.
        CorruptError: a file is missing, damaged or hostile.
    """
    path = _existing(path)
    for recognise, read in _RETRIEVERS:
        if recognise(path):
            return read(path)
    if _is_t5(path):
        raise ConfigError(f"{path} holds a T5, where a retriever or a BERT is needed.")
    raise _unknown(path)


def open_t5(path: str | pathlib.Path, **changes: Any) -> PretrainedT5:
    """Returns the T5 that a path holds in any format.

    Args:
        path: a checkpoint of T5X, native or Orbax, or its folder of several, the
            newest of which counts; a folder of Hugging Face; or a run of a T5 here.
        **changes: fields of the configuration to replace, such as `dtype`.

    Raises:
        ConfigError: there is nothing, or nothing that is known, or no T5.
        CorruptError: a file is missing, damaged or hostile.
    """
    path = _existing(path)
    if not _is_t5(path):
        if any(recognise(path) for recognise, _ in _RETRIEVERS):
            raise ConfigError(f"{path} holds no T5 but a retriever or a BERT.")
        raise _unknown(path)
    if t5_folder.holds_t5(path):
        return _open_own_t5(path, **changes)
    if _is_hugging_face_t5(path):
        kind, read = "Hugging Face T5ForConditionalGeneration", huggingface.open_t5
    else:
        path = t5x.find_step(path)
        kind, read = f"T5X {path.name}", t5x.open_t5
    config, params = read(path, **changes)
    vocabularies = [path / name for name in ("spiece.model", "sentencepiece.model")]
    found = next(filter(pathlib.Path.is_file, vocabularies), None)
    return PretrainedT5(kind, config, params, found)


def _open_own_t5(path: pathlib.Path, **changes: Any) -> PretrainedT5:
    saved = t5_folder.open_t5(path)
    config = dataclasses.replace(saved.config, **changes)
    model = t5_folder.find_t5(path) / t5_folder.TOKENIZER / "spiece.model"
    vocabulary = model if model.is_file() else None
    return PretrainedT5(t5_folder.FORMAT, config, saved.params, vocabulary)


def is_t5(path: str | pathlib.Path) -> bool:
    """Whether a path holds a T5; no file is read beyond what tells its format."""
    return _is_t5(_existing(path))


def _existing(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist: give a folder or file on this machine's disk."
        )
    return path


def _unknown(path: pathlib.Path) -> ConfigError:
    return ConfigError(
        f"{path} holds weights in no format that is known: a run of art_jax "
        "(retriever/ or t5/); a folder of Hugging Face (config.json with a BERT, "
        "MegatronBERT, DPR encoder or T5, and *.safetensors or *.bin) or of "
        "sentence-transformers (modules.json); a T5X checkpoint (checkpoint_<step>); "
        "a Megatron checkpoint (latest_checkpointed_iteration.txt, "
        "model_optim_rng.pt); or a .cp file of DPR."
    )


def _is_own(path: pathlib.Path) -> bool:
    return retriever.holds_retriever(path)


def _is_sentence_transformers(path: pathlib.Path) -> bool:
    return (path / "modules.json").is_file()


def _is_megatron(path: pathlib.Path) -> bool:
    return (
        path.name == "model_optim_rng.pt"
        or (path / "latest_checkpointed_iteration.txt").is_file()
        or any(path.glob("mp_rank_*"))
    )


def _is_hugging_face(path: pathlib.Path) -> bool:
    kind = _model_type(path)
    if kind is not None:
        return kind != "t5" and not t5_folder.holds_t5(path)
    # Two encoders in folders of their own.
    parts = [part for part in path.iterdir() if part.is_dir()] if path.is_dir() else []
    return sum(_model_type(part) is not None for part in parts) >= 2


def _is_dpr(path: pathlib.Path) -> bool:
    return path.is_file()


def _is_t5(path: pathlib.Path) -> bool:
    return t5_folder.holds_t5(path) or _is_hugging_face_t5(path) or t5x.is_t5x(path)


def _is_hugging_face_t5(path: pathlib.Path) -> bool:
    return _model_type(path) == "t5"


def _model_type(path: pathlib.Path) -> str | None:
    """The model_type of a folder's config.json; "" for one that says none."""
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return str(settings.get("model_type", ""))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError, RecursionError):
        return ""  # A damaged one: its reader says what is wrong.


# In this order: a folder of sentence-transformers has a config.json of Hugging Face.
_RETRIEVERS: tuple[tuple[Callable, Callable], ...] = (
    (_is_own, lambda path: retriever.open_retriever(retriever.find_retriever(path))),
    (_is_sentence_transformers, sentence_transformers.open_retriever),
    (_is_hugging_face, huggingface.open_retriever),
    (_is_megatron, megatron.open_retriever),
    (_is_dpr, dpr.open_retriever),
)
