"""Test vectors of an export: texts, and the embeddings they must give elsewhere.

`parity.json` lies beside exported weights, so that whoever loads them with another
tool can see that tokens, weights, pooling and lengths all came over.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from art_jax.checkpoints import tensors
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.data.layouts import layout_rows, layout_token_lists, make_token_table
from art_jax.data.passages import Passage
from art_jax.models.dual_encoder import DualEncoder

FILE = "parity.json"
_FORMAT = "art_jax.parity"

# Of the largest number of all embeddings. torch was seen to differ by 8e-7 of it
# (tests/parity); the wrong one of the two GELUs differs by 2e-4.
_TOLERANCE = 2e-5

QUERIES = (
    "who wrote on the origin of species",
    "Where is the café?",
    "why " * 600 + "is the sky blue",
)
PASSAGES = (
    Passage(
        "titled",
        "The species that survives is the one most able to adapt to change.",
        "On the Origin of Species",
    ),
    Passage("untitled", "The café stands opposite the old town hall."),
    Passage("long", "Light is scattered by the air. " * 200, "The sky"),
)


def similarity(encoder: DualEncoder) -> str:
    """How two embeddings are compared: "dot", or "cosine" where it is the same."""
    return "cosine" if encoder.normalize else "dot"


def as_exported(retriever: SavedRetriever, kind: str) -> SavedRetriever:
    """A retriever with the limits that it has elsewhere.

    One encoder of both sides has one limit there, which is that of passages, except
    in DPR's form, where it is written twice.

    Args:
        retriever: as art_jax has it.
        kind: of export: "sentence-transformers", "huggingface" or "dpr".
    """
    if not retriever.encoder.shared or kind == "dpr":
        return retriever
    return dataclasses.replace(retriever, max_query_tokens=retriever.max_passage_tokens)


def passage_text(title: str, text: str) -> str:
    """A passage as one string for tokenisers of Hugging Face.

    They read "[SEP]" as the special token, so the ids are those of
    `[CLS] title [SEP] text [SEP]`.
    """
    return f"{title} [SEP] {text}" if title else text


def parity_cases(
    retriever: SavedRetriever,
    queries: Sequence[str] = QUERIES,
    passages: Sequence[Passage] = PASSAGES,
) -> dict:
    """Texts with the embeddings that a retriever gives them, as JSON values.

    Args:
        retriever: its parameters on the host or the mesh. It computes in float32,
            whatever dtype it was trained in.
        queries: too long ones are cut, and show that the other tool cuts them too.
        passages: with and without titles.
    """
    encoder = retriever.encoder
    config = dataclasses.replace(encoder.config, dtype="float32")
    encoder = dataclasses.replace(encoder, config=config)
    params = tensors.to_host(retriever.params)
    query_tokens = layout_token_lists(
        retriever.query_layout, retriever.tokenizer.encode_batch(queries)
    )
    passage_tokens = layout_rows(
        retriever.passage_layout,
        make_token_table(
            retriever.tokenizer.encode_batch([passage.title for passage in passages]),
            retriever.tokenizer.encode_batch([passage.text for passage in passages]),
        ),
        np.arange(len(passages)),
    )
    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        query_rows = np.asarray(jax.jit(encoder.encode_query)(params, query_tokens))
        passage_rows = np.asarray(
            jax.jit(encoder.encode_passage)(params, passage_tokens)
        )
    largest = max(np.abs(query_rows).max(), np.abs(passage_rows).max())
    return {
        "format": _FORMAT,
        "similarity": similarity(encoder),
        "max_abs_difference": float(f"{_TOLERANCE * largest:.2g}"),
        "queries": [
            {"text": text, **_case(tokens, row, encoder)}
            for text, tokens, row in zip(queries, query_tokens, query_rows, strict=True)
        ],
        "passages": [
            {
                "title": passage.title,
                "text": passage.text,
                "input": passage_text(passage.title, passage.text),
                **_case(tokens, row, encoder),
            }
            for passage, tokens, row in zip(
                passages, passage_tokens, passage_rows, strict=True
            )
        ],
    }


def write_parity(folder: pathlib.Path, retriever: SavedRetriever, kind: str) -> None:
    """Writes `parity.json` with `parity_cases` of the usual texts.

    Args:
        folder: of the export.
        retriever: as art_jax has it.
        kind: of export, see `as_exported`.
    """
    cases = parity_cases(as_exported(retriever, kind))
    text = json.dumps(cases, indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def _case(tokens: np.ndarray, embedding: np.ndarray, encoder: DualEncoder) -> dict:
    return {
        "token_ids": tokens[tokens != encoder.pad_id].tolist(),
        # Nine digits tell any float32 from its neighbours.
        "embedding": [float(f"{value:.9g}") for value in embedding],
    }
