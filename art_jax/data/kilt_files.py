"""KILT's files: questions of its tasks with their evidence, and predictions.

A line is an object with `id`, `input` and `output`, a list of which each item may have
an `answer` and a `provenance`: the places in Wikipedia that support it. A prediction is
a line with one output. Test files have no output.

Source: Petroni et al., arXiv:2009.02252, and its published files.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.data.questions import Question
from art_jax.data.text_files import json_objects
from art_jax.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """A place in Wikipedia.

    wikipedia_id: of the page.
    title: of the page; "" where not given.
    start_paragraph, end_paragraph: of the page, counted from 0; None where not given.
    bleu_score: how well the annotated text was found again there; None where not
        given. Training sets keep places with 0.5 or more.
    """

    wikipedia_id: str
    title: str = ""
    start_paragraph: int | None = None
    end_paragraph: int | None = None
    bleu_score: float | None = None

    @property
    def evidence_id(self) -> str:
        """The id of the paragraph; of the page, where no paragraph is given."""
        return evidence_id(self.wikipedia_id, self.end_paragraph)


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """An answer and what supports it; either may be missing."""

    answer: str = ""
    provenance: tuple[Provenance, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class KiltItem:
    """A question of KILT, or a prediction for it.

    item_id: unique in its file.
    text: the input; "" in predictions that leave it out.
    outputs: what is right, or what is predicted.
    """

    item_id: str
    text: str
    outputs: tuple[Output, ...] = ()

    def question(self) -> Question:
        """The item as a question, with the distinct answers of its outputs.

        And with the distinct places of each output that has any, as evidence.
        """
        answers = dict.fromkeys(out.answer for out in self.outputs if out.answer)
        evidence = tuple(
            tuple(dict.fromkeys(place.evidence_id for place in out.provenance))
            for out in self.outputs
            if out.provenance
        )
        return Question(self.item_id, self.text, tuple(answers), evidence=evidence)


def kilt_item(question: Question) -> KiltItem:
    """The item that a question is of, as far as the question tells.

    An output for each answer, then one for each set of evidence: which answer a set
    supports, a question does not say.
    """
    answers = (Output(answer) for answer in question.answers if answer)
    evidence = (
        Output(provenance=tuple(map(_place_of_evidence, ids)))
        for group in question.evidence
        if (ids := [one for one in group if page_of(one).strip()])
    )
    return KiltItem(question.question_id.strip(), question.text, (*answers, *evidence))


def _place_of_evidence(one: str) -> Provenance:
    page, plus, paragraph = one.partition("+")
    if plus and paragraph.isdecimal() and str(int(paragraph)) == paragraph:
        return Provenance(page, end_paragraph=int(paragraph))
    return Provenance(one)


def evidence_id(wikipedia_id: object, end_paragraph: object = None) -> str:
    """The id of a page, or of the paragraph of it that a piece of text ends in.

    "12" or "12+3". A passage has a third part, which counts those that end in its
    paragraph: "12+3+0".
    """
    page = str(wikipedia_id).strip()
    return page if end_paragraph is None else f"{page}+{end_paragraph}"


def page_of(one: str) -> str:
    """The page that the id of a page, a paragraph or a passage is of."""
    return one.partition("+")[0]


def paragraph_of(one: str) -> str | None:
    """The paragraph that the id of a paragraph or a passage is of; None of a page."""
    parts = one.split("+")
    return "+".join(parts[:2]) if len(parts) > 1 else None


def read_kilt(path: str | os.PathLike) -> Iterator[KiltItem]:
    """Yields the items of a file, in order.

    Raises:
        DataError: naming file and line, where a line breaks the format, an id is
            missing or comes twice; or where the file holds no item.
    """
    seen = set()
    for number, line in text_files.read_raw_lines(path):
        text = text_files.decode_line(line, path, number)
        record = text_files.parse_json_object(text, path, number)
        item = _parse_item(record, path, number)
        if item.item_id in seen:
            raise DataError(f"the id {item.item_id!r} comes twice.", path, number)
        seen.add(item.item_id)
        yield item
    if not seen:
        raise DataError("the file holds no item.", path)


def write_kilt(path: str | os.PathLike, items: Iterable[KiltItem]) -> int:
    """Writes items, such as predictions, and returns how many.

    KILT's evaluation reads a prediction's provenance best first. The file appears
    only when it is whole.

    Raises:
        DataError: an id is empty or comes twice.
    """
    seen = set()
    with text_files.open_new_text(path) as file:
        for item in items:
            if not item.item_id or item.item_id in seen:
                raise DataError(f"the id {item.item_id!r} is empty or comes twice.")
            seen.add(item.item_id)
            record = {
                "id": item.item_id,
                "input": item.text,
                "output": [_form_output(output) for output in item.outputs],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(seen)


def _parse_item(
    record: dict[str, Any], path: str | os.PathLike, number: int
) -> KiltItem:
    item_id = text_files.json_id(record, ("id",), path, number)
    if not item_id or not item_id.strip():
        raise DataError("'id' is missing or empty.", path, number)
    return KiltItem(
        # As KILT's evaluation compares ids.
        item_id.strip(),
        text_files.json_text(record, "input", path, number),
        tuple(
            Output(
                text_files.json_text(output, "answer", path, number),
                tuple(
                    _parse_provenance(place, path, number)
                    for place in json_objects(output, "provenance", path, number)
                ),
            )
            for output in json_objects(record, "output", path, number)
        ),
    )


def _parse_provenance(
    record: dict[str, Any], path: str | os.PathLike, number: int
) -> Provenance:
    page = text_files.json_id(record, ("wikipedia_id",), path, number)
    if not page or not page.strip():
        raise DataError("a provenance has no 'wikipedia_id'.", path, number)

    def read(key: str, kinds) -> Any:
        value = record.get(key)
        if isinstance(value, bool) or not isinstance(value, kinds | None):
            raise DataError(f"{key!r} is {value!r}: it must be a number.", path, number)
        return value

    score = read("bleu_score", int | float)
    return Provenance(
        page.strip(),
        text_files.json_text(record, "title", path, number),
        read("start_paragraph_id", int),
        read("end_paragraph_id", int),
        None if score is None else float(score),
    )


def _form_output(output: Output) -> dict[str, Any]:
    record: dict[str, Any] = {"answer": output.answer} if output.answer else {}
    if output.provenance:
        record["provenance"] = [
            {name: value for name, value in _named(place) if value not in (None, "")}
            for place in output.provenance
        ]
    return record


def _named(place: Provenance) -> list[tuple[str, Any]]:
    return [
        ("wikipedia_id", place.wikipedia_id),
        ("title", place.title),
        ("start_paragraph_id", place.start_paragraph),
        ("end_paragraph_id", place.end_paragraph),
        ("bleu_score", place.bleu_score),
    ]
