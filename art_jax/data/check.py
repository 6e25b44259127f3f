"""What is in a data file, and every fault in it at once.

Readers stop at the first fault; this reads on, so a user mends a file in one go. All
kinds of `convert.KINDS` are known: passages, questions, judgments, training examples,
ranked passages. Formats that only their own reader knows are read up to a first fault.
"""

import array
import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from art_jax.data import (
    beir_folders,
    convert,
    example_files,
    format_guesses,
    judgments,
    passages,
    questions,
    text_files,
)
from art_jax.data.convert import KINDS, Beside, Format
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.judgments import Judgment
from art_jax.data.passages import Passage, SeenIds
from art_jax.data.questions import Question
from art_jax.errors import DataError

MAX_PROBLEMS = 20
NUM_SAMPLES = 3

Path = str | os.PathLike
Row = Passage | Question | Judgment | TrainingExample | RankedQuestion

_QUANTILES = (0, 10, 50, 90, 99, 100)
_QUESTION_NAME = re.compile(r"quer|question", re.IGNORECASE)
_BY_SUFFIX = {
    ".tsv": ("dpr-passages",),
    ".csv": ("dpr-questions",),
    ".jsonl": ("beir-corpus", "beir-queries"),
    ".txt": ("text-passages", "text-questions"),
}
_LINE_FORMATS = {
    Passage: ("dpr-passages", "beir-corpus", "text-passages"),
    Question: ("dpr-questions", "beir-queries", "nq-open", "text-questions"),
}


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What `check_file` found.

    path: the file.
    kind: of rows, as in `convert.KINDS`.
    format: its name in `convert.FORMATS`.
    num_rows: rows that follow the format, those with other faults included.
    num_problems: by what is wrong: "malformed", "encoding", "duplicate id", "empty",
        "dangling id"; a file with none of them can be read.
    problems: (line, message) of the first ones, in order of lines.
    counts: rows by what may be worth a look but stops no reader.
    quantiles: of what is counted in each row, by per cent of rows that have at most as
        many: "words", "positives" and so on.
    samples: the first rows.
    """

    path: str
    kind: str
    format: str
    num_rows: int
    num_problems: Mapping[str, int]
    problems: tuple[tuple[int | None, str], ...]
    counts: Mapping[str, int]
    quantiles: Mapping[str, Mapping[int, int]]
    samples: tuple[Row, ...]

    @property
    def is_readable(self) -> bool:
        """True where nothing in the file would stop a reader."""
        return not self.num_problems


def check_file(
    path: Path,
    file_format: str | None = None,
    formats: Mapping[str, Format] = convert.FORMATS,
) -> FileReport:
    """Reads a whole file and reports what is in it.

    Args:
        path: of any of the formats but a folder.
        file_format: its name; None tells by what stands in the file and, where that
            could be passages or questions, by its name.
        formats: by name.

    Raises:
        ConfigError: there is no such format, or the file's name says another.
        DataError: the file cannot be opened, or its format cannot be told.
    """
    name = file_format or guess_format(path)
    files = {one: each for one, each in formats.items() if one != "beir"}
    convert.check_source(path, convert.known_format(name, files))
    kind = files[name].kind
    faults, tally = _Faults(os.fspath(path)), _TALLIES[kind]()
    samples = []
    for number, row in _rows(path, name, faults, formats):
        tally.add(row, number, faults)
        if len(samples) < NUM_SAMPLES:
            samples.append(row)
    if not tally.num_rows and not faults.counts:
        faults.add("empty", DataError(f"the file holds no {KINDS[kind]}."))
    return FileReport(
        path=os.fspath(path),
        kind=KINDS[kind],
        format=name,
        num_rows=tally.num_rows,
        num_problems=dict(faults.counts),
        problems=tuple(faults.first),
        counts=tally.counts(),
        quantiles={key: _quantiles(sizes) for key, sizes in tally.sizes.items()},
        samples=tuple(samples),
    )


def check_folder(path: Path) -> tuple[FileReport, ...]:
    """Reports on a folder of BEIR's: its corpus, its queries, its judgments.

    Judgments of passages and questions that are not there are problems too.

    Raises:
        DataError: the folder has no corpus or no queries.
    """
    corpus = beir_folders.beir_file(path, "corpus.jsonl")
    queries = beir_folders.beir_file(path, "queries.jsonl")
    reports = [check_file(corpus, "beir-corpus"), check_file(queries, "beir-queries")]
    ids = [
        {row.passage_id for _, row in _rows(corpus, "beir-corpus", _Faults(""))},
        {row.question_id for _, row in _rows(queries, "beir-queries", _Faults(""))},
    ]
    for file in beir_folders.find_splits(path).values():
        report = check_file(file, "beir-qrels")
        reports.append(_with_dangling(report, file, *ids))
    return tuple(reports)


def _with_dangling(
    report: FileReport, path: Path, passage_ids: set[str], question_ids: set[str]
) -> FileReport:
    faults = _Faults(os.fspath(path))
    faults.first = list(report.problems)
    faults.counts.update(report.num_problems)
    for number, row in _rows(path, report.format, _Faults("")):
        for what, one, known in (
            ("passage", row.passage_id, passage_ids),
            ("question", row.question_id, question_ids),
        ):
            if one not in known:
                message = f"the {what} {one!r} is not in the folder's file."
                faults.add("dangling id", DataError(message, path, number))
    return dataclasses.replace(
        report,
        num_problems=dict(faults.counts),
        problems=tuple(sorted(faults.first, key=lambda one: one[0] or 0)),
    )


def guess_format(path: Path) -> str:
    """The name of a file's format.

    By what stands in it and, where that could be of several kinds, by its name.

    Raises:
        DataError: neither says it.
    """
    names = _guess_by_content(path) or _BY_SUFFIX.get(convert.suffix_of(path), ())
    if not names:
        raise DataError(
            "neither its first line nor its name says the format: give it, with "
            "--format.",
            path,
        )
    file_name = os.path.basename(os.fspath(path))
    if len(names) > 1:
        kind = Question if _QUESTION_NAME.search(file_name) else Passage
        kind = Judgment if "qrels" in file_name.lower() else kind
        of_kind = [one for one in names if convert.FORMATS[one].kind is kind]
        names = of_kind or names
    return names[0]


def _guess_by_content(path: Path) -> Sequence[str]:
    try:
        names = format_guesses.guess_source(path)
    except DataError as error:
        if error.line is None:
            raise
        names = ()
    if names or convert.suffix_of(path) != ".jsonl":
        return names
    # A faulty line tells nothing; perhaps the next one does.
    for number, line in _lines(path, _Faults("")):
        try:
            text = text_files.decode_line(line, path, number)
            record = text_files.parse_json_object(text, path, number)
        except DataError:
            continue
        return format_guesses.by_keys(record.keys(), path, is_array=False)
    return ()


def format_report(report: FileReport) -> str:
    """The report as lines of text, without a final line end."""
    lines = [f"{report.path}: {report.num_rows:,} {report.kind} ({report.format})"]
    names = {0: "least", 50: "median", 100: "most"}
    for what, quantiles in report.quantiles.items():
        shown = ", ".join(
            f"{names.get(percent, f'{percent} %')} {size:,}"
            for percent, size in quantiles.items()
        )
        lines.append(f"  {what}: {shown or 'none'}")
    lines += [f"  {what}: {count:,}" for what, count in report.counts.items()]
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


class _Tally:
    """Counts what is in rows of one kind.

    sizes: what is counted in each row, by what it is.
    """

    measured: tuple[str, ...] = ("words",)
    counted: tuple[str, ...] = ()

    def __init__(self):
        self.num_rows = 0
        self.sizes = {what: array.array("q") for what in self.measured}
        self._counts = collections.Counter(dict.fromkeys(self.counted, 0))
        self._seen_ids = SeenIds()
        self._text_hashes = array.array("q")

    def add(self, row: Any, number: int, faults: _Faults) -> None:
        self.num_rows += 1
        self._add(row, number, faults)
        if any("\ufffd" in text for text in self._texts(row)):
            self._counts["with U+FFFD, left by a wrong conversion"] += 1

    def counts(self) -> dict[str, int]:
        if self._text_hashes:
            repeated = len(self._text_hashes) - len(np.unique(self._text_hashes))
            self._counts["texts that occur again"] = repeated
        return dict(self._counts)

    def _add(self, row: Any, number: int, faults: _Faults) -> None:
        raise NotImplementedError

    def _texts(self, row: Any) -> Iterable[str]:
        return (row.text,)

    def _measure(self, what: str, size: int) -> None:
        self.sizes[what].append(size)

    def _count_if(self, condition: object, what: str) -> None:
        self._counts[what] += bool(condition)

    def _add_text(self, *texts: str) -> None:
        self._measure("words", len(texts[-1].split()))
        self._text_hashes.append(hash(texts))

    def _check_id(self, row_id: str, number: int, faults: _Faults) -> None:
        if text_files.is_visible(row_id) and not self._seen_ids.add(row_id):
            # Without the line of its first use: finding it reads the file again.
            message = f"the id {row_id!r} is given twice. Each row needs its own."
            faults.add("duplicate id", DataError(message, None, number))


class _PassageTally(_Tally):
    counted = ("without a title",)

    def _add(self, row: Passage, number: int, faults: _Faults) -> None:
        _check_row(passages.check_passage, row, number, faults)
        self._check_id(row.passage_id, number, faults)
        self._add_text(row.title, row.text)
        self._count_if(not row.title, "without a title")

    def _texts(self, row: Passage) -> Iterable[str]:
        return (row.text, row.title)


class _QuestionTally(_Tally):
    measured = ("words", "answers")
    counted = ("with answers",)

    def _add(self, row: Question, number: int, faults: _Faults) -> None:
        _check_row(questions.check_question, row, number, faults)
        self._check_id(row.question_id, number, faults)
        self._add_text(row.text)
        self._measure("answers", len(row.answers))
        self._count_if(row.answers, "with answers")
        # Said where there are any.
        for what, has_any in (
            ("with several answers, each with its aliases", len(row.answer_groups) > 1),
            ("with an answer that is empty", not all(map(str.strip, row.answers))),
            ("with relevant passages", row.relevant_ids),
            ("with evidence", row.evidence),
        ):
            if has_any:
                self._count_if(True, what)


class _JudgmentTally(_Tally):
    measured = ()

    def __init__(self):
        super().__init__()
        self._grades = collections.Counter()
        self._judged = collections.Counter()
        self._relevant = collections.Counter()
        self._passages = set()

    def _add(self, row: Judgment, number: int, faults: _Faults) -> None:
        # "\0" is in no id, so a pair of ids is an id.
        self._check_id(f"{row.question_id}\0{row.passage_id}", number, faults)
        self._grades[row.grade] += 1
        self._judged[row.question_id] += 1
        self._relevant[row.question_id] += row.grade > 0
        self._passages.add(row.passage_id)

    def _texts(self, row: Judgment) -> Iterable[str]:
        return row[:2]

    def counts(self) -> dict[str, int]:
        for what, counter in (("judged", self._judged), ("relevant", self._relevant)):
            sizes = array.array("q", counter.values())
            self.sizes[f"passages {what} for a question"] = sizes
        without = sum(not count for count in self._relevant.values())
        return {
            "questions": len(self._judged),
            "questions without a relevant passage": without,
            "passages": len(self._passages),
            **{f"grade {grade}": n for grade, n in sorted(self._grades.items())},
            **super().counts(),
        }


class _CandidateTally(_Tally):
    """What training examples and ranked passages share."""

    lists: tuple[str, ...] = ()

    def _add(self, row: Any, number: int, faults: _Faults) -> None:
        self._add_text(row.question.text)
        self._count_if(row.question.answers, "with answers")
        for name in self.lists:
            self._measure(name.replace("_", " "), len(getattr(row, name)))
        candidates = self._candidates(row)
        self._counts["passages"] += len(candidates)
        for what, is_so in (
            ("passages without an id", lambda one: not one.passage.passage_id),
            ("passages without a title", lambda one: not one.passage.title),
            ("passages without a score", lambda one: one.score is None),
        ):
            self._counts[what] += sum(map(is_so, candidates))

    def _candidates(self, row: Any) -> list[Candidate]:
        return [one for name in self.lists for one in getattr(row, name)]

    def _texts(self, row: Any) -> Iterable[str]:
        passages_of_row = [one.passage for one in self._candidates(row)]
        return (row.question.text, *(one.text for one in passages_of_row))


class _ExampleTally(_CandidateTally):
    lists = ("positives", "negatives", "hard_negatives")
    measured = ("words", "positives", "negatives", "hard negatives")
    counted = (
        "with answers",
        "without a positive, so not trained on",
        "with a positive among the negatives",
    )

    def _add(self, row: TrainingExample, number: int, faults: _Faults) -> None:
        super()._add(row, number, faults)
        self._count_if(not row.positives, "without a positive, so not trained on")
        right = {one.passage for one in row.positives}
        wrong = {one.passage for one in (*row.negatives, *row.hard_negatives)}
        self._count_if(right & wrong, "with a positive among the negatives")


class _RankedTally(_CandidateTally):
    lists = ("candidates",)
    measured = ("words", "candidates")
    counted = ("with answers", "not in the order of their scores")

    def _add(self, row: RankedQuestion, number: int, faults: _Faults) -> None:
        super()._add(row, number, faults)
        self._check_id(row.question.question_id, number, faults)
        scores = [one.score for one in row.candidates if one.score is not None]
        is_falling = scores == sorted(scores, reverse=True)
        self._count_if(not is_falling, "not in the order of their scores")
        ids = [one.passage.passage_id for one in row.candidates]
        ids = [one for one in ids if one]
        if len(set(ids)) < len(ids):
            message = f"question {row.question.question_id!r} has a passage twice."
            faults.add("duplicate id", DataError(message, None, number))


_TALLIES: Mapping[type, Callable[[], _Tally]] = {
    Passage: _PassageTally,
    Question: _QuestionTally,
    Judgment: _JudgmentTally,
    TrainingExample: _ExampleTally,
    RankedQuestion: _RankedTally,
}


def _check_row(check: Callable, row: Row, number: int, faults: _Faults) -> None:
    try:
        check(row, None, number)
    except DataError as error:
        faults.add("empty", error)


def _rows(
    path: Path,
    name: str,
    faults: _Faults,
    formats: Mapping[str, Format] = convert.FORMATS,
) -> Iterator[tuple[int, Row]]:
    """Yields the rows that can be parsed; the others go to `faults`."""
    parse = _line_parser(path, name, formats[name].kind)
    if parse is not None:
        yield from _parsed_lines(path, parse, faults)
    elif name in example_files.FORMATS:
        yield from _parsed_examples(path, name, faults)
    else:
        yield from _read_rows(path, formats[name], faults)


def _line_parser(
    path: Path, name: str, kind: type
) -> Callable[[str, int], Row | None] | None:
    """What parses a line of a format that is read line by line."""
    if kind is Judgment:
        return lambda text, number: judgments.parse_judgment(text, path, number)
    if name not in _LINE_FORMATS.get(kind, ()):
        return None
    if kind is Passage:
        return passages.make_passage_parser(path)
    return questions.make_question_parser(path)


def _parsed_lines(
    path: Path, parse: Callable[[str, int], Row | None], faults: _Faults
) -> Iterator[tuple[int, Row]]:
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


def _lines(path: Path, faults: _Faults) -> Iterator[tuple[int, bytes]]:
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


def _parsed_examples(
    path: Path, name: str, faults: _Faults
) -> Iterator[tuple[int, Row]]:
    """Yields the examples up to where the file is no JSON any more."""
    try:
        for number, row in example_files.parse_examples(path, name):
            if isinstance(row, DataError):
                faults.add("malformed", row)
            else:
                yield number, row
    except DataError as error:
        faults.add("malformed", error)


def _read_rows(
    path: Path, read_as: Format, faults: _Faults
) -> Iterator[tuple[int, Row]]:
    """Yields the rows that a format's own reader gives, up to the first fault."""
    try:
        yield from enumerate(read_as.read(path, Beside()), 1)
    except DataError as error:
        faults.add("malformed", error)


def _quantiles(sizes: array.array) -> dict[int, int]:
    if not sizes:
        return {}
    values = np.percentile(sizes, _QUANTILES, method="inverted_cdf")
    return {
        percent: int(value) for percent, value in zip(_QUANTILES, values, strict=True)
    }


def _shown(sample: Row, width: int = 100) -> str:
    """One line of a row, safe for a terminal."""
    if isinstance(sample, Judgment):
        text = f"{sample.question_id}: {sample.passage_id} is {sample.grade}"
    elif isinstance(sample, Passage):
        title = f" [{sample.title}]" if sample.title else ""
        text = f"{sample.passage_id}{title}: {sample.text}"
    else:
        question = sample if isinstance(sample, Question) else sample.question
        text = f"{question.question_id}: {question.text}"
        if question.answers:
            text += f" ({'; '.join(question.answers)})"
    text = " ".join(text.split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 3] + "..."
