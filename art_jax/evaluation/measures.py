"""How good a ranking is, from which of its passages are hits.

Passages stand best first. `hits[i, j]` says whether passage j of question i is one; the
number of passages asked for, k, is never larger than the number of columns: pad a
shorter ranking with False (rows with -1) to say that nothing more was found.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from art_jax.data.passages import Passage
from art_jax.data.question_table import QuestionTable
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import answers as answer_matching


def top_k_accuracy(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """The share of questions with a hit among their first k passages, for each k.

    ART's and DPR's measure; TREC calls it success@k.

    Args:
        hits: [n, K] bool, best passage first.
        ks: numbers between 1 and K.

    Raises:
        DataError: there is no question.
        ConfigError: a k is larger than K or smaller than 1.

    Source: DPR (arXiv:2004.04906), section 3; ART (arXiv:2206.10658), section 4.
    """
    hits = _checked_hits(hits, ks)
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def recall(
    hits: np.ndarray, num_relevant: np.ndarray, ks: Sequence[int]
) -> dict[int, float]:
    """The share of relevant passages among the first k, averaged over questions.

    Args:
        hits: [n, K] bool, whether a passage is one of the relevant ones; no passage
            stands twice in a ranking.
        num_relevant: [n] integers, how many relevant passages there are to find.
        ks: numbers between 1 and K.

    Raises:
        DataError: there is no question, or one has no relevant passage, or has fewer
            than it has hits.
        ConfigError: a k is larger than K or smaller than 1.
    """
    hits = _checked_hits(hits, ks)
    num_relevant = np.asarray(num_relevant)
    if num_relevant.shape != hits.shape[:1]:
        raise ValueError(
            f"num_relevant has shape {num_relevant.shape} for {len(hits)} questions"
        )
    wrong = np.flatnonzero((num_relevant < 1) | (hits.sum(axis=1) > num_relevant))
    if wrong.size:
        row = wrong[0]
        raise DataError(
            f"question {row} has {hits[row].sum()} hits of {num_relevant[row]} "
            "relevant passages: recall needs one at least, and each found once at most"
        )
    found = np.cumsum(hits, axis=1)
    return {k: float((found[:, k - 1] / num_relevant).mean()) for k in ks}


def mean_reciprocal_rank(hits: np.ndarray, k: int) -> float:
    """The mean of 1 / (rank of the first hit among the first k passages), 0 for none.

    Args:
        hits: [n, K] bool, best passage first.
        k: between 1 and K.

    Raises:
        DataError: there is no question.
        ConfigError: k is larger than K or smaller than 1.
    """
    hits = _checked_hits(hits, [k])[:, :k]
    ranks = hits.argmax(axis=1) + 1.0
    return float(np.where(hits.any(axis=1), 1 / ranks, 0.0).mean())


def gold_ranks(scores: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """How many passages of a pool stand before the right one, for each question.

    Args:
        scores: [n, P] float, of each question and each passage of the pool.
        gold: [n] integers, the column of each question's right passage.

    Returns:
        [n] int64, 0 for the best; equal scores go to the lower column.

    Raises:
        DataError: there is no question, or a score is NaN.
    """
    scores, gold = np.asarray(scores), np.asarray(gold)
    if scores.ndim != 2 or gold.shape != scores.shape[:1]:
        raise ValueError(f"scores are {scores.shape}, columns are {gold.shape}")
    if not len(scores):
        raise DataError("there are no questions to evaluate")
    if np.isnan(scores).any():
        raise DataError("a score is NaN: embed again with weights that are finite")
    rights = np.take_along_axis(scores, gold[:, None], axis=1)
    is_before = np.arange(scores.shape[1])[None] < gold[:, None]
    return ((scores > rights) | ((scores == rights) & is_before)).sum(axis=1)


def average_rank(scores: np.ndarray, gold: np.ndarray) -> float:
    """The mean rank of the right passage in a pool; DPR picks checkpoints by it.

    0 is best. The pool is all passages of the questions that are compared, positive
    and negative, so the number grows with them: compare it over one pool only.

    Args:
        scores: [n, P] float, as for `gold_ranks`.
        gold: [n] integers, the column of each question's right passage.

    Raises:
        DataError: there is no question, or a score is NaN.

    Source: DPR (arXiv:2004.04906), the behaviour of its validation. Differs in: the
        pool is one; DPR ranks within each process's own part of it, so its numbers
        depend on how many there are (DPR's issue 32).
    """
    return float(gold_ranks(scores, gold).mean())


def question_hits(
    rows: np.ndarray,
    passage_of_row: Callable[[int], Passage],
    *,
    question_ids: Sequence[str],
    answers: Sequence[Sequence[str]],
    relevant_ids: Sequence[Sequence[str]],
    match: str = "string",
) -> np.ndarray:
    """Which passages found are right: those known to be, else those with an answer.

    A question with `relevant_ids` is judged by them alone; any other by `has_answer`
    on the passage's text, without its title.

    Args:
        rows: [n, K] integers, rows of the evidence, best first; -1 for none.
        passage_of_row: the passage of a row; asked once for each row.
        question_ids: n ids, for messages.
        answers: for each question.
        relevant_ids: for each question, ids of passages.
        match: how answers are compared, see `evaluation.answers`.

    Returns:
        [n, K] bool.

    Raises:
        DataError: rankings and questions differ in number; a question has neither
            relevant passages nor answers; a ranking holds a passage twice.
    """
    rows = np.asarray(rows)
    _check_rankings(rows, question_ids, answers, relevant_ids)
    passages = {
        row: passage_of_row(row) for row in np.unique(rows).tolist() if row >= 0
    }
    by_id = np.array([bool(ids) for ids in relevant_ids])
    hits = np.zeros(rows.shape, bool)
    for place in np.flatnonzero(by_id):
        relevant = frozenset(relevant_ids[place])
        hits[place] = [
            row >= 0 and passages[row].passage_id in relevant
            for row in rows[place].tolist()
        ]
    hits[~by_id] = answer_matching.answer_hits(
        rows[~by_id],
        lambda row: passages[row].text,
        [answers[place] for place in np.flatnonzero(~by_id)],
        match,
    )
    return hits


def evaluate_questions(
    table: QuestionTable,
    rows: np.ndarray,
    passage_of_row: Callable[[int], Passage],
    ks: Sequence[int],
    match: str = "string",
) -> dict[str, float]:
    """Top-k accuracy of the passages found for a table of questions.

    The numbers that `evaluator.evaluate_task` gives for the same questions, without
    SeqIO and TensorFlow.

    Args:
        table: n questions.
        rows: [n, K] integers, rows of the evidence, best first; -1 for none.
        passage_of_row: the passage of a row, such as `EvidenceStore.passage`.
        ks: numbers between 1 and K.
        match: how answers are compared, see `evaluation.answers`.

    Returns:
        `accuracy_metrics`: {"top_1_accuracy": ..., "num_questions": n}.

    Raises:
        DataError, ConfigError: as `question_hits` and `top_k_accuracy`.
    """
    hits = question_hits(
        rows,
        passage_of_row,
        question_ids=table.question_ids,
        answers=table.answers,
        relevant_ids=table.relevant_ids,
        match=match,
    )
    return accuracy_metrics(hits, ks)


def accuracy_metrics(hits: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Top-k accuracy under the names that reports and logs use.

    Args:
        hits: [n, K] bool, best passage first.
        ks: numbers between 1 and K.

    Returns:
        {"top_1_accuracy": share, ..., "num_questions": n}, a share for each k.
    """
    accuracies: Mapping[int, float] = top_k_accuracy(hits, ks)
    named = {f"top_{k}_accuracy": share for k, share in accuracies.items()}
    return {**named, "num_questions": len(hits)}


def _checked_hits(hits: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    hits = np.asarray(hits)
    if hits.ndim != 2 or hits.dtype != bool:
        raise ValueError(f"hits must be [n, K] bool, not {hits.shape} {hits.dtype}")
    if not len(hits):
        raise DataError("there are no questions to evaluate")
    for k in ks:
        if not 1 <= k <= hits.shape[1]:
            raise ConfigError(
                f"k={k} of the {hits.shape[1]} passages found for each question: ask "
                "for k between 1 and that number, or retrieve more passages"
            )
    return hits


def _check_rankings(rows, question_ids, answers, relevant_ids) -> None:
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows must be [n, K] integers, not {rows.shape} {rows.dtype}")
    if not len(rows) == len(question_ids) == len(answers) == len(relevant_ids):
        raise DataError(
            f"there are rankings for {len(rows)} questions of {len(question_ids)}: "
            "each question needs one (a row of -1 where nothing was found)"
        )
    for question_id, some_answers, ids in zip(
        question_ids, answers, relevant_ids, strict=True
    ):
        if not some_answers and not ids:
            raise DataError(
                f"question {question_id!r} has neither answers nor relevant_ids, so "
                "nothing says which passages are right: add one of them or leave it out"
            )
    in_order = np.sort(rows, axis=1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    if twice.any():
        place, column = np.argwhere(twice)[0]
        raise DataError(
            f"the ranking of question {question_ids[place]!r} holds row "
            f"{in_order[place, column]} twice: a passage counts once"
        )
