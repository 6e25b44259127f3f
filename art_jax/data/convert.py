"""From one file format to another: one table of formats, by what they hold.

A conversion reads rows of one format, says what the other cannot hold of them, and
writes the rest; rows stream where both formats do. Formats that join several files (a
folder of BEIR's, KILT's questions with passages) are rows of the same table.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from art_jax.data import (
    beir_folders,
    benchmark_files,
    example_files,
    judgments,
    kilt_examples,
    kilt_files,
    passage_files,
    passages,
    question_files,
    questions,
    text_files,
)
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.judgments import Judgment
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

Path = str | os.PathLike

# What a row is called, by its class.
KINDS = {
    Passage: "passages",
    Question: "questions",
    Judgment: "judgments",
    TrainingExample: "training examples",
    RankedQuestion: "ranked passages",
}

# What the parts of a row are called where they are lost.
_PARTS = {
    "passage_id": "ids of passages",
    "title": "titles",
    "question_id": "ids of questions",
    "text": "texts as they were",
    "score": "scores",
    "has_answer": "has_answer",
    "dataset": "data sets",
    "target": "targets",
    "positives": "further positives",
    "negatives": "negatives as a list of their own",
    "hard_negatives": "hard negatives as they were",
    "candidates": "passages",
}


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a format may need beside its file.

    passages: a file of passages.
    queries: a file of questions.
    split: of a folder.
    """

    passages: Path | None = None
    queries: Path | None = None
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    kind: the class of its rows.
    summary: in a few words.
    read: from a path and what is beside it to rows.
    write: from a path, rows, and what is beside it, to their number; None where the
        format is only read.
    suffixes: that a name to write must end in, `.gz` aside; () for a folder.
    keep: from a row, and its place from 1, to what the format holds of it; what is
        written reads back equal to that. None: all of it.
    needs_positive: whether examples without a positive passage cannot be written.
    siblings: suffixes of the formats that one reader tells apart by a file's name; ()
        where the reader knows this format alone.
    """

    kind: type
    summary: str
    read: Callable[[Path, Beside], Iterator]
    write: Callable[[Path, Iterable, Beside], int] | None = None
    suffixes: tuple[str, ...] = (".jsonl",)
    keep: Callable[[Any, int], Any] | None = None
    needs_positive: bool = False
    siblings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    num_rows: written.
    lost: by what was lost, in how many rows.
    num_left_out: examples without a positive passage, where the format needs one.
    """

    num_rows: int
    lost: Mapping[str, int]
    num_left_out: int = 0


def convert(
    source: Path,
    target: Path,
    read_as: Format,
    write_as: Format,
    beside: Beside | None = None,
) -> Conversion:
    """Reads a file in one format and writes it in another.

    Args:
        source: to read.
        target: to write; it appears only when it is whole.
        read_as: of the source.
        write_as: of the target; see `formats_of`.
        beside: what either needs beside its file.

    Raises:
        ConfigError: a name does not end as its format's do, or something beside it is
            missing.
        DataError: the source breaks its format, or the target's cannot hold it.
    """
    beside = beside or Beside()
    check_source(source, read_as)
    _check_target(target, write_as)
    lost, num_left_out = collections.Counter(), 0

    def kept_rows() -> Iterator:
        nonlocal num_left_out
        place = 0
        for row in read_as.read(source, beside):
            if write_as.needs_positive and not row.positives:
                num_left_out += 1
                continue
            place += 1
            if write_as.keep is None:
                yield row
                continue
            kept = write_as.keep(row, place)
            lost.update(differences(row, kept))
            yield kept

    count = write_as.write(target, kept_rows(), beside)
    return Conversion(count, dict(lost), num_left_out)


def _check_pair(read_as: Format, write_as: Format) -> None:
    if read_as.kind is not write_as.kind:
        raise ConfigError(
            f"the one format holds {KINDS[read_as.kind]}, the other "
            f"{KINDS[write_as.kind]}: choose two of a kind."
        )
    if write_as.write is None:
        raise ConfigError(f"the format of {write_as.summary} is only read.")


def differences(row: Any, kept: Any, name: str = "") -> set[str]:
    """What of a row is not in what was kept of it, in words."""
    if row == kept:
        return set()
    if dataclasses.is_dataclass(row):
        found = set()
        for field in dataclasses.fields(row):
            ours, theirs = getattr(row, field.name), getattr(kept, field.name)
            found |= differences(ours, theirs, field.name)
        return found
    is_list_of_rows = isinstance(row, tuple) and any(
        isinstance(one, Candidate) for one in (*row, *kept)
    )
    if is_list_of_rows and len(row) == len(kept):
        pairs = zip(row, kept, strict=True)
        return set().union(*(differences(ours, theirs) for ours, theirs in pairs))
    return {_PARTS.get(name, name.replace("_", " "))}


