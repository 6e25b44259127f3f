"""BEIR's folders as training examples, and back.

    corpus.jsonl        the passages
    queries.jsonl       the questions
    qrels/SPLIT.tsv     judgments: a positive passage has grade 1 or more, a hard
                        negative 0 or less

Any of the files may be gzipped.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator

from art_jax import atomic
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.judgments import Judgment, read_judgments, write_judgment_rows
from art_jax.data.passages import Passage, read_passages, write_passages
from art_jax.data.questions import Question, read_questions, write_questions
from art_jax.errors import ConfigError, DataError

Path = str | os.PathLike

_ID_DIGITS = 16  # hexadecimal: two of a billion passages share one in 3 % of corpora


def is_beir_folder(path: Path) -> bool:
    """Whether there are a corpus and queries under BEIR's names."""
    names = ("corpus.jsonl", "queries.jsonl")
    return all(_find(pathlib.Path(path, name)) for name in names)


def find_splits(folder: Path) -> dict[str, pathlib.Path]:
    """The files of judgments of a folder, by the names of their splits."""
    paths = sorted(pathlib.Path(folder, "qrels").glob("*.tsv*"))
    return {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in paths}


def beir_file(folder: Path, name: str) -> pathlib.Path:
    """The file of that name in a folder, plain or gzipped.

    Raises:
        DataError: there is none.
    """
    found = _find(pathlib.Path(folder, name))
    if found is None:
        raise DataError(f"{name} is missing, plain or gzipped.", folder)
    return found


def judgments_file(folder: Path, split: str | None = None) -> pathlib.Path:
    """The judgments of a split; where none is named, those of the only one.

    Raises:
        ConfigError: there is no such split, or more than one and none is named.
    """
    splits = find_splits(folder)
    if split is None and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        raise ConfigError(
            f"{folder} has judgments of {', '.join(splits) or 'no split'}: "
            + ("name one with --split." if split is None else f"not of {split!r}.")
        )
    return splits[split]


def read_beir_examples(
    folder: Path, split: str | None = None
) -> Iterator[TrainingExample]:
    """Yields the judged questions of a folder with their passages.

    In the order of the queries; passages by grade, the best first, then in the order of
    the judgments. Where a grade is above 1, the question has `relevant_ids` with their
    grades. Questions without a positive passage are left out. Only the judged passages
    are held in memory.

    Raises:
        ConfigError: as `judgments_file`.
        DataError: a file breaks its format, or a judgment names a passage or a question
            that is not there.
    """
    path = judgments_file(folder, split)
    judgments = read_judgments(path)
    wanted = {one for grades in judgments.values() for one in grades}
    corpus = beir_file(folder, "corpus.jsonl")
    passages = {
        passage.passage_id: passage
        for passage in read_passages(corpus, allow_empty_text=True)
        if passage.passage_id in wanted
    }
    _check_all_there(wanted - passages.keys(), "passages", path, corpus)
    queries = beir_file(folder, "queries.jsonl")
    missing = set(judgments)
    for question in read_questions(queries):
        grades = judgments.get(question.question_id, {})
        missing.discard(question.question_id)
        ranked = sorted(grades, key=lambda one: -grades[one])
        positives = [one for one in ranked if grades[one] > 0]
        if positives:
            yield TrainingExample(
                _with_grades(question, {one: grades[one] for one in positives}),
                tuple(Candidate(passages[one]) for one in positives),
                hard_negatives=tuple(
                    Candidate(passages[one]) for one in ranked if grades[one] <= 0
                ),
            )
    _check_all_there(missing, "questions", path, queries)


def keep_beir_example(example: TrainingExample, line: int) -> TrainingExample:
    """What a folder holds of an example: a passage's role, its id and its content.

    A passage that is a positive and a negative of a question is a positive; one without
    an id gets one that is made of its content. Positives stand by their grades, if the
    question has such.
    """
    del line
    positives = _distinct(example.positives)
    hard_negatives = _distinct(example.hard_negatives)
    grades = _grades_of(example.question, positives)
    ranked = sorted(positives, key=lambda one: -grades[one])
    return TrainingExample(
        _with_grades(example.question, {one: grades[one] for one in ranked}),
        tuple(Candidate(positives[one]) for one in ranked),
        hard_negatives=tuple(
            Candidate(passage)
            for one, passage in hard_negatives.items()
            if one not in positives
        ),
    )


