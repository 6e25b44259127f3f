"""Files of questions with passages, in the formats of the tools that use them.

Training examples (`TrainingExample`):
    dpr        a JSON array: question, answers, positive_ctxs, negative_ctxs,
               hard_negative_ctxs
    tevatron   JSON lines: query_id, query, positive_passages, negative_passages
    sentence-transformers   JSON lines: anchor, positive, negative, negative_2, ...;
               texts alone, so titles are put before them and ids are lost
    flagembedding   JSON lines: query, pos, neg, pos_scores, neg_scores; texts alone

Ranked passages (`RankedQuestion`):
    dpr-results   a JSON array: question, answers, ctxs with has_answer
    fid           a JSON array, or lines: id, question, target, answers, ctxs
    pyserini      one JSON object: question id -> question, answers, contexts

Where a question has several answers, the rankings' formats hold a list more beside
`answers`, which other tools leave alone: `answer_groups`, each answer's aliases.

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
from art_jax.data.passage_files import titled_text
from art_jax.data.passages import Passage
from art_jax.data.questions import Question, json_groups, json_strings
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
    """An object of a file, and where it stands.

    may_lack_texts: a passage that has an id need not have a text.
    """

    values: dict[str, Any]
    path: str | os.PathLike
    number: int
    may_lack_texts: bool = False

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

    def grouped_question(self) -> Question:
        groups = json_groups(self.values, "answer_groups", self.path, self.number)
        question = self.question("question", "id")
        return dataclasses.replace(question, answer_groups=groups)

    def records(self, key: str) -> list["_Record"]:
        values = text_files.json_objects(self.values, key, self.path, self.number)
        return [dataclasses.replace(self, values=value) for value in values]

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


def read_examples(
    path: str | os.PathLike, file_format: str, *, may_lack_texts: bool = False
) -> Iterator[Example]:
    """Yields the examples of a file, in order.

    A question without an id gets the number of the line it starts on.

    Args:
        path: of the file.
        file_format: one of `FORMATS`.
        may_lack_texts: a passage that has an id need not have a text, which then is
            "".

    Raises:
        ConfigError: there is no such format.
        DataError: naming file and line, where the file breaks its format.
    """
    for _, example in parse_examples(path, file_format, may_lack_texts):
        if isinstance(example, DataError):
            raise example
        yield example


def parse_examples(
    path: str | os.PathLike, file_format: str, may_lack_texts: bool = False
) -> Iterator[tuple[int, Example | DataError]]:
    """Yields (line, example) of a file, or (line, what is wrong with the record there).

    Raises:
        ConfigError: there is no such format.
        DataError: the file is not JSON from some place on.
    """
    parse = _format(file_format).parse
    for record in _records(path, file_format):
        record = dataclasses.replace(record, may_lack_texts=may_lack_texts)
        try:
            yield record.number, parse(record)
        except DataError as error:
            yield record.number, error


def _records(path: str | os.PathLike, file_format: str) -> Iterator[_Record]:
    if _format(file_format).layout == "object":
        for number, question_id, values in read_json_entries(path):
            yield _Record({**values, "id": question_id}, path, number)
        return
    for number, values in read_json_records(path):
        yield _Record(values, path, number)


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
    is_needed = not (record.may_lack_texts and passage_id)
    text = record.required("text") if is_needed else record.text("text")
    return Passage(passage_id or "", text, record.text("title"))


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
        "negative_passages": passages(_all_negatives(example)),
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

    negatives = {
        "negative" if place == 1 else f"negative_{place}": text
        for place, text in enumerate(_texts(_all_negatives(example)), 1)
    }
    (positive,) = _texts(example.positives[:1])
    return {"anchor": example.question.text, "positive": positive, **negatives}


def _parse_flagembedding(record: _Record) -> TrainingExample:
    def candidates(name: str) -> tuple[Candidate, ...]:
        texts = record.strings(name)
        scores = record.values.get(f"{name}_scores")
        if scores is None:
            scores = [None] * len(texts)
        if not isinstance(scores, list) or len(scores) != len(texts):
            record.fail(f"'{name}_scores' must have a score for each of {name!r}.")
        if not all(map(text_files.is_visible, texts)):
            record.fail(f"{name!r} has an empty text.")
        records = [
            dataclasses.replace(record, values={"score": score}) for score in scores
        ]
        return tuple(
            Candidate(Passage("", text), one.number_of("score"))
            for text, one in zip(texts, records, strict=True)
        )

    return TrainingExample(
        question=record.question("query"),
        positives=candidates("pos"),
        hard_negatives=candidates("neg"),
    )


def _form_flagembedding(example: TrainingExample) -> dict[str, Any]:
    lists = {"pos": example.positives, "neg": _all_negatives(example)}
    values: dict[str, Any] = {"query": example.question.text}
    values |= {name: _texts(candidates) for name, candidates in lists.items()}
    if _all_scored(example):
        for name, candidates in lists.items():
            values[f"{name}_scores"] = [candidate.score for candidate in candidates]
    return values


def _all_negatives(example: TrainingExample) -> tuple[Candidate, ...]:
    return (*example.hard_negatives, *example.negatives)


def _all_scored(example: TrainingExample) -> bool:
    candidates = (*example.positives, *_all_negatives(example))
    return all(candidate.score is not None for candidate in candidates)


def _texts(candidates: Iterable[Candidate]) -> list[str]:
    return [titled_text(candidate.passage) for candidate in candidates]


def _parse_ranked(record: _Record) -> RankedQuestion:
    return RankedQuestion(
        question=record.grouped_question(),
        candidates=_candidates(record, "ctxs"),
        target=record.text("target"),
    )


def _form_dpr_results(example: RankedQuestion) -> dict[str, Any]:
    return {
        "id": example.question.question_id,
        "question": example.question.text,
        **_form_answers(example.question),
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
        **_form_answers(example.question),
        "ctxs": [
            {
                **_form_context(candidate),
                **({} if candidate.score is None else {"score": candidate.score}),
                **_has_answer(candidate),
            }
            for candidate in example.candidates
        ],
    }


def _form_answers(question: Question) -> dict[str, Any]:
    groups = {"answer_groups": question.answer_groups} if question.answer_groups else {}
    return {"answers": question.answers, **groups}


def _form_context(candidate: Candidate) -> dict[str, str]:
    passage = candidate.passage
    return {"id": passage.passage_id, "title": passage.title, "text": passage.text}


def _has_answer(candidate: Candidate) -> dict[str, bool]:
    return {} if candidate.has_answer is None else {"has_answer": candidate.has_answer}


def _parse_pyserini(record: _Record) -> RankedQuestion:
    return RankedQuestion(
        question=record.grouped_question(),
        candidates=tuple(map(_pyserini_candidate, record.records("contexts"))),
    )


def _pyserini_candidate(record: _Record) -> Candidate:
    """A candidate whose text is "title<line feed>text", the title in quotes or not."""
    title, line_feed, text = record.text("text").partition("\n")
    if not line_feed:
        title, text = "", title
    if len(title) > 1 and title[0] == title[-1] == '"':
        title = title[1:-1]
    values = {**record.values, "title": title, "text": text}
    return _candidate(dataclasses.replace(record, values=values))


def _form_pyserini(example: RankedQuestion) -> dict[str, Any]:
    def text(passage: Passage) -> str:
        title = passage.title
        if title[:1] == title[-1:] == '"':
            title = f'"{title}"'  # A reader takes off one pair.
        has_title = title or "\n" in passage.text
        return f"{title}\n{passage.text}" if has_title else passage.text

    return {
        "question": example.question.text,
        **_form_answers(example.question),
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
    keep: from an example, and its place in a file from 1, to what the file holds of it:
        what is written reads back equal to that.
    needs_positive: whether an example without a positive passage cannot be written.
    """

    kind: type
    layout: str
    parse: Callable[[_Record], Example]
    form: Callable[[Any], dict[str, Any]]
    keep: Callable[[Any, int], Example]
    needs_positive: bool = False


