"""What `art-jax rerank` prints: how good rankings are, before and after."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np

from art_jax.data.examples import RankedQuestion
from art_jax.errors import ConfigError
from art_jax.evaluation import answers, measures
from art_jax.teacher.passage_pool import make_pool

DEPTHS = (1, 5, 10, 20, 50, 100, 1000)
_MULTI_DEPTHS = (5, 10)


def has_several_answers(ranked: Sequence[RankedQuestion]) -> bool:
    """Whether some question has several answers, each with its aliases."""
    return any(len(one.question.answer_groups) > 1 for one in ranked)


def can_evaluate() -> bool:
    """Whether SeqIO is installed, which a bare accelerator machine may do without."""
    return importlib.util.find_spec("seqio") is not None


def measure_answers(
    rankings: Mapping[str, Sequence[RankedQuestion]], *, k: int, match: str
) -> dict[str, dict[str, float]]:
    """Returns what SeqIO's evaluator gives of each ranking, by its name.

    Args:
        rankings: of the same questions.
        k: a depth to report beside 5 and 10.
        match: how answers are compared, see `evaluation.answers`.

    Raises:
        ConfigError: SeqIO is not installed, or no depth is reached.
        DataError: no question has answers.
    """
    # It imports TensorFlow, which takes seconds.
    from art_jax.evaluation.ranked_tasks import evaluate_rankings

    ks = sorted({k, *_MULTI_DEPTHS})
    return evaluate_rankings(rankings, ks=ks, match=match)


def measure_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Returns measures as a table of text: a line each, a column for each ranking."""
    first = next(iter(results.values()))
    names = [name for name in first if name != "num_questions"]
    width = max(map(len, names)) + 2
    lines = [" " * width + "".join(label.rjust(12) for label in results)]
    for name in names:
        values = "".join(f"{result[name]:12.3f}" for result in results.values())
        lines.append(name.ljust(width) + values)
    return "\n".join(lines)


def best_by(results: Mapping[str, Mapping[str, float]], measure: str) -> str:
    """Returns the name of the ranking that is best by a measure; of equals the first.

    Raises:
        ConfigError: there is no such measure.
    """
    first = next(iter(results.values()))
    if measure not in first:
        raise ConfigError(
            f"there is no measure {measure!r} to choose by; there are "
            f"{', '.join(name for name in first if name != 'num_questions')}."
        )
    return max(results, key=lambda label: results[label][measure])


def find_hits(
    ranked: list[RankedQuestion], match: str
) -> tuple[list[RankedQuestion], np.ndarray | None]:
    """Returns rankings that say which candidates are right, and the same as an array.

    A question with `relevant_ids` is judged by them; otherwise what its candidates
    say of themselves counts, and where they say nothing, whether they hold one of its
    answers, which they say from then on.

    Args:
        ranked: n rankings.
        match: how answers are compared, see `evaluation.answers`.

    Returns:
        [n, K] bool, False behind a shorter ranking; None where of some question
        nobody knows what is right.
    """
    unmarked = [place for place, one in enumerate(ranked) if _is_to_be_matched(one)]
    pool = make_pool([ranked[place] for place in unmarked])
    found = answers.answer_hits(
        pool.rows,
        lambda row: pool.passages[row].text,
        [ranked[place].question.answers for place in unmarked],
        match,
    )
    ranked = list(ranked)
    for place, row in zip(unmarked, found.tolist(), strict=True):
        one = ranked[place]
        candidates = tuple(
            dataclasses.replace(candidate, has_answer=is_hit)
            for candidate, is_hit in zip(one.candidates, row, strict=False)
        )
        ranked[place] = dataclasses.replace(one, candidates=candidates)
    depth = max((len(one.candidates) for one in ranked), default=0)
    return ranked, hits_of(ranked, depth) if depth else None


def hits_of(ranked: Sequence[RankedQuestion], depth: int) -> np.ndarray | None:
    """Returns which candidates are right by what is known of them, [n, depth] bool.

    None where of some question nobody knows.
    """
    hits = np.zeros((len(ranked), depth), bool)
    for place, one in enumerate(ranked):
        row = _hits_of(one)
        if row is None:
            return None
        hits[place, : len(row)] = row
    return hits


def accuracy_table(hits: Mapping[str, np.ndarray]) -> str:
    """Returns top-k accuracies as a table of text, a row for each name.

    Args:
        hits: [n, K] bool, best candidate first, by name.
    """
    width = max(map(len, hits)) + 2
    depths = [k for k in DEPTHS if k <= max(len(row[0]) for row in hits.values())]
    lines = [" " * width + "".join(f"top-{k}".rjust(10) for k in depths)]
    for name, array in hits.items():
        shares = measures.top_k_accuracy(array, depths)
        lines.append(name.ljust(width) + "".join(f"{shares[k]:10.3f}" for k in depths))
    return "\n".join(lines)


def _is_to_be_matched(one: RankedQuestion) -> bool:
    return (
        bool(one.question.answers)
        and not one.question.relevant_ids
        and any(candidate.has_answer is None for candidate in one.candidates)
    )


def _hits_of(one: RankedQuestion) -> list[bool] | None:
    """Which candidates of a question are right; None where nobody knows."""
    if one.question.relevant_ids:
        relevant = frozenset(one.question.relevant_ids)
        return [
            candidate.passage.passage_id in relevant for candidate in one.candidates
        ]
    hits = [candidate.has_answer for candidate in one.candidates]
    return None if None in hits else hits