def write_beir_folder(
    folder: Path, examples: Iterable[TrainingExample], split: str | None = None
) -> int:
    """Writes examples as a folder of BEIR's and returns how many.

    Negatives that are not hard are left out: nobody judged them. The folder appears
    only when it is whole.

    Args:
        folder: to write; what is there is replaced.
        examples: where their passages have ids, the same id is of the same passage.
        split: of the judgments; None: "train".

    Raises:
        DataError: one id is of two passages, or a question has no positive passage.
    """
    questions, judgments = [], []
    written: dict[str, int] = {}  # passage id -> hash of what it names

    def passages() -> Iterator[Passage]:
        for place, example in enumerate(examples, 1):
            kept = keep_beir_example(example, place)
            question_id = kept.question.question_id
            if not kept.positives:
                raise DataError(
                    f"question {question_id!r} has no positive passage: leave it out."
                )
            questions.append(kept.question)
            positives = [one.passage.passage_id for one in kept.positives]
            grades = _grades_of(kept.question, positives)
            for candidate in (*kept.positives, *kept.hard_negatives):
                passage = candidate.passage
                grade = grades.get(passage.passage_id, 0)
                judgments.append(Judgment(question_id, passage.passage_id, grade))
                if _is_new(passage, written):
                    yield passage

    with atomic.building_directory(folder) as unfinished:
        (unfinished / "qrels").mkdir()
        write_passages(unfinished / "corpus.jsonl", passages())
        write_questions(unfinished / "queries.jsonl", questions)
        path = unfinished / "qrels" / f"{split or 'train'}.tsv"
        write_judgment_rows(path, judgments, "beir")
    return len(questions)


def _grades_of(question: Question, positives: Iterable[str]) -> dict[str, int]:
    """The grade of each positive passage: 1, where the question does not say more."""
    pairs = zip(question.relevant_ids, question.grades, strict=False)
    known = dict(pairs)  # without grades, all of them are 1
    return {one: known.get(one, 1) for one in positives}


def _with_grades(question: Question, grades: dict[str, int]) -> Question:
    """The question with its relevant passages, where one is more so than another."""
    if max(grades.values(), default=1) == 1:
        return question
    return dataclasses.replace(
        question, relevant_ids=tuple(grades), grades=tuple(grades.values())
    )


def _is_new(passage: Passage, written: dict[str, int]) -> bool:
    content = hash((passage.title, passage.text))
    known = written.get(passage.passage_id)
    if known not in (None, content):
        raise DataError(
            f"the id {passage.passage_id!r} is of two different passages. Give each "
            "its own."
        )
    written[passage.passage_id] = content
    return known is None


def _distinct(candidates: tuple[Candidate, ...]) -> dict[str, Passage]:
    """The passages by their ids, each at its first place."""
    found: dict[str, Passage] = {}
    for candidate in candidates:
        passage = _with_id(candidate.passage)
        found.setdefault(passage.passage_id, passage)
    return found


def _with_id(passage: Passage) -> Passage:
    if passage.passage_id:
        return passage
    content = f"{passage.title}\0{passage.text}".encode()
    digest = hashlib.sha256(content).hexdigest()[:_ID_DIGITS]
    return dataclasses.replace(passage, passage_id=digest)


def _check_all_there(missing: set[str], what: str, judgments: Path, path: Path):
    if missing:
        raise DataError(
            f"{len(missing)} {what} of {judgments} are not there, such as "
            f"{min(missing)!r}.",
            path,
        )


def _find(path: pathlib.Path) -> pathlib.Path | None:
    for one in (path, path.with_name(f"{path.name}.gz")):
        if one.is_file():
            return one
    return None