def _bare(question: Question) -> Question:
    return Question(question.question_id, question.text, question.answers)


def _keep_dpr(example: TrainingExample, place: int) -> TrainingExample:
    del place

    def candidates(name: str) -> tuple[Candidate, ...]:
        return tuple(Candidate(c.passage, c.score) for c in getattr(example, name))

    return TrainingExample(
        _bare(example.question),
        candidates("positives"),
        candidates("negatives"),
        candidates("hard_negatives"),
        example.dataset,
    )


def _keep_tevatron(example: TrainingExample, place: int) -> TrainingExample:
    del place
    return TrainingExample(
        _bare(example.question),
        tuple(Candidate(one.passage) for one in example.positives),
        hard_negatives=tuple(Candidate(one.passage) for one in _all_negatives(example)),
    )


def _keep_texts(
    example: TrainingExample, place: int, positives: slice, has_scores: bool
) -> TrainingExample:
    def candidates(given: Iterable[Candidate]) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(Passage("", titled_text(c.passage)), c.score if scored else None)
            for c in given
        )

    scored = has_scores and _all_scored(example)
    return TrainingExample(
        Question(str(place), example.question.text),
        candidates(example.positives[positives]),
        hard_negatives=candidates(_all_negatives(example)),
    )


def _keep_sentence_transformers(
    example: TrainingExample, place: int
) -> TrainingExample:
    return _keep_texts(example, place, slice(1), has_scores=False)


