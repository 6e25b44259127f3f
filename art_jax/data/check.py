"""What is in a file of passages or questions, and every fault in it at once.

Readers stop at the first fault; this reads on, so a user mends a file in one go.
"""

import array
import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterator

import numpy as np

from art_jax.data import passages, questions, text_files
from art_jax.data.passages import Passage, SeenIds
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

MAX_PROBLEMS = 20
NUM_SAMPLES = 3

_FORMATS = (".tsv", ".csv", ".jsonl", ".txt")
_QUANTILES = (0, 10, 50, 90, 99, 100)
_QUESTION_KEYS = {"question", "answers", "answer", "relevant_ids", "source_id"}
_QUESTION_NAME = re.compile(r"quer|question", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What `check_file` found.

    path: the file.
    kind: "passages" or "questions".
    format: ".tsv", ".jsonl" or ".txt", how its lines were read.
    num_rows: rows that follow the format, those with other faults included.
    num_problems: by what is wrong: "malformed", "encoding", "duplicate id", "empty";
        a file with none of them can be read.
    problems: (line, message) of the first ones, in order of lines.
    num_duplicate_texts: rows whose title and text were there before; allowed.
    num_without_title: passages that have none.
    num_with_answers: questions that have any.
    num_replaced: rows with U+FFFD, which a wrong conversion leaves behind.
    word_quantiles: words of a text, by per cent of rows that have at most as many.
    samples: the first rows.
    """

    path: str
    kind: str
    format: str
    num_rows: int
    num_problems: dict[str, int]
    problems: tuple[tuple[int | None, str], ...]
    num_duplicate_texts: int
    num_without_title: int
    num_with_answers: int
    num_replaced: int
    word_quantiles: dict[int, int]
    samples: tuple[Passage | Question, ...]

    @property
    def is_readable(self) -> bool:
        """True where nothing in the file would stop a reader."""
        return not self.num_problems


def check_file(path: str | os.PathLike, kind: str | None = None) -> FileReport:
    """Reads a whole file and reports what is in it.

    Args:
        path: as for `read_passages` or `read_questions`.
        kind: "passages" or "questions"; None tells by the first line (columns, keys)
            and, where that could be either, by the file's name.

    Raises:
        ConfigError: `kind` is another word.
        DataError: the file cannot be opened, or its format cannot be told.
    """
    if kind not in (None, "passages", "questions"):
        raise ConfigError(f"kind is {kind!r}; it must be 'passages' or 'questions'.")
    file_format = text_files.file_format(path, _FORMATS)
    kind = kind or _guess_kind(path, file_format)
    faults = _Faults(os.fspath(path))
    seen_ids, counts = SeenIds(), collections.Counter()
    word_counts, text_hashes = array.array("q"), array.array("q")
    samples = []
    for number, row in _rows(path, kind, faults):
        _check_row(row, path, number, seen_ids, faults)
        title = getattr(row, "title", "")
        word_counts.append(len(row.text.split()))
        text_hashes.append(hash((title, row.text)))
        counts["without title"] += not title
        counts["with answers"] += bool(getattr(row, "answers", ()))
        counts["replaced"] += "\ufffd" in row.text or "\ufffd" in title
        if len(samples) < NUM_SAMPLES:
            samples.append(row)
    if not word_counts and not faults.counts:
        faults.add("empty", DataError(f"the file holds no {kind}."))
    return FileReport(
        path=os.fspath(path),
        kind=kind,
        format=file_format,
        num_rows=len(word_counts),
        num_problems=dict(faults.counts),
        problems=tuple(faults.first),
        num_duplicate_texts=len(text_hashes) - len(np.unique(text_hashes)),
        num_without_title=counts["without title"] if kind == "passages" else 0,
        num_with_answers=counts["with answers"],
        num_replaced=counts["replaced"],
        word_quantiles=_quantiles(word_counts),
        samples=tuple(samples),
    )


def format_report(report: FileReport) -> str:
    """The report as lines of text, without a final line end."""
    lines = [
        f"{report.path}: {report.num_rows:,} {report.kind} ({report.format[1:]})",
        _words_line(report),
    ]
    if report.kind == "passages":
        lines.append(f"  without a title: {report.num_without_title:,}")
    else:
        lines.append(f"  with answers: {report.num_with_answers:,}")
    lines.append(f"  texts that occur again: {report.num_duplicate_texts:,}")
    if report.num_replaced:
        lines.append(
            f"  with U+FFFD, left by a wrong conversion: {report.num_replaced:,}"
        )
    lines += [f"  sample: {_shown(sample)}" for sample in report.samples]
    if report.is_readable:
        return "\n".join([*lines, "  problems: none"])
    total = sum(report.num_problems.values())
    by_kind = ", ".join(f"{n:,} {name}" for name, n in report.num_problems.items())
    lines.append(f"  problems: {total:,} ({by_kind})")
    for line, message in report.problems:
        lines.append(f"    line {line}: {message}" if line else f"    {message}")
    if total > len(report.problems):
        lines.append(f"    and {total - len(report.problems):,} more")
    return "\n".join(lines)


class _Faults:
    """Counts faults by kind and keeps the first messages."""

    def __init__(self, path: str):
        self._path = path
        self.counts = collections.Counter()
        self.first: list[tuple[int | None, str]] = []

    def add(self, kind: str, error: DataError) -> None:
        self.counts[kind] += 1
        if len(self.first) < MAX_PROBLEMS:
            message = str(error).removeprefix(f"{self._path}:{error.line}: ")
            self.first.append((error.line, message))


def _rows(
    path: str | os.PathLike, kind: str, faults: _Faults
) -> Iterator[tuple[int, Passage | Question]]:
    """Yields the rows that can be parsed; the others go to `faults`."""
    make_parser = (
        passages.make_passage_parser
        if kind == "passages"
        else questions.make_question_parser
    )
    parse = make_parser(path)
    for number, line in _lines(path, faults):
        try:
            text = text_files.decode_line(line, path, number)
        except DataError as error:
            faults.add("encoding", error)
            continue
        try:
            row = parse(text, number)
        except DataError as error:
            faults.add("malformed", error)
            continue
        if row is not None:
            yield number, row


def _lines(path: str | os.PathLike, faults: _Faults) -> Iterator[tuple[int, bytes]]:
    """Yields the lines up to where the file itself is damaged."""
    lines = text_files.read_raw_lines(path)
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except DataError as error:
            if error.line is None:
                raise
            faults.add("encoding", error)
            return


def _check_row(
    row: Passage | Question,
    path: str | os.PathLike,
    number: int,
    seen_ids: SeenIds,
    faults: _Faults,
) -> None:
    is_passage = isinstance(row, Passage)
    check = passages.check_passage if is_passage else questions.check_question
    row_id = row.passage_id if is_passage else row.question_id
    try:
        check(row, path, number)
    except DataError as error:
        faults.add("empty", error)
    if text_files.is_visible(row_id) and not seen_ids.add(row_id):
        # Without the line of its first use: finding it reads the file again.
        message = f"the id {row_id!r} is given twice. Each row needs its own."
        faults.add("duplicate id", DataError(message, path, number))


def _guess_kind(path: str | os.PathLike, file_format: str) -> str:
    for number, line in text_files.read_raw_lines(path):
        try:
            text = text_files.decode_line(line, path, number)
            guess = _kind_guessers()[file_format](text, path, number)
        except DataError:
            continue  # a faulty line tells nothing; perhaps the next one does
        if guess:
            return guess
        break
    by_name = _QUESTION_NAME.search(os.path.basename(os.fspath(path)))
    return "questions" if by_name else "passages"


def _kind_guessers() -> dict[str, Callable[[str, str | os.PathLike, int], str | None]]:
    """How each format tells its kind from one line; None where it does not."""

    def by_keys(text, path, number):
        record = text_files.parse_json_object(text, path, number)
        if "title" in record:
            return "passages"
        return "questions" if _QUESTION_KEYS & record.keys() else None

    def by_columns(text, path, number):
        fields = passages.split_fields(text, 2)
        is_question = fields and questions.parse_answers(fields[1]) is not None
        return "questions" if is_question else "passages"

    def by_suffix(text, path, number):
        return "questions"

    def not_at_all(text, path, number):
        return None

    return {
        ".jsonl": by_keys,
        ".tsv": by_columns,
        ".csv": by_suffix,
        ".txt": not_at_all,
    }


def _quantiles(word_counts: array.array) -> dict[int, int]:
    if not word_counts:
        return {}
    values = np.percentile(word_counts, _QUANTILES, method="inverted_cdf")
    return {
        percent: int(value) for percent, value in zip(_QUANTILES, values, strict=True)
    }


def _words_line(report: FileReport) -> str:
    if not report.word_quantiles:
        return "  words: none"
    names = {0: "least", 50: "median", 100: "most"}
    shown = ", ".join(
        f"{names.get(percent, f'{percent} %')} {words:,}"
        for percent, words in report.word_quantiles.items()
    )
    return f"  words: {shown}"


def _shown(sample: Passage | Question, width: int = 100) -> str:
    """One line of a row, safe for a terminal."""
    is_passage = isinstance(sample, Passage)
    head = sample.passage_id if is_passage else sample.question_id
    if is_passage and sample.title:
        head += f" [{sample.title}]"
    text = f"{head}: {' '.join(sample.text.split())}"
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 3] + "..."
