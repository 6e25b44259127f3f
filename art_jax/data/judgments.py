"""Judgments (qrels): how relevant which passages are to a question.

Two formats, told by their columns, each also gzipped:

- TREC: `question_id 0 passage_id grade`, separated by white space, no header.
- BEIR: `query-id<TAB>corpus-id<TAB>score`, with this header.
"""

import os
from collections.abc import Mapping

from art_jax.data import text_files
from art_jax.errors import ConfigError, DataError

FORMATS = ("trec", "beir")
BEIR_HEADER = "query-id\tcorpus-id\tscore"

Judgments = Mapping[str, Mapping[str, int]]  # question id -> passage id -> grade


def read_judgments(path: str | os.PathLike) -> dict[str, dict[str, int]]:
    """The grade of each judged passage of each question, in the file's order.

    Raises:
        DataError: naming file and line, where there are not three or four columns, a
            grade is no whole number, or a passage is judged twice for a question; or
            where the file holds no judgment.
    """
    judgments: dict[str, dict[str, int]] = {}
    for number, line in text_files.read_raw_lines(path):
        text = text_files.decode_line(line, path, number)
        if number == 1 and text.split() == BEIR_HEADER.split():
            continue
        question_id, passage_id, grade = _fields(text, path, number)
        grades = judgments.setdefault(question_id, {})
        if passage_id in grades:
            raise DataError(
                f"passage {passage_id!r} is judged twice for question {question_id!r}. "
                "Keep one of the lines.",
                path,
                number,
            )
        grades[passage_id] = grade
    if not judgments:
        raise DataError("the file holds no judgment.", path)
    return judgments


def write_judgments(
    path: str | os.PathLike, judgments: Judgments, file_format: str
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
    count = 0
    with text_files.open_new_text(path) as file:
        if not is_trec:
            file.write(BEIR_HEADER + "\n")
        for question_id, grades in judgments.items():
            for passage_id, grade in grades.items():
                for name in (question_id, passage_id):
                    parts = name.split() if is_trec else name.splitlines()
                    if parts != [name] or "\t" in name:
                        raise DataError(
                            f"the id {name!r} is empty or holds what separates the "
                            f"columns of format {file_format!r}. Rename it."
                        )
                middle = " 0 " if is_trec else "\t"
                end = " " if is_trec else "\t"
                file.write(f"{question_id}{middle}{passage_id}{end}{grade}\n")
                count += 1
    return count


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
