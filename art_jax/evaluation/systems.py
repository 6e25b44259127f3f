"""What finds passages for questions: a retriever, BM25, both together, or a file."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from art_jax.data.evidence import EvidenceStore
from art_jax.data.passages import Passage
from art_jax.data.query_forms import PLAIN
from art_jax.data.question_table import QuestionTable
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError
from art_jax.evaluation import candidates, rankings
from art_jax.index import ann, bm25, fusion
from art_jax.index.ann import AnnIndex
from art_jax.index.retriever import Retriever, search_queries

FUSIONS = ("dpr", "rrf")
_QUESTIONS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class System:
    """Something whose rankings can be measured.

    name: short, for tables and files.
    retrieve: from n questions to candidates [n, K].
    search: how it looks for passages, as JSON holds it.
    predict: from n questions to n texts, where it generates any.
    tokenizer: that reads the questions; None where their texts are read as they are.
    max_query_tokens: to which questions are cut.
    words: how it looks for passages where that is approximate, as a sentence.
    """

    name: str
    retrieve: Callable[[QuestionTable], np.ndarray]
    search: Mapping[str, Any]
    predict: Callable[[QuestionTable], list[str]] | None = None
    tokenizer: WordPieceTokenizer | None = None
    max_query_tokens: int = 64
    words: str = ""


def dense_system(retriever: Retriever, k: int) -> System:
    """A retriever with its own table, searched as the table is."""
    reached = min(k, retriever.evidence.num_passages)

    def retrieve(questions: QuestionTable) -> np.ndarray:
        queries = encode_questions(retriever, questions)
        found = search_queries(retriever.table, queries, k=reached)
        return candidates.of_search(found, retriever.evidence.passage, k)

    if isinstance(retriever.table, AnnIndex):
        table = retriever.table
        name, search, words = "ann", ann.describe(table), ann.in_words(table)
    else:
        search = {"method": "dot_product", "exact": True}
        name, words = "retriever", ""
    tasks = [*retriever.model.query_forms]
    if len(tasks) == 1:
        search = {**search, "query_task": tasks[0]}
    return System(name, retrieve, search, **_reader(retriever), words=words)


def bm25_system(evidence: EvidenceStore, settings: bm25.Bm25Settings, k: int) -> System:
    """BM25 alone; its index is opened, or built, at the first search."""

    def retrieve(questions: QuestionTable) -> np.ndarray:
        index = bm25.open_bm25(evidence, settings)
        found = bm25.search_bm25(index, questions.texts, k)
        return candidates.of_search(found, evidence.passage)

    search = {"method": "bm25", "exact": True, **dataclasses.asdict(settings)}
    return System("bm25", retrieve, search)


def fusion_system(
    retriever: Retriever,
    settings: bm25.Bm25Settings,
    k: int,
    *,
    method: str = "dpr",
    weight: float = fusion.DPR_WEIGHT,
    depth: int = fusion.DPR_DEPTH,
) -> System:
    """A retriever and BM25 over the same evidence, their rankings made one.

    Args:
        retriever: searched exactly.
        settings: of BM25.
        k: passages kept a question.
        method: "dpr", the weighted sum of scores; or "rrf", reciprocal rank fusion.
        weight: of the dense score in "dpr".
        depth: passages that each of the two finds.

    Raises:
        ConfigError: there is no such method, the depth is below 1, or the retriever
            searches approximately.
    """
    if method not in FUSIONS or depth < 1:
        raise ConfigError(
            f"the fusion is {method!r} of depth {depth}: choose of "
            f"{', '.join(FUSIONS)}, and a depth of 1 or more."
        )
    if isinstance(retriever.table, AnnIndex):
        raise ConfigError(
            "BM25 is fused with the exact search, which can score any passage: load "
            "the retriever without ann."
        )
    evidence = retriever.evidence
    depth = min(max(depth, k), evidence.num_passages)
    reached = min(k, evidence.num_passages)

    def retrieve(questions: QuestionTable) -> np.ndarray:
        index = bm25.open_bm25(evidence, settings)
        queries = encode_questions(retriever, questions)
        parts = []
        # A few questions at a time: each has up to 2 x depth passages.
        for start in range(0, questions.num_questions, _QUESTIONS_AT_ONCE):
            some = slice(start, start + _QUESTIONS_AT_ONCE)
            texts = questions.texts[some]
            lexical = bm25.search_bm25(index, texts, depth)
            dense = search_queries(retriever.table, queries[some], k=depth)
            if method == "rrf":
                found = fusion.reciprocal_rank(lexical, dense, k=reached)
            else:
                found = fusion.weighted_sum(
                    lexical,
                    dense,
                    lexical_scores=lambda rows, t=texts: bm25.score_rows(
                        index, t, rows
                    ),
                    dense_scores=lambda rows, q=queries[some]: fusion.score_rows(
                        retriever.table, q, rows
                    ),
                    k=reached,
                    weight=weight,
                )
            parts.append(candidates.of_search(found, evidence.passage, k))
        return np.concatenate(parts)

    fused = {"weight": weight} if method == "dpr" else {"constant": fusion.RRF_K}
    search = {
        "method": f"fusion_{method}",
        "exact": True,
        **fused,
        "depth": depth,
        "bm25": dataclasses.asdict(settings),
    }
    return System("fusion", retrieve, search, **_reader(retriever))


def file_system(
    path: str | os.PathLike,
    *,
    k: int,
    read_passages: Callable[[], Iterable[Passage]] | None = None,
    missing: str = "error",
) -> System:
    """What a file says was found, see `rankings`.

    Args:
        path: of the rankings.
        k: passages kept a question.
        read_passages: gives the corpus, whose texts are taken where answers are to be
            looked for in them; None: the file's own, if it has any.
        missing: what a question that the file does not know means, "error" or "zero".
    """
    read = rankings.read_rankings(path)

    def retrieve(questions: QuestionTable) -> np.ndarray:
        found = rankings.rank_questions(read, questions.questions, missing=missing)
        found = found[:, :k]
        # KILT's predictions name places of Wikipedia, which no corpus has as ids.
        if read_passages is not None and read.file_format != "kilt":
            found = rankings.with_texts(found, read_passages())
        return found

    def predict(questions: QuestionTable) -> list[str]:
        absent = [name for name in questions.question_ids if name not in read.by_id]
        if absent and missing == "error":
            raise ConfigError(
                f"{path} lacks {len(absent)} of {questions.num_questions} questions, "
                f"the first of them {absent[0]!r}: say --missing zero if nothing was "
                "predicted for them."
            )
        return [read.answers.get(name, "") for name in questions.question_ids]

    search = {"method": "file", "file": os.fspath(path), "format": read.file_format}
    is_prediction = read.file_format == "kilt"
    return System(
        "predictions" if is_prediction else "rankings",
        retrieve,
        {**search, "missing": missing},
        predict if is_prediction else None,
    )


def encode_questions(retriever: Retriever, questions: QuestionTable) -> np.ndarray:
    """Embeddings of questions, [n, D], read as the retriever's task has them read."""
    if retriever.model.query_form == PLAIN:
        return retriever.encode_query_tokens(questions.tokens)
    tokens = retriever.model.query_tokens(questions.questions)
    return retriever.encode_query_tokens(tokens)


def _reader(retriever: Retriever) -> dict[str, Any]:
    return {
        "tokenizer": retriever.model.tokenizer,
        "max_query_tokens": retriever.model.max_query_tokens,
    }


def without_identical_ids(system: System, k: int) -> System:
    """The same system, never finding a question itself; BEIR's rule.

    Args:
        system: that finds k + 1 passages.
        k: passages kept a question.
    """

    def retrieve(questions: QuestionTable) -> np.ndarray:
        found = system.retrieve(questions)
        result = np.empty((len(found), min(k, found.shape[1])), object)
        for place, question_id in enumerate(questions.question_ids):
            others = [
                one
                for one in found[place]
                if one is not None and one.passage.passage_id != question_id
            ][: result.shape[1]]
            result[place, : len(others)] = others
        return result

    return dataclasses.replace(system, retrieve=retrieve)