def check_source(path: Path, read_as: Format) -> None:
    """Raises where a file's name makes its reader take it for another format.

    Raises:
        ConfigError: it does.
        DataError: neither the name nor the first line says anything.
    """
    if not read_as.siblings:
        return
    taken_for = text_files.file_format(path, read_as.siblings)
    if taken_for not in read_as.suffixes:
        raise ConfigError(
            f"{path} would be read as {taken_for}, by its name: rename it to end in "
            f"{' or '.join(read_as.suffixes)} to have it read as {read_as.summary}."
        )


def _check_target(target: Path, write_as: Format) -> None:
    suffix = suffix_of(target)
    if write_as.suffixes and suffix not in write_as.suffixes:
        raise ConfigError(
            f"{target}: a file of {write_as.summary} must be called something"
            f"{' or '.join(write_as.suffixes)}, with .gz behind it to compress."
        )


def suffix_of(path: Path) -> str:
    """How a name ends, `.gz` aside, in lower case."""
    name = os.fspath(path).lower().removesuffix(".gz")
    return pathlib.PurePath(name).suffix


def join_run(
    run: Mapping[str, Mapping[str, float]], beside: Beside
) -> Iterator[RankedQuestion]:
    """Yields the questions of a run with their passages, in the questions' order.

    Args:
        run: for each question's id its passages' ids with their scores, best first.
        beside: with the files of passages and questions.

    Raises:
        ConfigError: a file is not given.
        DataError: a question or passage of the run is in no file.
    """
    needed = _needed(beside, "passages", "queries")
    wanted = {one for found in run.values() for one in found}
    by_id = passages.select_passages(
        passages.read_passages(needed["passages"], allow_empty_text=True),
        wanted,
        source="there",
        path=needed["passages"],
    )
    missing = set(run)
    for question in questions.read_questions(needed["queries"]):
        found = run.get(question.question_id)
        if found is None:
            continue
        missing.discard(question.question_id)
        yield RankedQuestion(
            question, tuple(Candidate(by_id[one], found[one]) for one in found)
        )
    if missing:
        raise DataError(
            f"{len(missing)} questions of the run are not there, such as "
            f"{min(missing)!r}.",
            needed["queries"],
        )


def _needed(beside: Beside, *names: str) -> dict[str, Path]:
    missing = [name for name in names if getattr(beside, name) is None]
    if missing:
        flags = " and ".join(f"--{name}" for name in missing)
        raise ConfigError(f"the format holds ids alone: give {flags}, files of these.")
    return {name: getattr(beside, name) for name in names}


def _read_kilt_examples(path: Path, beside: Beside) -> Iterator[TrainingExample]:
    needed = _needed(beside, "passages")
    return kilt_examples.read_kilt_examples(path, needed["passages"])


def _keep_kilt_question(question: Question, place: int) -> Question:
    del place
    return kilt_files.kilt_item(question).question()


def _write_kilt_questions(path: Path, rows: Iterable[Question]) -> int:
    return kilt_files.write_kilt(path, map(kilt_files.kilt_item, rows))


def _alone(function: Callable) -> Callable:
    """The function of a format that needs nothing beside its file."""
    return lambda *arguments: function(*arguments[:-1])


def _of_examples(name: str, summary: str, suffixes: tuple[str, ...]) -> Format:
    example_format = example_files.FORMATS[name]
    return Format(
        example_format.kind,
        summary,
        read=_alone(lambda path: example_files.read_examples(path, name)),
        write=_alone(lambda path, rows: example_files.write_examples(path, rows, name)),
        suffixes=suffixes,
        keep=example_format.keep,
        needs_positive=example_format.needs_positive,
    )


def _of_judgments(name: str, summary: str, suffixes: tuple[str, ...]) -> Format:
    return Format(
        Judgment,
        summary,
        read=_alone(judgments.iterate_judgments),
        write=_alone(
            lambda path, rows: judgments.write_judgment_rows(path, rows, name)
        ),
        suffixes=suffixes,
    )


_read_passages = _alone(
    functools.partial(passages.read_passages, allow_empty_text=True)
)
_write_passages = _alone(passages.write_passages)
_read_questions = _alone(questions.read_questions)

