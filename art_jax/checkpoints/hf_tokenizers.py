"""Tokenisers as Hugging Face folders hold them, in and out."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from art_jax.checkpoints.json_files import read_object, write_object
from art_jax.data import tokenizers
from art_jax.data.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from art_jax.errors import ConfigError, CorruptError

_CONFIG = "tokenizer_config.json"
_WHOLE = "tokenizer.json"
_VOCABULARY = "vocab.txt"
_SENTENCEPIECE = "spiece.model"

# Classes of transformers whose files hold BERT's WordPiece or T5's SentencePiece; the
# second row's files may hold any, and say which.
_CLASSES = {
    *("Bert", "DPRQuestionEncoder", "DPRContextEncoder", "DistilBert", "T5"),
    *("PreTrained", "Tokenizers"),
}
_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_T5_EXTRA_IDS = 100


def open_tokenizer(
    folder: str | os.PathLike,
) -> WordPieceTokenizer | SentencePieceTokenizer | None:
    """The tokeniser that lies in a model folder, None where there is none.

    Read are tokenizer.json with a WordPiece model, else vocab.txt; spiece.model; and
    what tokenizer_config.json changes of them, as transformers reads them.

    Raises:
        ConfigError: it is one that cuts texts otherwise than ours do.
        CorruptError: a file is damaged.
        DataError: a vocabulary breaks its format's rules.
    """
    folder = pathlib.Path(folder)
    settings = read_object(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    _require_class(settings, folder)
    sentencepiece = folder / _SENTENCEPIECE
    if (folder / _WHOLE).exists():
        whole = read_object(folder / _WHOLE)
        kind = _model_kind(whole)
        if kind == "WordPiece":
            return _from_whole(whole, settings, folder)
        if kind != "Unigram" or not sentencepiece.exists():
            raise ConfigError(
                f"{folder / _WHOLE} holds a tokeniser of kind {kind}, and there is no "
                f"{_SENTENCEPIECE} beside it: read here are WordPiece (BERT) and the "
                f"SentencePiece model of T5, so put its {_SENTENCEPIECE} there."
            )
    if sentencepiece.exists():
        return tokenizers.load_sentencepiece(sentencepiece)
    if (folder / _VOCABULARY).exists():
        lowercase = _lowercase(settings, {}, folder / _CONFIG)
        return tokenizers.load_wordpiece(folder / _VOCABULARY, lowercase=lowercase)
    return None


def save_tokenizer(
    folder: str | os.PathLike, tokenizer: Tokenizer, max_tokens: int
) -> None:
    """Writes a tokeniser as transformers 4 and 5 read it: BERT's or T5's.

    Both give our ids for a text, between special tokens; but where the text spells
    a special token, such as "[SEP]", transformers takes it for that token.

    Args:
        folder: exists.
        tokenizer: WordPiece or SentencePiece.
        max_tokens: where transformers cuts, special tokens included.

    Raises:
        ConfigError: the tokeniser is of another kind, which transformers has not.
    """
    folder = pathlib.Path(folder)
    if tokenizer.kind == SentencePieceTokenizer.kind:
        (folder / _SENTENCEPIECE).write_bytes(tokenizer.model)
        special = dict(_T5_TOKENS)
        config = {
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": _T5_EXTRA_IDS,
            # As the published T5s are read, and without it transformers 4 warns.
            "legacy": True,
        }
    elif tokenizer.kind == WordPieceTokenizer.kind:
        special = {
            key: piece if piece in tokenizer.pieces else None
            for key, piece in _BERT_TOKENS.items()
        }
        write_object(folder / _WHOLE, _whole(tokenizer))
        lines = "".join(f"{piece}\n" for piece in tokenizer.pieces)
        (folder / _VOCABULARY).write_bytes(lines.encode("utf-8"))
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": tokenizer.lowercase,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
        }
    else:
        raise ConfigError(
            f"transformers has no tokeniser of kind {tokenizer.kind!r}: only WordPiece "
            "and SentencePiece ones can be exported."
        )
    write_object(
        folder / _CONFIG, {**config, **special, "model_max_length": max_tokens}
    )
    given = {key: piece for key, piece in special.items() if piece is not None}
    write_object(folder / "special_tokens_map.json", given)


def _require_class(settings: Mapping, folder: pathlib.Path) -> None:
    """Raises where the settings name a class that is known to cut otherwise."""
    name = settings.get("tokenizer_class")
    known = {f"{stem}Tokenizer{end}" for stem in _CLASSES for end in ("", "Fast")}
    if name is not None and name not in known | {"TokenizersBackend"}:
        raise ConfigError(
            f"{folder / _CONFIG}: tokenizer_class is {name!r}: read here are BERT's "
            "WordPiece and T5's SentencePiece only."
        )


def _model_kind(whole: Mapping) -> object:
    """What a tokenizer.json calls its model; its oldest files do not say it."""
    model = whole.get("model")
    if not isinstance(model, dict):
        return None
    unnamed = "WordPiece" if "continuing_subword_prefix" in model else None
    return model.get("type", unnamed)


def _from_whole(
    whole: Mapping, settings: Mapping, folder: pathlib.Path
) -> WordPieceTokenizer:
    """The tokeniser of a tokenizer.json with a WordPiece model."""
    path = folder / _WHOLE
    model = whole["model"]
    normalizer, pre_tokenizer = whole.get("normalizer"), whole.get("pre_tokenizer")
    for part, holder, key, ours in (
        ("normalizer", normalizer, "type", "BertNormalizer"),
        ("normalizer", normalizer, "clean_text", True),
        ("pre_tokenizer", pre_tokenizer, "type", "BertPreTokenizer"),
        ("model", model, "unk_token", "[UNK]"),
        ("model", model, "continuing_subword_prefix", "##"),
        ("model", model, "max_input_chars_per_word", 100),
    ):
        value = holder.get(key) if isinstance(holder, dict) else None
        if value != ours:
            raise ConfigError(
                f"{path}: {key} of its {part} is {value!r}, and BERT's is {ours!r}: "
                "this tokeniser cuts texts otherwise than the one here does."
            )
    lowercase = _lowercase(settings, normalizer, path)
    return WordPieceTokenizer(_pieces(whole, path), lowercase)


def _lowercase(settings: Mapping, normalizer: Mapping, source: object) -> bool:
    """Whether texts are lower-cased; what tokenizer_config.json says comes first."""

    def said(key: str, inner: str, default: object) -> Any:
        return settings[key] if key in settings else normalizer.get(inner, default)

    lowercase = said("do_lower_case", "lowercase", True)
    strip = said("strip_accents", "strip_accents", None)
    chinese = said("tokenize_chinese_chars", "handle_chinese_chars", True)
    words = settings.get("do_basic_tokenize", True)
    if not isinstance(lowercase, bool):
        raise CorruptError(
            f"{source}: do_lower_case is {lowercase!r}: it must be true or false."
        )
    if strip not in (None, lowercase) or chinese is not True or words is not True:
        raise ConfigError(
            f"{source}: strip_accents is {strip!r}, tokenize_chinese_chars {chinese!r} "
            f"and do_basic_tokenize {words!r}: BERT's own are null, true and true, and "
            "no others are computed here."
        )
    return lowercase


def _pieces(whole: Mapping, path: pathlib.Path) -> tuple[str, ...]:
    """The pieces by id: the model's vocabulary, and tokens added after it."""
    ids = whole["model"].get("vocab")
    added = whole.get("added_tokens") or []
    try:
        ids = {**ids, **{token["content"]: token["id"] for token in added}}
    except (TypeError, KeyError) as error:
        raise _no_vocabulary(path) from error
    if not all(type(number) is int for number in ids.values()):
        raise _no_vocabulary(path)
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise _no_vocabulary(path)
    missing = {"[UNK]", "[CLS]", "[SEP]"}.difference(pieces)
    if missing or pieces[0] != "[PAD]":
        raise ConfigError(
            f"{path}: piece 0 must be '[PAD]', and '[UNK]', '[CLS]' and '[SEP]' be "
            "there: this is not the vocabulary of a BERT."
        )
    return pieces


def _no_vocabulary(path: pathlib.Path) -> CorruptError:
    return CorruptError(
        f"{path}: its vocabulary does not give each piece an id of its own, from 0 on: "
        "copy the file again from its source."
    )


def _whole(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The tokenizer.json of a WordPiece tokeniser."""
    ids = {piece: number for number, piece in enumerate(tokenizer.pieces)}
    special = [piece for piece in tokenizers.WORDPIECE_SPECIALS if piece in ids]
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[piece], "content": piece, **flags}
            | {"normalized": False, "special": True}
            for piece in sorted(special, key=ids.__getitem__)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": tokenizer.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template("[CLS]", "A", "[SEP]"),
            "pair": _template("[CLS]", "A", "[SEP]", "B", "[SEP]"),
            "special_tokens": {
                piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]}
                for piece in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }


def _template(*parts: str) -> list[dict]:
    """A row's tokens and texts in order; all after the first "[SEP]" are of type 1."""
    template, kind = [], 0
    for part in parts:
        is_text = part in ("A", "B")
        name = "Sequence" if is_text else "SpecialToken"
        template.append({name: {"id": part, "type_id": kind}})
        kind = 1 if part == "[SEP]" else kind
    return template
