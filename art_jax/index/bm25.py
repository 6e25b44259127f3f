"""BM25, the lexical baseline that a dense retriever is measured against.

The package bm25s scores; this module chooses how words are cut (lower case, runs of
word characters, English stop words dropped, Snowball stems) and breaks ties.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, DataError, require_package
from art_jax.types import SearchResults

# bm25s drops words of one character by default, and with them "C", "R" and "5".
_WORD_PATTERN = r"(?u)\b\w+\b"


@dataclasses.dataclass(frozen=True, eq=False)
class Bm25Index:
    """The scores of every word in every passage, ready to be summed.

    retriever: a `bm25s.BM25`.
    stop_words: bm25s's name of a list, or None where none is dropped.
    """

    retriever: Any
    stop_words: str | None


def passage_text(passage: Passage) -> str:
    """What BM25 reads of a passage: its title, then its text."""
    return f"{passage.title} {passage.text}"


def build_bm25(
    texts: Iterable[str],
    *,
    k1: float = 0.9,
    b: float = 0.4,
    stop_words: str | None = "en_plus",
) -> Bm25Index:
    """The index of some texts, in memory.

    Importing bm25s runs a JAX operation on the default device, so it happens here and
    not when this module is imported: set up JAX first.

    Args:
        texts: of the passages, in the order of their rows; see `passage_text`.
        k1: how soon further occurrences of a word stop to matter.
        b: how much the length of a passage matters, 0 to 1.
        stop_words: a list of bm25s: "en" (Lucene's 33 words), "en_plus" (179 words,
            NLTK's); None drops none.

    Raises:
        ConfigError: bm25s or PyStemmer is not installed.
        DataError: no text has a word.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), in
        Lucene's variant: weight log(1 + (N - n + 0.5) / (n + 0.5)) of a word in n of N
        passages, times f / (f + k1 (1 - b + b length / mean length)) for f occurrences.
        Defaults of k1 and b: Anserini's. Differs in: nothing.
    """
    bm25s = require_package("bm25s", purpose="BM25 search")
    tokens = _tokenize(texts, stop_words, return_ids=True)
    if not tokens.vocab:
        raise DataError("no passage has a word that BM25 could index")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # It starts at DEBUG.
    retriever = bm25s.BM25(method="lucene", k1=k1, b=b)
    retriever.index(tokens, show_progress=False)
    return Bm25Index(retriever, stop_words)


def search_bm25(index: Bm25Index, questions: Sequence[str], k: int) -> SearchResults:
    """The k best passages of each question; ties go to the lower row.

    Passages that share no word with the question are not found.

    Args:
        index: of N passages.
        questions: B texts.
        k: K, at least 1; may be larger than N.

    Returns:
        NumPy arrays: scores [B, K] float32, rows [B, K] int32; -inf and -1 where
        fewer than K passages were found.

    Raises:
        ConfigError: k is smaller than 1.
    """
    if k < 1:
        raise ConfigError(f"k={k} passages were asked for: ask for at least one")
    scores = np.full((len(questions), k), -np.inf, np.float32)
    rows = np.full((len(questions), k), -1, np.int32)
    words = _tokenize(questions, index.stop_words, return_ids=False)
    for place, question_words in enumerate(words):
        ids = index.retriever.get_tokens_ids(question_words)
        all_scores = index.retriever.get_scores_from_ids(ids)
        found = _best_rows(all_scores, k)
        rows[place, : len(found)] = found
        scores[place, : len(found)] = all_scores[found]
    return SearchResults(scores=scores, rows=rows)


def _tokenize(texts: Iterable[str], stop_words: str | None, *, return_ids: bool):
    bm25s = require_package("bm25s", purpose="BM25 search")
    stemmer = require_package("Stemmer", purpose="BM25 search")
    return bm25s.tokenize(
        texts,
        token_pattern=_WORD_PATTERN,
        stopwords=stop_words,
        stemmer=stemmer.Stemmer("english"),
        return_ids=return_ids,
        show_progress=False,
    )


def _best_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """At most k rows of positive score [N], best first, equal scores by row."""
    candidates = np.flatnonzero(scores > 0)
    if len(candidates) > k:
        # bm25s picks among equal scores as its partition happens to leave them.
        kth = np.partition(scores[candidates], -k)[-k]
        candidates = candidates[scores[candidates] >= kth]
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
