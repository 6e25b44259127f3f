"""Questions with several answers: are they all found, and soon?

Each answer is a group of aliases; it is found where any of them is.
"""

from collections.abc import Sequence

import numpy as np

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation.answers import answer_hits, normalize

Groups = Sequence[Sequence[str]]  # the answers of a question, each with its aliases


def answers_held(
    rows: np.ndarray, text_of_row, answers: Sequence[Groups], match: str = "string"
) -> list[np.ndarray]:
    """Which passage of each question holds which of its answers.

    Args:
        rows: [n, K] integers, the passages found for each question; -1 for none.
        text_of_row: gives the text of a row, without its title.
        answers: n sequences of answers, each with its aliases.
        match: one of `answers.MATCHES`.

    Returns:
        n arrays, [K, number of answers] bool.

    Raises:
        DataError: a question has no answer.
        ValueError: `rows` and `answers` are of different lengths.
    """
    if len(rows) != len(answers):
        raise ValueError(
            f"rankings of {len(rows)} questions, answers of {len(answers)}"
        )
    for place, groups in enumerate(answers):
        if not groups:
            raise DataError(f"question {place} has no answer to be found.")
    counts = [len(groups) for groups in answers]
    # One line a pair of question and answer, so that each text is prepared once.
    flat = answer_hits(
        np.repeat(np.asarray(rows), counts, axis=0),
        text_of_row,
        [group for groups in answers for group in groups],
        match,
    )
    return [part.T for part in np.split(flat, np.cumsum(counts)[:-1])]


def multi_answer_recall(held: Sequence[np.ndarray], k: int) -> np.ndarray:
    """MRecall@k: whether the first k passages hold all answers, or k of them.

    Args:
        held: of each question, [K, number of answers] bool, see `answers_held`.
        k: between 1 and K.

    Returns:
        [n] bool. Report its mean over all questions, and over those with several
        answers.

    Raises:
        ConfigError: k is below 1 or above K.

    Source: Min et al., arXiv:2104.08445, section 2. QUEST and LOFT use the name for
        other measures.
    """
    _check_depth(held, k)
    return np.array(
        [
            each[:k].any(axis=0).sum() >= min(each.shape[1], k)
            for each in map(np.asarray, held)
        ],
        bool,
    )


def alpha_ndcg(
    held: np.ndarray, k: int, *, alpha: float = 0.9, pool: np.ndarray | None = None
) -> float:
    """alpha-nDCG@k of one ranking: an answer found again gains less each time.

    A passage gains (1 - alpha)^c for each answer it holds, c being how many passages
    before it hold that answer, divided by log2(rank + 1). The ideal order, by which
    the sum is divided, is found greedily.

    Args:
        held: [K, number of answers] bool, of the ranking.
        k: between 1 and K.
        alpha: between 0 and 1.
        pool: [P, number of answers] bool, all passages the ideal may choose from;
            None: those of the ranking.

    Returns:
        Between 0 and 1 where the pool holds what the ranking does; 0 where no passage
        holds an answer.

    Raises:
        ConfigError: k or alpha is out of its range.

    Source: Clarke et al., SIGIR 2008; alpha of Min et al., arXiv:2104.08445. The same
        numbers as pyndeval's alpha-nDCG.
    """
    _check_depth([held], k)
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}: it must be between 0 and 1.")
    held = np.asarray(held, bool)
    pool = held if pool is None else np.asarray(pool, bool)
    discounts = 1 / np.log2(np.arange(k) + 2)
    ideal = _greedy_gains(pool, k, alpha)
    best = float(ideal @ discounts[: len(ideal)])
    return float(_gains(held[:k], alpha) @ discounts) / best if best else 0.0


def answer_set_f1(predictions: Sequence[str], annotations: Sequence[Groups]) -> float:
    """F1 between a set of predicted answers and the right ones; the best annotation.

    A prediction serves one right answer at most: going through the right answers in
    their order, each takes the first prediction left that equals one of its aliases.
    That is not always the best pairing, but the official one. A prediction made twice
    counts twice.

    Args:
        predictions: one or more.
        annotations: different annotators' answers, each answer with its aliases.

    Raises:
        DataError: there is no prediction or no annotation.

    Source: AmbigQA (arXiv:2004.10645) and the behaviour of its official evaluation.
    """
    if not predictions or not annotations:
        raise DataError(
            f"{len(predictions)} predictions are to be compared with "
            f"{len(annotations)} annotations: there must be one of each at least."
        )
    return max(_f1_of_sets(predictions, groups) for groups in annotations)


def _f1_of_sets(predictions: Sequence[str], groups: Groups) -> float:
    found = [normalize(text) for text in predictions]
    is_used = [False] * len(found)
    num_matched = 0
    for group in groups:
        aliases = {normalize(alias) for alias in group}
        for place, text in enumerate(found):
            if not is_used[place] and text in aliases:
                is_used[place] = True
                num_matched += 1
                break
    if not num_matched:
        return 0.0
    precision, recall = num_matched / len(found), num_matched / len(groups)
    return 2 * precision * recall / (precision + recall)


def _gains(held: np.ndarray, alpha: float) -> np.ndarray:
    """What each passage of a ranking gains, before the discount by rank; [K]."""
    seen_before = np.cumsum(held, axis=0) - held
    return (held * (1 - alpha) ** seen_before).sum(axis=1)


def _greedy_gains(pool: np.ndarray, k: int, alpha: float) -> np.ndarray:
    """The gains of taking, k times, the passage of the pool that gains the most."""
    seen = np.zeros(pool.shape[1], np.int64)
    is_left = np.ones(len(pool), bool)
    gains = []
    for _ in range(min(k, len(pool))):
        each = np.where(is_left, pool @ (1 - alpha) ** seen, -1.0)
        best = int(each.argmax())
        gains.append(each[best])
        is_left[best] = False
        seen += pool[best]
    return np.array(gains)


def _check_depth(held: Sequence[np.ndarray], k: int) -> None:
    depth = min((len(each) for each in held), default=0)
    if not 1 <= k <= depth:
        raise ConfigError(
            f"k={k} of the {depth} passages found: ask for k between 1 and that "
            "number, or retrieve more passages."
        )
