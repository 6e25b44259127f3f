"""Rankings that somebody else made, read from a file and set against questions.

Five formats, told by what the file holds:

    trec         lines `question_id Q0 passage_id rank score tag`
    dpr-results  a JSON array of objects with `ctxs`, as DPR, ART and FiD write
    pyserini     a JSON object: question id -> `contexts`
    kilt         lines of JSON with `output`: KILT's predictions

Questions are known by their ids; in a dpr-results file, whose entries may have none, by
their texts, and by ids only where two have the same text.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from art_jax.data import example_files, kilt_files, text_files
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.kilt_files import KiltItem
from art_jax.data.passages import Passage, select_passages
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import candidates, runs

MISSING = ("error", "zero")
_PEEKED_CHARACTERS = 1 << 16
_OBJECT_OF_OBJECTS = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')


@dataclasses.dataclass(frozen=True)
class Rankings:
    """What a file says was found.

    by_id: of question ids, the candidates found, best first.
    by_text: the same of the entries with a text, as (id, candidates) pairs; used in
        place of `by_id` where it is not empty.
    answers: of question ids, texts that were generated; KILT's predictions alone.
    file_format: one of the formats above.
    """

    by_id: Mapping[str, Sequence[Candidate]]
    by_text: Mapping[str, Sequence[tuple[str, Sequence[Candidate]]]]
    answers: Mapping[str, str]
    file_format: str

    def candidates_of(self, question: Question) -> Sequence[Candidate] | None:
        """What was found for a question; None where the file does not know it."""
        if not self.by_text:
            return self.by_id.get(question.question_id)
        entries = self.by_text.get(_plain(question.text), ())
        if len(entries) > 1:
            entries = [one for one in entries if one[0] == question.question_id]
        return entries[0][1] if len(entries) == 1 else None

    @property
    def num_questions(self) -> int:
        """How many the file is of."""
        return len(self.by_id) or sum(map(len, self.by_text.values()))


def read_rankings(path: str | os.PathLike) -> Rankings:
    """The rankings of a file.

    Raises:
        DataError: naming file and line, where the file breaks its format; or it is of
            none.
    """
    file_format = tell_format(path)
    if file_format == "trec":
        run = runs.read_run(path)
        found = candidates.of_run(run, list(run))
        by_id = {
            name: [candidate for candidate in row if candidate is not None]
            for name, row in zip(run, found, strict=True)
        }
        return Rankings(by_id, {}, {}, file_format)
    if file_format == "kilt":
        items = list(kilt_files.read_kilt(path))
        by_id = {item.item_id: _candidates_of_item(item, path) for item in items}
        answers = {
            item.item_id: item.outputs[0].answer
            for item in items
            if item.outputs and item.outputs[0].answer
        }
        return Rankings(by_id, {}, answers, file_format)
    examples = example_files.read_examples(path, file_format)
    if file_format == "pyserini":
        by_id = {one.question.question_id: one.candidates for one in examples}
        return Rankings(by_id, {}, {}, file_format)
    by_text: dict[str, list] = {}
    for one in examples:
        entry = (one.question.question_id, one.candidates)
        by_text.setdefault(_plain(one.question.text), []).append(entry)
    return Rankings({}, by_text, {}, file_format)


def tell_format(path: str | os.PathLike) -> str:
    """Which of the formats a file has.

    Raises:
        DataError: it cannot be read, or has none of them.
    """
    with text_files.open_binary(path) as file:
        start = file.read(_PEEKED_CHARACTERS).decode("utf-8-sig", "replace").lstrip()
    if start.startswith("["):
        return "dpr-results"
    if _OBJECT_OF_OBJECTS.match(start):
        return "pyserini"
    if start.startswith("{"):
        return "dpr-results" if '"ctxs"' in start.splitlines()[0] else "kilt"
    if len(start.split("\n", 1)[0].split()) == 6:
        return "trec"
    raise DataError(
        "these are no rankings: give a TREC run, DPR's results, pyserini's JSON or "
        "KILT's predictions.",
        path,
    )


def rank_questions(
    rankings: Rankings, questions: Sequence[Question], *, missing: str = "error"
) -> np.ndarray:
    """The candidates of some questions, [n, K].

    Questions of the file that are not asked for are left out.

    Args:
        rankings: of a file.
        questions: n questions.
        missing: what a question that the file does not know means: "error", or
            "zero", that nothing was found for it.

    Raises:
        ConfigError: `missing` is neither.
        DataError: the file lacks a question and that is an error, or all of them.
    """
    if missing not in MISSING:
        raise ConfigError(f"missing={missing!r}: it must be 'error' or 'zero'.")
    found = [rankings.candidates_of(question) for question in questions]
    absent = [
        question.question_id
        for question, ranking in zip(questions, found, strict=True)
        if ranking is None
    ]
    if len(absent) == len(questions) or (absent and missing == "error"):
        way_out = (
            "they are of another set"
            if len(absent) == len(questions)
            else "say --missing zero if nothing was found for them"
        )
        raise DataError(
            f"the rankings lack {len(absent)} of {len(questions)} questions, the first "
            f"of them {absent[0]!r}: {way_out}."
        )
    return candidates.stack([ranking or () for ranking in found])


def with_texts(found: np.ndarray, passages: Iterable[Passage]) -> np.ndarray:
    """The same candidates with the texts and titles of a corpus.

    Args:
        found: [n, K] candidates.
        passages: of the corpus; read once.

    Raises:
        DataError: a passage is not in the corpus.
    """
    ids = {one.passage.passage_id for one in found.flat if one is not None}
    known = select_passages(passages, ids)
    texts = np.empty(found.shape, object)
    for place, one in np.ndenumerate(found):
        if one is not None:
            passage = known[one.passage.passage_id]
            texts[place] = dataclasses.replace(one, passage=passage)
    return texts


def ranked_questions(
    questions: Iterable[Question], found: np.ndarray, hits: np.ndarray
) -> list[RankedQuestion]:
    """Questions with what was found for them and whether it is right.

    Args:
        questions: n questions.
        found: [n, K] candidates.
        hits: [n, K] bool.
    """
    return [
        RankedQuestion(
            question,
            tuple(
                dataclasses.replace(one, has_answer=bool(is_hit))
                for one, is_hit in zip(row, row_hits, strict=True)
                if one is not None
            ),
        )
        for question, row, row_hits in zip(questions, found, hits, strict=True)
    ]


def kilt_predictions(
    questions: Sequence[Question],
    found: Sequence[Sequence[Candidate | None]],
    answers: Sequence[str] | None = None,
) -> list[KiltItem]:
    """What was found as KILT's predictions, places in Wikipedia best first.

    Args:
        questions: n questions.
        found: [n, K] candidates, whose ids begin with page and paragraph.
        answers: n texts; None: none are predicted.
    """
    items = []
    answers = [""] * len(questions) if answers is None else answers
    for question, row, answer in zip(questions, found, answers, strict=True):
        places = dict.fromkeys(_place(one.passage) for one in row if one is not None)
        output = kilt_files.Output(answer, tuple(places))
        items.append(KiltItem(question.question_id, question.text, (output,)))
    return items


def _place(passage: Passage) -> kilt_files.Provenance:
    paragraph = kilt_files.paragraph_of(passage.passage_id)
    number = None if paragraph is None else paragraph.partition("+")[2]
    return kilt_files.Provenance(
        kilt_files.page_of(passage.passage_id),
        passage.title,
        end_paragraph=int(number) if number and number.isdecimal() else None,
    )


def _candidates_of_item(item: KiltItem, path: object) -> list[Candidate]:
    """The places of a prediction; scores say their order, as KILT's files have none."""
    if len(item.outputs) != 1:
        raise DataError(
            f"the prediction {item.item_id!r} has {len(item.outputs)} outputs: KILT's "
            "evaluation takes one, with the places best first.",
            path,
        )
    ids = dict.fromkeys(place.evidence_id for place in item.outputs[0].provenance)
    return [
        Candidate(Passage(one, ""), 1.0 / rank) for rank, one in enumerate(ids, start=1)
    ]


def _plain(text: str) -> str:
    """A question as DPR's tools may have changed it."""
    return text.replace("’", "'").strip()