FORMATS: Mapping[str, Format] = {
    "dpr-passages": Format(
        Passage,
        "DPR's passages (id, text, title)",
        _read_passages,
        _write_passages,
        (".tsv",),
        passage_files.keep_dpr_passage,
        siblings=passages.FORMATS,
    ),
    "beir-corpus": Format(
        Passage,
        "BEIR's corpus.jsonl",
        _read_passages,
        _write_passages,
        siblings=passages.FORMATS,
    ),
    "tevatron-corpus": Format(
        Passage,
        "Tevatron's corpus (docid, title, text)",
        _alone(passage_files.read_tevatron_corpus),
        _alone(passage_files.write_tevatron_corpus),
    ),
    "text-passages": Format(
        Passage,
        "one passage a line",
        _read_passages,
        _write_passages,
        (".txt",),
        passage_files.keep_text_passage,
        siblings=passages.FORMATS,
    ),
    "dpr-questions": Format(
        Question,
        "DPR's questions (question, answers)",
        _read_questions,
        _alone(question_files.write_dpr_questions),
        (".csv", ".tsv"),
        question_files.keep_dpr_question,
        siblings=questions.FORMATS,
    ),
    "beir-queries": Format(
        Question,
        "BEIR's queries.jsonl, and all else known of a question",
        _read_questions,
        _alone(questions.write_questions),
        siblings=questions.FORMATS,
    ),
    "nq-open": Format(
        Question,
        "NQ-open's lines (question, answer)",
        _read_questions,
        _alone(question_files.write_nq_open),
        keep=question_files.keep_nq_open,
        siblings=questions.FORMATS,
    ),
    "text-questions": Format(
        Question,
        "one question a line",
        _read_questions,
        _alone(question_files.write_text_questions),
        (".txt",),
        question_files.keep_text_question,
        siblings=questions.FORMATS,
    ),
    "kilt": Format(
        Question,
        "KILT's questions (id, input, output)",
        _alone(benchmark_files.read_kilt_questions),
        _alone(_write_kilt_questions),
        keep=_keep_kilt_question,
    ),
    **{
        name: Format(Question, f"{owner} as published", _alone(read))
        for name, owner, read in (
            ("triviaqa", "TriviaQA", benchmark_files.read_triviaqa),
            ("webquestions", "WebQuestions", benchmark_files.read_webquestions),
            ("squad", "SQuAD", benchmark_files.read_squad),
            (
                "entity-questions",
                "EntityQuestions",
                benchmark_files.read_entity_questions,
            ),
            ("ambigqa", "AmbigQA", benchmark_files.read_ambigqa),
            ("webqsp", "WebQSP", benchmark_files.read_webqsp),
            ("curatedtrec", "CuratedTREC", benchmark_files.read_curatedtrec),
            ("msmarco-queries", "MS MARCO", benchmark_files.read_msmarco_queries),
        )
    },
    "trec-qrels": _of_judgments(
        "trec", "TREC's judgments", (".trec", ".qrels", ".txt")
    ),
    "beir-qrels": _of_judgments("beir", "BEIR's judgments", (".tsv",)),
    "dpr": _of_examples("dpr", "DPR's training examples", (".json",)),
    "tevatron": _of_examples("tevatron", "Tevatron's training examples", (".jsonl",)),
    "sentence-transformers": _of_examples(
        "sentence-transformers", "sentence-transformers' columns", (".jsonl",)
    ),
    "flagembedding": _of_examples(
        "flagembedding", "FlagEmbedding's training examples", (".jsonl",)
    ),
    "beir": Format(
        TrainingExample,
        "a folder of BEIR's",
        lambda path, beside: beir_folders.read_beir_examples(path, beside.split),
        lambda path, rows, beside: beir_folders.write_beir_folder(
            path, rows, beside.split
        ),
        (),
        beir_folders.keep_beir_example,
        needs_positive=True,
    ),
    "dpr-results": _of_examples("dpr-results", "DPR's results", (".json",)),
    "fid": _of_examples("fid", "FiD's questions with passages", (".json",)),
    "pyserini": _of_examples("pyserini", "pyserini's results", (".json",)),
}

# What "kilt" is where training examples are asked for.
KILT_EXAMPLES = Format(
    TrainingExample, "KILT's questions, with --passages", _read_kilt_examples
)


def known_format(name: str, formats: Mapping[str, Format] = FORMATS) -> Format:
    """The format of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in formats:
        raise ConfigError(
            f"there is no format {name!r}: choose of {', '.join(formats)}."
        )
    return formats[name]


def formats_of(
    read_name: str, write_name: str, formats: Mapping[str, Format] = FORMATS
) -> tuple[Format, Format]:
    """The formats of two names: to read, and to write.

    Raises:
        ConfigError: there is no format of a name, or the two are not of a kind.
    """
    read_as, write_as = (known_format(one, formats) for one in (read_name, write_name))
    if read_name == "kilt" and write_as.kind is TrainingExample:
        read_as = KILT_EXAMPLES
    _check_pair(read_as, write_as)
    return read_as, write_as
