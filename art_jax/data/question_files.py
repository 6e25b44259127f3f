"""Files of questions as other tools read them; `read_questions` reads all of them.

    dpr-questions   `question<TAB>["answer", ...]`, as DPR and ART read theirs
    nq-open         JSON lines: question, answer (a list)
    text-questions  one question a line

None of them holds ids: a question's id is its line. For each, `keep_X(question, line)`
is what a file holds of a question, and `write_X` writes questions of which that is all.
Files appear only when they are whole, gzipped where the name ends in `.gz`.
"""

import json
import os
from collections.abc import Callable, Iterable

from art_jax.data import text_files
from art_jax.data.passages import quoted_field
from art_jax.data.questions import Question, check_question

Path = str | os.PathLike


def one_line(text: str) -> str:
    """The text with line feeds turned into spaces, and no carriage return at its end.

    Nor byte order marks at its start, which a reader would take for the file's.
    """
    return text.replace("\n", " ").rstrip("\r").lstrip("\ufeff")


def keep_dpr_question(question: Question, line: int) -> Question:
    """What a row of DPR's holds: the question on one line, and its answers."""
    return Question(str(line), one_line(question.text), question.answers)


def write_dpr_questions(path: Path, questions: Iterable[Question]) -> int:
    """Writes DPR's rows and returns how many; answers are a list in JSON.

    Which is also one of Python's literals, as DPR reads them.
    """

    def row(question: Question) -> str:
        answers = json.dumps(question.answers, ensure_ascii=False)
        return f"{quoted_field(question.text)}\t{answers}"

    return _write_lines(path, questions, row)


def keep_nq_open(question: Question, line: int) -> Question:
    """What a line of NQ-open holds: the question and its answers."""
    return Question(str(line), question.text, question.answers)


def write_nq_open(path: Path, questions: Iterable[Question]) -> int:
    """Writes lines of NQ-open and returns how many."""

    def row(question: Question) -> str:
        record = {"question": question.text, "answer": question.answers}
        return json.dumps(record, ensure_ascii=False)

    return _write_lines(path, questions, row)


def keep_text_question(question: Question, line: int) -> Question:
    """What a line of text holds: the question."""
    return Question(str(line), one_line(question.text))


def write_text_questions(path: Path, questions: Iterable[Question]) -> int:
    """Writes one question a line and returns how many."""
    return _write_lines(path, questions, lambda question: question.text)


def _write_lines(
    path: Path, questions: Iterable[Question], row: Callable[[Question], str]
) -> int:
    count = 0
    with text_files.open_new_text(path) as file:
        for count, question in enumerate(questions, 1):  # noqa: B007
            check_question(question, None, None)
            file.write(row(question) + "\n")
    return count