def _keep_flagembedding(example: TrainingExample, place: int) -> TrainingExample:
    return _keep_texts(example, place, slice(None), has_scores=True)


def _keep_fid(example: RankedQuestion, place: int) -> RankedQuestion:
    del place
    groups = example.question.answer_groups
    question = dataclasses.replace(_bare(example.question), answer_groups=groups)
    return dataclasses.replace(example, question=question)


def _keep_dpr_results(example: RankedQuestion, place: int) -> RankedQuestion:
    return dataclasses.replace(_keep_fid(example, place), target="")


def _keep_pyserini(example: RankedQuestion, place: int) -> RankedQuestion:
    """As DPR's results; line feeds in titles, which end there, become spaces."""

    def candidate(one: Candidate) -> Candidate:
        title = one.passage.title.replace("\n", " ")
        passage = dataclasses.replace(one.passage, title=title)
        return dataclasses.replace(one, passage=passage)

    return dataclasses.replace(
        _keep_dpr_results(example, place),
        candidates=tuple(map(candidate, example.candidates)),
    )


FORMATS = {
    "dpr": ExampleFormat(TrainingExample, "array", _parse_dpr, _form_dpr, _keep_dpr),
    "tevatron": ExampleFormat(
        TrainingExample, "lines", _parse_tevatron, _form_tevatron, _keep_tevatron
    ),
    "sentence-transformers": ExampleFormat(
        TrainingExample,
        "lines",
        _parse_sentence_transformers,
        _form_sentence_transformers,
        _keep_sentence_transformers,
        needs_positive=True,
    ),
    "flagembedding": ExampleFormat(
        TrainingExample,
        "lines",
        _parse_flagembedding,
        _form_flagembedding,
        _keep_flagembedding,
    ),
    "dpr-results": ExampleFormat(
        RankedQuestion, "array", _parse_ranked, _form_dpr_results, _keep_dpr_results
    ),
    "fid": ExampleFormat(RankedQuestion, "array", _parse_ranked, _form_fid, _keep_fid),
    "pyserini": ExampleFormat(
        RankedQuestion, "object", _parse_pyserini, _form_pyserini, _keep_pyserini
    ),
}


def _format(name: str) -> ExampleFormat:
    if name not in FORMATS:
        raise ConfigError(
            f"there is no format {name!r}: choose of {', '.join(FORMATS)}."
        )
    return FORMATS[name]
