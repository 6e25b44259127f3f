r"""Questions, and the files that hold them.

Three formats, each also gzipped (told by content, not by name):

- `.txt`: one question a line; its id is its line number.
- `.jsonl`, as in BEIR, NQ-open and others: an object with `text` or `question`, and
  as far as known `_id` (or `id`, `question_id`; otherwise the line number), `answers`
  (or `answer`; a string or several), `relevant_ids`, `grades`, `source_id`,
  `answer_groups`, `evidence`.
- `.csv` or `.tsv`, as DPR and ART publish them: `question<TAB>["answer", ...]`, without
  a header; the answers are a JSON or a Python list of strings. Quotes as for passages.

Readers stream and never evaluate what they read.
"""

import ast
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.data.passages import SeenIds, split_fields
from art_jax.errors import ConfigError, DataError

FORMATS = (".txt", ".jsonl", ".tsv", ".csv")

_ID_KEYS = ("_id", "id", "question_id")
_TEXT_KEYS = ("text", "question")
_ANSWER_KEYS = ("answers", "answer")
# Python's parser needs a hundred times the memory of what it reads.
_MAX_LITERAL_CHARACTERS = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A text to search with, and what evaluation may know about it.

    question_id: unique in its file.
    text: the question.
    answers: for answer matching; evaluation only.
    relevant_ids: ids of passages known to be right; evaluation only.
    source_id: id of the passage that the question was made from, "" where there is
        none; training may exclude it from the question's own candidates.
    answer_groups: of a question with several answers, each of them with its aliases;
        () where all of `answers` are aliases of one.
    grades: of `relevant_ids`, in their order, each 1 or more; () where all are 1.
    evidence: of each of KILT's outputs that has any, the ids of what supports it,
        see `kilt_files.evidence_id`; evaluation only.
    """

    question_id: str
    text: str
    answers: tuple[str, ...] = ()
    relevant_ids: tuple[str, ...] = ()
    source_id: str = ""
    answer_groups: tuple[tuple[str, ...], ...] = ()
    grades: tuple[int, ...] = ()
    evidence: tuple[tuple[str, ...], ...] = ()


# What a JSON line of a question holds beside its id and text, where there is any.
_MORE_KEYS = (
    "answers",
    "relevant_ids",
    "grades",
    "source_id",
    "answer_groups",
    "evidence",
)


def read_questions(path: str | os.PathLike) -> Iterator[Question]:
    """Yields the questions of a file, in order.

    Args:
        path: a `.txt`, `.jsonl`, `.csv` or `.tsv` file, plain or gzipped; with another
            name, the first line tells the format.

    Raises:
        DataError: naming file and line, where a row breaks its format, the text is
            not UTF-8, a question or an id is empty, or an id is given twice; or where
            the file holds no question at all.
    """
    parse = make_question_parser(path)
    seen_ids = SeenIds()
    is_empty_file = True
    for number, line in text_files.read_raw_lines(path):
        question = parse(text_files.decode_line(line, path, number), number)
        if question is None:
            continue
        is_empty_file = False
        check_question(question, path, number)
        if not seen_ids.add(question.question_id):
            text_files.check_first_use(
                path,
                make_question_parser(path),
                "question",
                question.question_id,
                number,
            )
        yield question
    if is_empty_file:
        raise DataError("the file holds no questions. Give at least one.", path)


def write_questions(path: str | os.PathLike, questions: Iterable[Question]) -> int:
    """Writes questions as JSON lines, all fields included, and returns how many.

    What is written reads back equal. The file appears only when it is whole.

    Args:
        path: ends in `.jsonl` or `.jsonl.gz`.
        questions: with unique ids.

    Raises:
        ConfigError: the name ends otherwise.
        DataError: a question or an id is empty, or an id is given twice.
    """
    if not os.fspath(path).lower().removesuffix(".gz").endswith(".jsonl"):
        raise ConfigError(f"{path}: the name must end in .jsonl or .jsonl.gz")
    seen_ids = SeenIds()
    count = 0
    with text_files.open_new_text(path) as file:
        for count, question in enumerate(questions, 1):  # noqa: B007
            check_question(question, None, None)
            if not seen_ids.add(question.question_id):
                raise DataError(f"the id {question.question_id!r} is given twice.")
            record = {"_id": question.question_id, "text": question.text}
            for key in _MORE_KEYS:
                if getattr(question, key):
                    record[key] = getattr(question, key)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count


def check_question(
    question: Question, path: str | os.PathLike | None, number: int | None
) -> None:
    """Raises where a question cannot be asked or named.

    Raises:
        DataError: the id or the text holds nothing that can be seen, any part cannot
            be written as UTF-8, or grades are below 1 or not one a relevant passage.
    """
    parts = (question.question_id, question.text, question.source_id)
    groups = (*question.answer_groups, *question.evidence)
    grouped = (part for group in groups for part in group)
    for part in (*parts, *question.answers, *question.relevant_ids, *grouped):
        text_files.checked_text(part, "a question", path, number)
    if not text_files.is_visible(question.question_id):
        raise DataError("the id is empty. Give each question its own.", path, number)
    if not text_files.is_visible(question.text):
        raise DataError(
            "the question is empty. Give it text or take the line out.", path, number
        )
    grades, num_relevant = question.grades, len(question.relevant_ids)
    if grades and (len(grades) != num_relevant or min(grades) < 1):
        raise DataError(
            f"the grades {grades} of {num_relevant} relevant passages: there must be "
            "one for each, 1 or more. Leave out passages that are not relevant.",
            path,
            number,
        )


def make_question_parser(
    path: str | os.PathLike,
) -> Callable[[str, int], Question | None]:
    """Returns `parse(line, number) -> Question`, or None for a header row.

    Raises:
        DataError: by `parse`, where a line breaks the format; here, where the format
            cannot be told.
    """
    file_format = text_files.file_format(path, FORMATS)
    if file_format == ".txt":
        return lambda line, number: Question(str(number), line)
    if file_format == ".jsonl":
        return _make_json_parser(path)
    return lambda line, number: _parse_tsv(line, path, number)


def parse_answers(text: str) -> tuple[str, ...] | None:
    """The strings of a list such as `["a", "b"]` or `['a', "b's"]`; None if no list.

    JSON is tried first, then Python's literals; nothing is evaluated.
    """
    text = text.strip()
    if not text.startswith(("[", "(")) or len(text) > _MAX_LITERAL_CHARACTERS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes such as "\\d" in a regex
                values = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(values, list | tuple) and all(
            isinstance(value, str) for value in values
        ):
            return tuple(values)
    return None


def _parse_tsv(line: str, path: str | os.PathLike, number: int) -> Question | None:
    fields = split_fields(line, 2)
    is_header = fields and fields[0].lower() == "question"
    if number == 1 and is_header and fields[1].lower() in _ANSWER_KEYS:
        return None
    answers = parse_answers(fields[1]) if fields else None
    if answers is None:
        raise DataError(
            'a row must be question<TAB>["answer", ...]: two columns, the second a '
            "list of strings ([] where there are none). Questions alone go in a "
            ".txt file, one a line; questions with ids in .jsonl.",
            path,
            number,
        )
    return Question(str(number), fields[0], answers)


def _make_json_parser(path):
    rows_have_ids: bool | None = None

    def parse(line: str, number: int) -> Question:
        nonlocal rows_have_ids
        record = text_files.parse_json_object(line, path, number)
        question_id = text_files.json_id(record, _ID_KEYS, path, number)
        if rows_have_ids is None:
            rows_have_ids = question_id is not None
        if rows_have_ids != (question_id is not None):
            have = "has an id" if question_id is not None else "has no id"
            raise DataError(
                f"the question {have}, unlike those before it. Give all of them an "
                "id ('_id'), or none, to number them by line.",
                path,
                number,
            )
        if question_id is None:
            question_id = str(number)
        return _question_of(record, question_id, path, number)

    return parse


def _question_of(
    record: dict[str, Any], question_id: str, path: str | os.PathLike, number: int
) -> Question:
    text_key = next((key for key in _TEXT_KEYS if key in record), None)
    if text_key is None:
        raise DataError(
            f"neither 'text' nor 'question' is given (there are "
            f"{', '.join(map(repr, record)) or 'no keys'}).",
            path,
            number,
        )
    answer_key = next((key for key in _ANSWER_KEYS if key in record), "answers")
    source_id = text_files.json_id(record, ("source_id",), path, number)
    return Question(
        question_id,
        text_files.json_text(record, text_key, path, number),
        json_strings(record, answer_key, path, number),
        json_strings(record, "relevant_ids", path, number),
        source_id or "",
        json_groups(record, "answer_groups", path, number),
        _json_grades(record, path, number),
        json_groups(record, "evidence", path, number),
    )


def json_groups(
    record: dict[str, Any], key: str, path: str | os.PathLike, number: int
) -> tuple[tuple[str, ...], ...]:
    """The lists of strings under a key, none of them empty; () where it is missing."""
    groups = record.get(key)
    if groups is None:
        return ()
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group for group in groups
    ):
        each = "a list of its aliases" if key == "answer_groups" else "a list of ids"
        raise DataError(f"{key!r} must be a list, each of it {each}.", path, number)
    return tuple(json_strings({key: group}, key, path, number) for group in groups)


def _json_grades(
    record: dict[str, Any], path: str | os.PathLike, number: int
) -> tuple[int, ...]:
    grades = record.get("grades") or []
    if not isinstance(grades, list) or not all(type(grade) is int for grade in grades):
        raise DataError("'grades' must be a list of whole numbers.", path, number)
    return tuple(grades)


def json_strings(
    record: dict[str, Any], key: str, path: str | os.PathLike, number: int
) -> tuple[str, ...]:
    """The strings under a key: of a list, or of one value; whole numbers as digits."""
    values = record.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        values = [values]
    texts = []
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise DataError(
                f"{key!r} must be a list of strings; {value!r} is none.", path, number
            )
        texts.append(text_files.checked_text(value, key, path, number))
    return tuple(texts)
