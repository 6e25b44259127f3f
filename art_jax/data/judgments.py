"""Judgments (qrels): how relevant which passages are to a question.

Two formats, told by their columns, each also gzipped:

- TREC: `question_id 0 passage_id grade`, separated by white space, no header.
- BEIR: `query-id<TAB>corpus-id<TAB>score`, with this header.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from art_jax.data import text_files
from art_jax.errors import ConfigError, DataError

FORMATS = ("trec", "beir")
BEIR_HEADER = "query-id\tcorpus-id\tscore"

Judgments = Mapping[str, Mapping[str, int]]  # question id -> passage id -> grade


class Judgment(NamedTuple):
    """How relevant a passage is to a question: higher is better, 0 or less is not."""

    question_id: str
    passage_id: str
    grade: int


def read_judgments(path: str | os.PathLike) -> dict[str, dict[str, int]]:
    """The grade of each judged passage of each question, in the file's order.

    Raises:
        DataError: as `iterate_judgments`.
    """
    judgments: dict[str, dict[str, int]] = {}
    for question_id, passage_id, grade in iterate_judgments(path):
        judgments.setdefault(question_id, {})[passage_id] = grade
    return judgments


def iterate_judgments(path: str | os.PathLike) -> Iterator[Judgment]:
    """Yields the judgments of a file, in order.

    Raises:
        DataError: naming file and line, where there are not three or four columns, a
            grade is no whole number, or a passage is judged twice for a question; or
            where the file holds no judgment.
    """
    seen = set()
    for number, line in text_files.read_raw_lines(path):
        text = text_files.decode_line(line, path, number)
        judgment = parse_judgment(text, path, number)
        if judgment is None:
            continue
        if judgment[:2] in seen:
            raise DataError(
                f"passage {judgment.passage_id!r} is judged twice for question "
                f"{judgment.question_id!r}. Keep one of the lines.",
                path,
                number,
            )
        seen.add(judgment[:2])
        yield judgment
    if not seen:
        raise DataError("the file holds no judgment.", path)


def write_judgments(
    path: str | os.PathLike, judgments: Judgments, file_format: str
) -> int:
    """Writes judgments and returns how many, as `write_judgment_rows`."""
    rows = (
        Judgment(question_id, passage_id, grade)
        for question_id, grades in judgments.items()
        for passage_id, grade in grades.items()
    )
    return write_judgment_rows(path, rows, file_format)


def write_judgment_rows(
    path: str | os.PathLike, judgments: Iterable[Judgment], file_format: str
) -> int:
    """Writes judgments and returns how many; the file appears only when it is whole.

    Args:
        path: of the file; gzipped where it ends in `.gz`.
        judgments: ids without white space for TREC, without tabs for BEIR.
        file_format: one of `FORMATS`.

    Raises:
        ConfigError: there is no such format.
        DataError: an id is empty or holds what separates columns.
    """
    if file_format not in FORMATS:
        raise ConfigError(
            f"there is no format {file_format!r} of judgments: choose of "
            f"{', '.join(FORMATS)}."
        )
    is_trec = file_format == "trec"
    middle, end = (" 0 ", " ") if is_trec else ("\t", "\t")
    count = 0
    with text_files.open_new_text(path) as file:
        if not is_trec:
            file.write(BEIR_HEADER + "\n")
        for count, row in enumerate(judgments, 1):  # noqa: B007
            question_id, passage_id, grade = row
            for name in (question_id, passage_id):
                parts = name.split() if is_trec else name.splitlines()
                if parts != [name] or "\t" in name:
                    raise DataError(
                        f"the id {name!r} is empty or holds what separates the "
                        f"columns of format {file_format!r}. Rename it."
                    )
            file.write(f"{question_id}{middle}{passage_id}{end}{grade}\n")
    return count


def parse_judgment(line: str, path: str | os.PathLike, number: int) -> Judgment | None:
    """The judgment on a line; None for the header of BEIR's files.

    Raises:
        DataError: there are not three or four columns, or the grade is no whole number.
    """
    if number == 1 and line.split() == BEIR_HEADER.split():
        return None
    return Judgment(*_fields(line, path, number))


def _fields(line: str, path: str | os.PathLike, number: int) -> tuple[str, str, int]:
    """The question, the passage and the grade on a line."""
    fields = line.split("\t")
    if len(fields) != 3:
        fields = line.split()
        if len(fields) == 4:
            del fields[1]
    if len(fields) != 3 or not all(fields):
        raise DataError(
            "a judgment is question_id 0 passage_id grade (TREC), or query-id, "
            "corpus-id and score with tabs between them (BEIR).",
            path,
            number,
        )
    try:
        grade = int(fields[2])
    except ValueError:
        raise DataError(
            f"the grade {fields[2]!r} is no whole number. Map grades to such numbers.",
            path,
            number,
        ) from None
    return fields[0], fields[1], grade
