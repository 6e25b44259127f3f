"""The passages found for questions, in the one shape that all measures take.

`found` is an object array [n, K]: of each question the `Candidate`s, best first, and
None where there are no more. The rank decides; scores must never contradict it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from art_jax.data.examples import Candidate
from art_jax.data.passages import Passage
from art_jax.errors import DataError
from art_jax.evaluation.runs import Ranking
from art_jax.types import SearchResults


def of_search(
    results: SearchResults,
    passage_of_row: Callable[[int], Passage],
    depth: int | None = None,
) -> np.ndarray:
    """What a search found, as candidates.

    Args:
        results: NumPy arrays [n, K]; row -1 where there is no passage.
        passage_of_row: such as `EvidenceStore.passage`; asked once for each row.
        depth: columns of the result, at least K: where all passages there are were
            found, what lies deeper is known to be nothing. None: K.
    """
    rows = np.asarray(results.rows)
    passages = {
        row: passage_of_row(row) for row in np.unique(rows).tolist() if row >= 0
    }
    scores = np.asarray(results.scores).tolist()
    found = np.empty((len(rows), depth or rows.shape[1]), object)
    for place, row in np.ndenumerate(rows):
        if row >= 0:
            score = scores[place[0]][place[1]]
            found[place] = Candidate(passages[int(row)], score)
    return found


def stack(rankings: Sequence[Sequence[Candidate]]) -> np.ndarray:
    """Rankings of different lengths as one array, None behind the shorter ones."""
    depth = max(map(len, rankings), default=0)
    found = np.empty((len(rankings), max(depth, 1)), object)
    for place, ranking in enumerate(rankings):
        found[place, : len(ranking)] = ranking
    return found


def rows_and_passages(found: np.ndarray) -> tuple[np.ndarray, list[Passage]]:
    """Numbers of passages, equal where their ids are, and the passages numbered.

    Returns:
        [n, K] int64, -1 for None; and the passages that the numbers 0, 1, ... are of.
    """
    numbers: dict[str, int] = {}
    passages: list[Passage] = []
    rows = np.full(found.shape, -1, np.int64)
    for place, candidate in np.ndenumerate(found):
        if candidate is None:
            continue
        passage = candidate.passage
        number = numbers.setdefault(passage.passage_id, len(passages))
        if number == len(passages):
            passages.append(passage)
        rows[place] = number
    return rows, passages


def ids_of(ranking: Sequence[Candidate | None]) -> list[str]:
    """The ids of the passages of one question, best first."""
    return [one.passage.passage_id for one in ranking if one is not None]


def as_run(
    question_ids: Sequence[str],
    found: np.ndarray,
    *,
    ignore_identical_ids: bool = False,
) -> dict[str, Ranking]:
    """The same as a run, of each question a ranking; some may be empty.

    Args:
        question_ids: n ids.
        found: [n, K].
        ignore_identical_ids: leave out a passage whose id is that of its question, as
            BEIR's library does: some of its questions are passages of the corpus.

    Raises:
        DataError: a question or, for one question, a passage comes twice; a score is
            missing, not finite or higher than the one before it.
    """
    run: dict[str, Ranking] = {}
    for question_id, row in zip(question_ids, found, strict=True):
        if question_id in run:
            raise DataError(f"question {question_id!r} comes twice: give it one id.")
        scores: dict[str, float] = {}
        last = math.inf
        for candidate in row:
            if candidate is None:
                continue
            passage_id, score = candidate.passage.passage_id, candidate.score
            if score is None or not math.isfinite(score) or score > last:
                raise DataError(
                    f"passage {passage_id!r} of question {question_id!r} has the score "
                    f"{score} behind {last}: scores must be finite and never rise, "
                    "since measures of graded relevance rank by them."
                )
            if passage_id in scores:
                raise DataError(
                    f"passage {passage_id!r} comes twice for question {question_id!r}: "
                    "a passage counts once."
                )
            scores[passage_id] = last = score
        if ignore_identical_ids:
            scores.pop(question_id, None)
        run[question_id] = Ranking(tuple(scores), tuple(scores.values()))
    return run


def of_run(run: Mapping[str, Ranking], question_ids: Sequence[str]) -> np.ndarray:
    """A run's candidates for some questions, in their order; texts are not known.

    A question that the run has not got has no candidates.
    """
    empty = Ranking((), ())
    return stack(
        [
            [
                Candidate(Passage(passage_id, ""), score)
                for passage_id, score in zip(
                    ranking.passage_ids, ranking.scores, strict=True
                )
            ]
            for ranking in (run.get(name, empty) for name in question_ids)
        ]
    )
