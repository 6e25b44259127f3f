"""Files of questions with passages, in the formats of the tools that use them.

Training examples (`TrainingExample`):
    dpr        a JSON array: question, answers, positive_ctxs, negative_ctxs,
               hard_negative_ctxs
    tevatron   JSON lines: query_id, query, positive_passages, negative_passages
    sentence-transformers   JSON lines: anchor, positive, negative, negative_2, ...;
               texts alone, so titles are put before them and ids are lost

Ranked passages (`RankedQuestion`):
    dpr-results   a JSON array: question, answers, ctxs with has_answer
    fid           a JSON array, or lines: id, question, target, answers, ctxs
    pyserini      one JSON object: question id -> question, answers, contexts

Files may be gzipped, and are read one record at a time.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.json_files import read_json_entries, read_json_records
from art_jax.data.passages import Passage
from art_jax.data.questions import Question, json_strings
from art_jax.errors import ConfigError, DataError

Example = TrainingExample | RankedQuestion

# What stands before, between and behind the records.
_LAYOUTS = {
    "array": ("[\n", ",\n", "\n]\n"),
    "lines": ("", "\n", "\n"),
    "object": ("{\n", ",\n", "\n}\n"),
}
_PASSAGE_IDS = ("passage_id", "psg_id", "docid", "id", "_id")


@dataclasses.dataclass(frozen=True)
class _Record:
    """An object of a file, and where it stands."""

    values: dict[str, Any]
    path: str | os.PathLike
    number: int

    def text(self, key: str) -> str:
        return text_files.json_text(self.values, key, self.path, self.number)

    def required(self, *keys: str) -> str:
        key = next((key for key in keys if key in self.values), keys[0])
        text = self.text(key)
        if not text_files.is_visible(text):
            self.fail(f"{key!r} is missing or empty.")
        return text

    def strings(self, key: str) -> tuple[str, ...]:
        return json_strings(self.values, key, self.path, self.number)

    def question(self, key: str, *id_keys: str) -> Question:
        given_id = text_files.json_id(self.values, id_keys, self.path, self.number)
        text = self.required(key)
        return Question(given_id or str(self.number), text, self.strings("answers"))

    def records(self, key: str) -> list["_Record"]:
        values = text_files.json_objects(self.values, key, self.path, self.number)
        return [_Record(value, self.path, self.number) for value in values]

    def number_of(self, key: str) -> float | None:
        """A score, which DPR's results hold as a string."""
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return float(None if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            self.fail(f"{key!r} is {value!r}: it must be a number.")

    def fail(self, message: str):
        raise DataError(message, self.path, self.number)


def read_examples(path: str | os.PathLike, file_format: str) -> Iterator[Example]:
    """Yields the examples of a file, in order.

    A question without an id gets the number of the line it starts on.

    Args:
        path: of the file.
        file_format: one of `FORMATS`.

    Raises:
        ConfigError: there is no such format.
        DataError: naming file and line, where the file breaks its format.
    """
    parse = _format(file_format).parse
    if file_format == "pyserini":
        yield from _read_pyserini(path)
        return
    for number, values in read_json_records(path):
        yield parse(_Record(values, path, number))


def write_examples(
    path: str | os.PathLike, examples: Iterable[Example], file_format: str
) -> int:
    """Writes examples and returns how many; the file appears only when it is whole.

    Args:
        path: of the file; gzipped where it ends in `.gz`.
        examples: of the kind that the format holds.
        file_format: one of `FORMATS`.

    Raises:
        ConfigError: there is no such format, or it holds the other kind of example.
        DataError: an example lacks what the format needs.
    """
    chosen = _format(file_format)
    opening, between, closing = _LAYOUTS[chosen.layout]
    count = 0
    with text_files.open_new_text(path) as file:
        file.write(opening)
        for count, example in enumerate(examples, 1):
            if not isinstance(example, chosen.kind):
                raise ConfigError(
                    f"format {file_format!r} holds {chosen.kind.__name__}s, and this "
                    f"is a {type(example).__name__}: choose of "
                    f"{', '.join(formats_of(type(example)))}."
                )
            record = json.dumps(chosen.form(example), ensure_ascii=False)
            if chosen.layout == "object":
                question_id = json.dumps(example.question.question_id)
                record = f"{question_id}: {record}"
            file.write((between if count > 1 else "") + record)
        file.write(closing)
    return count


def formats_of(kind: type) -> list[str]:
    """The names of the formats that hold `TrainingExample`s, or `RankedQuestion`s."""
    return [name for name, known in FORMATS.items() if known.kind is kind]


def _passage(record: _Record) -> Passage:
    passage_id = text_files.json_id(
        record.values, _PASSAGE_IDS, record.path, record.number
    )
    return Passage(passage_id or "", record.required("text"), record.text("title"))


def _candidate(record: _Record) -> Candidate:
    has_answer = record.values.get("has_answer")
    if has_answer is not None and not isinstance(has_answer, bool):
        record.fail(f"'has_answer' is {has_answer!r}: it must be true or false.")
    return Candidate(_passage(record), record.number_of("score"), has_answer)


def _candidates(record: _Record, key: str) -> tuple[Candidate, ...]:
    return tuple(map(_candidate, record.records(key)))


def _parse_dpr(record: _Record) -> TrainingExample:
    return TrainingExample(
        question=record.question("question", "id"),
        positives=_candidates(record, "positive_ctxs"),
        negatives=_candidates(record, "negative_ctxs"),
        hard_negatives=_candidates(record, "hard_negative_ctxs"),
        dataset=record.text("dataset"),
    )


def _form_dpr(example: TrainingExample) -> dict[str, Any]:
    def passages(candidates):
        return [
            {
                "title": candidate.passage.title,
                "text": candidate.passage.text,
                **({} if candidate.score is None else {"score": candidate.score}),
                "passage_id": candidate.passage.passage_id,
            }
            for candidate in candidates
        ]

    return {
        "dataset": example.dataset,
        "question": example.question.text,
        "answers": example.question.answers,
        "positive_ctxs": passages(example.positives),
        "negative_ctxs": passages(example.negatives),
        "hard_negative_ctxs": passages(example.hard_negatives),
        "id": example.question.question_id,
    }


def _parse_tevatron(record: _Record) -> TrainingExample:
    return TrainingExample(
        question=record.question("query", "query_id"),
        positives=_candidates(record, "positive_passages"),
        hard_negatives=_candidates(record, "negative_passages"),
    )


def _form_tevatron(example: TrainingExample) -> dict[str, Any]:
    def passages(candidates):
        return [
            {
                "docid": candidate.passage.passage_id,
                "title": candidate.passage.title,
                "text": candidate.passage.text,
            }
            for candidate in candidates
        ]

    return {
        "query_id": example.question.question_id,
        "query": example.question.text,
        "answers": example.question.answers,
        "positive_passages": passages(example.positives),
        "negative_passages": passages((*example.hard_negatives, *example.negatives)),
    }


def _parse_sentence_transformers(record: _Record) -> TrainingExample:
    names = [name for name in record.values if name.startswith("negative")]
    return TrainingExample(
        question=record.question("anchor"),
        positives=(Candidate(Passage("", record.required("positive"))),),
        hard_negatives=tuple(
            Candidate(Passage("", record.required(name))) for name in names
        ),
    )


def _form_sentence_transformers(example: TrainingExample) -> dict[str, Any]:
    if not example.positives:
        raise DataError(
            f"question {example.question.question_id!r} has no positive passage, which "
            "the format 'sentence-transformers' needs: leave it out."
        )

    def text(candidate: Candidate) -> str:
        passage = candidate.passage
        return f"{passage.title} {passage.text}" if passage.title else passage.text

    negatives = {
        "negative" if place == 1 else f"negative_{place}": text(candidate)
        for place, candidate in enumerate(
            (*example.hard_negatives, *example.negatives), 1
        )
    }
    positive = text(example.positives[0])
    return {"anchor": example.question.text, "positive": positive, **negatives}


def _parse_ranked(record: _Record) -> RankedQuestion:
    return RankedQuestion(
        question=record.question("question", "id"),
        candidates=_candidates(record, "ctxs"),
        target=record.text("target"),
    )


def _form_dpr_results(example: RankedQuestion) -> dict[str, Any]:
    return {
        "id": example.question.question_id,
        "question": example.question.text,
        "answers": example.question.answers,
        "ctxs": [
            {
                **_form_context(candidate),
                # DPR writes scores as strings.
                **({} if candidate.score is None else {"score": str(candidate.score)}),
                **_has_answer(candidate),
            }
            for candidate in example.candidates
        ],
    }


def _form_fid(example: RankedQuestion) -> dict[str, Any]:
    target = {"target": example.target} if example.target else {}
    return {
        "id": example.question.question_id,
        "question": example.question.text,
        **target,
        "answers": example.question.answers,
        "ctxs": [
            {
                **_form_context(candidate),
                **({} if candidate.score is None else {"score": candidate.score}),
                **_has_answer(candidate),
            }
            for candidate in example.candidates
        ],
    }


def _form_context(candidate: Candidate) -> dict[str, str]:
    passage = candidate.passage
    return {"id": passage.passage_id, "title": passage.title, "text": passage.text}


def _has_answer(candidate: Candidate) -> dict[str, bool]:
    return {} if candidate.has_answer is None else {"has_answer": candidate.has_answer}


def _read_pyserini(path: str | os.PathLike) -> Iterator[RankedQuestion]:
    for number, question_id, values in read_json_entries(path):
        record = _Record({**values, "id": question_id}, path, number)
        yield RankedQuestion(
            question=record.question("question", "id"),
            candidates=tuple(map(_pyserini_candidate, record.records("contexts"))),
        )


def _pyserini_candidate(record: _Record) -> Candidate:
    """A candidate whose text is "title<line feed>text", the title in quotes or not."""
    title, line_feed, text = record.required("text").partition("\n")
    if not line_feed:
        title, text = "", title
    if len(title) > 1 and title[0] == title[-1] == '"':
        title = title[1:-1]
    values = {**record.values, "title": title, "text": text}
    return _candidate(dataclasses.replace(record, values=values))


def _form_pyserini(example: RankedQuestion) -> dict[str, Any]:
    def text(passage: Passage) -> str:
        return f"{passage.title}\n{passage.text}" if passage.title else passage.text

    return {
        "question": example.question.text,
        "answers": example.question.answers,
        "contexts": [
            {
                "docid": candidate.passage.passage_id,
                **({} if candidate.score is None else {"score": candidate.score}),
                "text": text(candidate.passage),
                **_has_answer(candidate),
            }
            for candidate in example.candidates
        ],
    }


@dataclasses.dataclass(frozen=True)
class ExampleFormat:
    """How a format lies in a file.

    kind: of example that it holds.
    layout: of `_LAYOUTS`; in an "object" the keys are question ids.
    parse: from a record to an example.
    form: from an example to a record.
    """

    kind: type
    layout: str
    parse: Callable[[_Record], Example]
    form: Callable[[Any], dict[str, Any]]


FORMATS = {
    "dpr": ExampleFormat(TrainingExample, "array", _parse_dpr, _form_dpr),
    "tevatron": ExampleFormat(
        TrainingExample, "lines", _parse_tevatron, _form_tevatron
    ),
    "sentence-transformers": ExampleFormat(
        TrainingExample,
        "lines",
        _parse_sentence_transformers,
        _form_sentence_transformers,
    ),
    "dpr-results": ExampleFormat(
        RankedQuestion, "array", _parse_ranked, _form_dpr_results
    ),
    "fid": ExampleFormat(RankedQuestion, "array", _parse_ranked, _form_fid),
    "pyserini": ExampleFormat(RankedQuestion, "object", _parse_ranked, _form_pyserini),
}


def _format(name: str) -> ExampleFormat:
    if name not in FORMATS:
        raise ConfigError(
            f"there is no format {name!r}: choose of {', '.join(FORMATS)}."
        )
    return FORMATS[name]
