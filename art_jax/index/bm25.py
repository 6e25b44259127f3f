"""BM25, a retriever by words: the baseline of dense ones, and their companion.

The package bm25s scores; this module chooses how words are cut (lower case, runs of
word characters, English stop words dropped, Snowball stems), breaks ties, and keeps an
index on disk beside the evidence it is of:

    bm25/KEY/scores.f32  rows.i32   of each word, its passages and their scores
             starts.i64             where each word's begin
             words.json             the words
             manifest.json          settings, the evidence's digest, digests of files

KEY is made of the settings and the evidence's digest, so an index is never of other
passages than it is looked for with.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from art_jax import atomic, manifest
from art_jax.data.evidence import EvidenceStore
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, CorruptError, DataError, require_package
from art_jax.types import SearchResults

# bm25s drops words of one character by default, and with them "C", "R" and "5".
_WORD_PATTERN = r"(?u)\b\w+\b"
_KIND = "bm25"
_VERSION = 1
_ARRAYS = {"scores.f32": "<f4", "rows.i32": "<i4", "starts.i64": "<i8"}


@dataclasses.dataclass(frozen=True)
class Bm25Settings:
    """How words are cut and weighed.

    k1: how soon further occurrences of a word stop to matter; Anserini's 0.9.
    b: how much the length of a passage matters, 0 to 1; Anserini's 0.4.
    stemmer: a language of Snowball, such as "english"; None leaves words as they are.
    stop_words: a list of bm25s: "en" (Lucene's 33 words), "en_plus" (179 words,
        NLTK's); None drops none.
    """

    k1: float = 0.9
    b: float = 0.4
    stemmer: str | None = "english"
    stop_words: str | None = "en_plus"

    def __post_init__(self):
        if not (self.k1 >= 0 and 0 <= self.b <= 1):
            raise ConfigError(
                f"BM25's k1 is {self.k1} and b {self.b}: k1 must be 0 or more, b "
                "between 0 and 1."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Bm25Index:
    """The scores of every word in every passage, ready to be summed.

    retriever: a `bm25s.BM25`.
    settings: that it was built with.
    """

    retriever: Any
    settings: Bm25Settings


def passage_text(passage: Passage) -> str:
    """What BM25 reads of a passage: its title, then its text."""
    return f"{passage.title} {passage.text}"


def open_bm25(
    evidence: EvidenceStore, settings: Bm25Settings = Bm25Settings()
) -> Bm25Index:
    """The index of an evidence store, built once and kept on disk beside it.

    Raises:
        ConfigError: bm25s or PyStemmer is not installed, or there is no such stemmer.
        CorruptError: a file of the index is damaged.
        DataError: no passage has a word.
    """
    folder = index_folder(evidence, settings)
    atomic.recover_directory(folder)
    if not folder.exists():
        index = build_bm25(map(passage_text, evidence.passages()), settings=settings)
        with atomic.building_directory(folder) as building:
            _write_index(index, building, evidence)
    return load_bm25(folder, settings)


def index_folder(evidence: EvidenceStore, settings: Bm25Settings) -> pathlib.Path:
    """Where `open_bm25` keeps the index of an evidence store."""
    identity = [_VERSION, evidence.digest, dataclasses.asdict(settings)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return evidence.directory.parent / "bm25" / key


def load_bm25(folder: pathlib.Path, settings: Bm25Settings) -> Bm25Index:
    """The index that lies in a folder; its arrays are mapped, not read.

    Raises:
        CorruptError: a file is missing or damaged, or it was built otherwise.
    """
    extra = manifest.verify_manifest(folder)["extra"]
    if extra.get("settings") != dataclasses.asdict(settings):
        raise CorruptError(
            f"{folder} is no BM25 index with these settings: delete it to build anew."
        )
    scores, rows, starts = (
        np.asarray(np.memmap(folder / name, dtype, mode="r"))
        for name, dtype in _ARRAYS.items()
    )
    words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    retriever = _bm25s().BM25(method="lucene", k1=settings.k1, b=settings.b)
    retriever.scores = {
        "data": scores,
        "indices": rows,
        "indptr": starts,
        "num_docs": extra["num_passages"],
    }
    retriever.vocab_dict = {word: number for number, word in enumerate(words)}
    retriever.nonoccurrence_array = None
    return Bm25Index(retriever, settings)


def build_bm25(
    texts: Iterable[str], settings: Bm25Settings = Bm25Settings()
) -> Bm25Index:
    """The index of some texts, in memory.

    Importing bm25s runs a JAX operation on the default device, so it happens here and
    not when this module is imported: set up JAX first.

    Args:
        texts: of the passages, in the order of their rows; see `passage_text`.
        settings: how words are cut and weighed.

    Raises:
        ConfigError: bm25s or PyStemmer is not installed, or there is no such stemmer.
        DataError: no text has a word.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), in
        Lucene's variant: weight log(1 + (N - n + 0.5) / (n + 0.5)) of a word in n of N
        passages, times f / (f + k1 (1 - b + b length / mean length)) for f occurrences.
        Differs in: lengths are exact, where Lucene keeps them in one byte.
    """
    tokens = _tokenize(texts, settings, return_ids=True)
    if not tokens.vocab:
        raise DataError("no passage has a word that BM25 could index")
    retriever = _bm25s().BM25(method="lucene", k1=settings.k1, b=settings.b)
    retriever.index(tokens, show_progress=False)
    return Bm25Index(retriever, settings)


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
    for place, all_scores in enumerate(_all_scores(index, questions)):
        found = _best_rows(all_scores, k)
        rows[place, : len(found)] = found
        scores[place, : len(found)] = all_scores[found]
    return SearchResults(scores=scores, rows=rows)


def score_rows(
    index: Bm25Index, questions: Sequence[str], rows: np.ndarray
) -> np.ndarray:
    """The scores of named passages; 0 where one shares no word with the question.

    Args:
        index: of N passages.
        questions: B texts.
        rows: [B, K] integers, of each question; -1 for none.

    Returns:
        [B, K] float32, what `search_bm25` gives passages it finds; -inf where row
        is -1.
    """
    scores = np.full(rows.shape, -np.inf, np.float32)
    for place, all_scores in enumerate(_all_scores(index, questions)):
        is_row = rows[place] >= 0
        scores[place, is_row] = all_scores[rows[place, is_row]]
    return scores


def _all_scores(index: Bm25Index, questions: Sequence[str]) -> Iterable[np.ndarray]:
    """Yields of each question the scores of all passages, [N] float32."""
    for words in _tokenize(questions, index.settings, return_ids=False):
        ids = index.retriever.get_tokens_ids(words)
        yield index.retriever.get_scores_from_ids(ids)


def _write_index(
    index: Bm25Index, folder: pathlib.Path, evidence: EvidenceStore
) -> None:
    retriever = index.retriever
    parts = (retriever.scores[name] for name in ("data", "indices", "indptr"))
    for (name, dtype), values in zip(_ARRAYS.items(), parts, strict=True):
        np.asarray(values, dtype).tofile(folder / name)
    words = sorted(retriever.vocab_dict, key=retriever.vocab_dict.__getitem__)
    text = json.dumps(words, ensure_ascii=False)
    (folder / "words.json").write_text(text, encoding="utf-8")
    extra = {
        "kind": _KIND,
        "settings": dataclasses.asdict(index.settings),
        "num_passages": int(retriever.scores["num_docs"]),
        "evidence_digest": evidence.digest,
    }
    manifest.write_manifest(folder, extra)


def _bm25s():
    bm25s = require_package("bm25s", purpose="BM25 search")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # It starts at DEBUG.
    return bm25s


def _tokenize(texts: Iterable[str], settings: Bm25Settings, *, return_ids: bool):
    return _bm25s().tokenize(
        texts,
        token_pattern=_WORD_PATTERN,
        stopwords=settings.stop_words,
        stemmer=_stemmer(settings.stemmer),
        return_ids=return_ids,
        show_progress=False,
    )


def _stemmer(language: str | None):
    if language is None:
        return None
    snowball = require_package("Stemmer", purpose="BM25 search")
    if language not in snowball.algorithms():
        raise ConfigError(
            f"there is no stemmer {language!r}: choose of "
            f"{', '.join(sorted(snowball.algorithms()))}, or none."
        )
    return snowball.Stemmer(language)


def _best_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """At most k rows of positive score [N], best first, equal scores by row."""
    candidates = np.flatnonzero(scores > 0)
    if len(candidates) > k:
        # bm25s picks among equal scores as its partition happens to leave them.
        kth = np.partition(scores[candidates], -k)[-k]
        candidates = candidates[scores[candidates] >= kth]
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
