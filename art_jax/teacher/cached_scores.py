"""Teacher scores looked up on the host; the teacher is asked for the others only."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.teacher.interface import Teacher
from art_jax.teacher.score_cache import ScoreCache
from art_jax.types import Params

# (questions [n] int, rows [n] or [n, K] int32) -> float32 as rows, on the host
ScorePairs = Callable[[np.ndarray, np.ndarray], np.ndarray]


def open_scorer(
    directory: pathlib.Path | None,
    key: Mapping[str, str],
    teacher: Teacher,
    params: Params,
    question_rows: np.ndarray,
    passages: DeviceRows | HostRows,
    *,
    pairs_a_call: int,
) -> tuple[ScorePairs, Callable[[], None]]:
    """Returns `score_batch` with a cache and a teacher, and what flushes the cache.

    Args:
        directory: of the cache alone; made where there is none.
        key: what scores depend on, by name; see `ScoreCache.open`.
        teacher: asked for what is not known.
        params: its parameters.
        question_rows: [n, T] int32, every question as the teacher reads it.
        passages: the evidence as the teacher reads it.
        pairs_a_call: of the teacher, at most, but for the data axis.

    Raises:
        ConfigError: no folder is given, or it holds scores of another key.
    """
    if directory is None:
        raise ConfigError("cache_scores needs a directory to keep scores in.")
    cache = ScoreCache.open(directory, key)
    score_pairs = build_score_pairs(
        teacher, params, question_rows, passages, pairs_a_call=pairs_a_call
    )
    return functools.partial(score_batch, cache, score_pairs), cache.flush


def questions_digest(texts: Sequence[str]) -> str:
    """Returns a digest of questions in their order, by which a cache numbers them."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def score_batch(
    cache: ScoreCache,
    score_pairs: ScorePairs,
    questions: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """Returns the scores of a batch, [B, K] float32; 0 where there is no passage.

    Collective: after a kill one process may know more than another, so that the first
    looks up for all, and keeps what all are told.

    Args:
        cache: asked first, and given what it did not know.
        score_pairs: asks the teacher, which is to be a function of its pair alone.
        questions: [B] int, numbers of the questions.
        rows: [B, K] int32, rows of the table; -1 for none.
    """
    scores = cache.lookup(questions, rows)
    if jax.process_count() > 1:
        scores = multihost_utils.broadcast_one_to_all(scores)
    scores = np.where(rows >= 0, scores, np.float32(0))
    where = np.nonzero(np.isnan(scores))
    if len(where[0]):
        some_questions, some_rows = questions[where[0]], rows[where]
        found = score_pairs(some_questions, some_rows)
        if jax.process_index() == 0:
            cache.add(some_questions, some_rows[:, None], found[:, None])
        scores[where] = found
    return scores


def score_rankings(
    score_pairs: ScorePairs,
    rows: np.ndarray,
    *,
    pairs_a_call: int,
    cache: ScoreCache | None = None,
) -> Iterator[np.ndarray]:
    """Yields the scores of each question's rows, [K] float32; 0 where there is none.

    Args:
        score_pairs: asked for whole questions, as many as fit in a call.
        rows: [n, K] int32, of n questions; -1 for none.
        pairs_a_call: of a question and a row, unless one question has more.
        cache: asked first; what is found is on disk before it is yielded.
    """
    questions_a_call = max(1, pairs_a_call // max(1, rows.shape[1]))
    for start in range(0, len(rows), questions_a_call):
        questions = np.arange(start, min(start + questions_a_call, len(rows)))
        some_rows = rows[questions]
        if cache is None:
            scores = np.zeros(some_rows.shape, np.float32)
            where = np.nonzero(some_rows >= 0)
            if len(where[0]):
                scores[where] = score_pairs(questions[where[0]], some_rows[where])
        else:
            scores = score_batch(cache, score_pairs, questions, some_rows)
            cache.flush()
        yield from scores


def build_score_pairs(
    teacher: Teacher,
    params: Params,
    question_rows: np.ndarray,
    passages: DeviceRows | HostRows,
    *,
    pairs_a_call: int,
) -> ScorePairs:
    """Returns what asks the teacher for any number of pairs, compiled once.

    Args:
        teacher: the teacher.
        params: its parameters.
        question_rows: [n, T] int32, every question as the teacher reads it.
        passages: the evidence as the teacher reads it.
        pairs_a_call: at most; rounded up to a multiple of the data axis. The last call
            is filled up.
    """
    data_size = passages.mesh.shape[partitioning.DATA_AXIS]
    sharding = partitioning.batch_sharding(passages.mesh)
    size = -(-pairs_a_call // data_size) * data_size
    is_placed = isinstance(passages, DeviceRows)

    @jax.jit
    def score(params, question_tokens, tokens, rows_P1):
        if is_placed:
            tokens = dataclasses.replace(passages, tokens=tokens).gather(rows_P1)
        return teacher.score(params, question_tokens, tokens, passage_rows=rows_P1)

    def score_pairs(questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        scores = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            num_pairs = len(rows[part])
            filled = np.full((size, 1), -1, np.int32)
            filled[:num_pairs, 0] = rows[part]
            numbers = np.zeros(size, np.int64)
            numbers[:num_pairs] = questions[part]
            tokens = passages.tokens if is_placed else passages.gather(filled)
            found = score(
                params,
                partitioning.put_global(question_rows[numbers], sharding),
                tokens,
                partitioning.put_global(filled, sharding),
            )
            scores.append(partitioning.to_host(found)[:num_pairs, 0])
        return np.concatenate(scores)

    return score_pairs
