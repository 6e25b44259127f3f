"""Run files in TREC's format: the ranking of every question, one passage a line.

    question_id Q0 passage_id rank score tag

A reader that ranks by score alone, as trec_eval does, orders passages of equal score by
their ids; here the rank decides.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence

from art_jax.data.text_files import decode_line, open_new_text, read_raw_lines
from art_jax.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    """The passages found for one question, best first.

    passage_ids: each once.
    scores: finite, none higher than the one before it.
    """

    passage_ids: tuple[str, ...]
    scores: tuple[float, ...]


def write_run(
    path: str | os.PathLike, run: Iterable[tuple[str, Ranking]], tag: str
) -> None:
    """Writes a run; a file at `path` is replaced only once the new one is whole.

    Gzipped where the name ends in `.gz`.

    Scores are written with nine digits, which tells any two float32 apart.

    Args:
        path: of the file.
        run: (question_id, ranking) pairs; each question once. An empty ranking leaves
            no line.
        tag: the run's name, without white space.

    Raises:
        DataError: an id or the tag is empty or holds white space; a question or a
            passage of its ranking comes twice; scores rise or are not finite. Nothing
            is written.
    """
    _check_name(tag, "the run's tag", path)
    seen = set()
    with open_new_text(path) as file:
        for question_id, ranking in run:
            if question_id in seen:
                raise DataError(
                    f"question {question_id!r} comes twice in the run", path
                )
            seen.add(question_id)
            _check_name(question_id, "question id", path)
            _check_ranking(question_id, ranking, path)
            for rank, (passage_id, score) in enumerate(
                zip(ranking.passage_ids, ranking.scores, strict=True), start=1
            ):
                file.write(f"{question_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")


def read_run(path: str | os.PathLike) -> dict[str, Ranking]:
    """The ranking of each question of a run file, questions in the file's order.

    Args:
        path: of the file. The lines of a question need not be together.

    Raises:
        DataError: with the line: it has not six fields, its rank is not one more than
            the one before it (the first is 1), its score is not finite or is higher
            than the one before, or the passage was there already; or bad UTF-8; or
            the file holds no line.
    """
    passages: dict[str, dict[str, float]] = {}
    for line_number, line in read_raw_lines(path):
        fields = decode_line(line, path, line_number).split()
        if len(fields) != 6:
            raise DataError(
                f"{len(fields)} fields where a run has six, separated by white space: "
                "question_id Q0 passage_id rank score tag",
                path,
                line_number,
            )
        question_id, _, passage_id, rank, score, _ = fields
        found = passages.setdefault(question_id, {})
        _check_line(found, passage_id, rank, score, path, line_number)
        found[passage_id] = float(score)
    if not passages:
        raise DataError("the run holds no line", path)
    return {
        question_id: Ranking(tuple(found), tuple(found.values()))
        for question_id, found in passages.items()
    }


def rankings_of(
    run: Mapping[str, Ranking], question_ids: Sequence[str]
) -> list[Ranking]:
    """The rankings of some questions, in their order.

    Questions of the run that are not asked for are left out.

    Raises:
        DataError: the run lacks some of the questions, of which the first is named.
            A question for which nothing was found has no line in a run file, so leave
            it out of `question_ids` only where that is what you mean to measure.
    """
    missing = [name for name in question_ids if name not in run]
    if missing:
        raise DataError(
            f"the run lacks {len(missing)} of {len(question_ids)} questions, the first "
            f"of them {missing[0]!r}: a measure over the rest would be of another set"
        )
    return [run[name] for name in question_ids]


def _check_name(name: str, what: str, path: object) -> None:
    if not name or name.split() != [name]:
        raise DataError(
            f"{what} {name!r} is empty or holds white space, which separates the "
            "fields of a run: rename it",
            path,
        )


def _check_ranking(question_id: str, ranking: Ranking, path: object) -> None:
    seen, last = set(), math.inf
    for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True):
        _check_name(passage_id, "passage id", path)
        if passage_id in seen:
            raise DataError(
                f"passage {passage_id!r} comes twice for question {question_id!r}", path
            )
        if not math.isfinite(score) or score > last:
            raise DataError(
                f"passage {passage_id!r} of question {question_id!r} has score {score} "
                f"behind {last}: scores must be finite and never rise",
                path,
            )
        seen.add(passage_id)
        last = score


def _check_line(
    found: Mapping[str, float], passage_id: str, rank: str, score: str, path, line: int
) -> None:
    if rank != str(len(found) + 1):
        raise DataError(
            f"rank {rank!r} where {len(found) + 1} is due: the ranks of a question are "
            "1, 2, 3 and so on",
            path,
            line,
        )
    if passage_id in found:
        raise DataError(
            f"passage {passage_id!r} comes twice for its question", path, line
        )
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"score {score!r} is not a finite number", path, line)
    if found and value > next(reversed(found.values())):
        raise DataError(
            f"score {score} is higher than that of the rank before it: the best "
            "passage comes first",
            path,
            line,
        )
