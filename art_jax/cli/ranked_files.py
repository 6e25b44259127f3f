"""Files of rankings, whoever wrote them: TREC runs, or JSON that holds the passages."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

from art_jax.data import benchmark_files, example_files, format_guesses
from art_jax.data.evidence import load_evidence
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage, read_passages, select_passages
from art_jax.data.questions import Question, read_questions
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import runs

TREC = "trec-run"
FORMATS = (TREC, "dpr-results", "fid", "pyserini")


def find_format(path: str | os.PathLike) -> str:
    """Returns which of `FORMATS` a file is in, told by its first record.

    Raises:
        ConfigError: it is in none of them, as far as can be seen.
    """
    guessed = tuple(
        name for name in format_guesses.guess_source(path) if name in FORMATS
    )
    return format_guesses.chosen(guessed, path, "--from")


def read_rankings(
    path: str | os.PathLike,
    file_format: str,
    *,
    k: int,
    queries: str | None = None,
    qrels: str | None = None,
    passages: str | None = None,
) -> list[RankedQuestion]:
    """Returns the rankings of a file, in its order, the best k candidates of each.

    Candidates that are the same passage share its text, which is held once.

    Args:
        path: of the file, which may be gzipped.
        file_format: one of `FORMATS`.
        k: of each question, at most.
        queries: the questions of a TREC run, a file of `data.questions`; of another
            file, what is known of its questions, told by their ids or else their texts.
        qrels: judgments of a TREC run; None: none.
        passages: the passages of a TREC run, or of a file that lacks their texts: a
            file of `data.passages`, an evidence store, or a run's folder with one.

    Raises:
        ConfigError: a TREC run lacks `queries` or `passages`.
        DataError: a file breaks its format, or lacks what the run names.
    """
    if file_format != TREC:
        return _read_json(path, file_format, k, queries, passages)
    if queries is None or passages is None:
        raise ConfigError(
            f"{path} is a TREC run, which holds ids alone: give --queries FILE and "
            "--passages FILE, the texts of questions and passages."
        )
    run = runs.read_run(path)
    questions = _questions_of(run, path, queries, qrels)
    best = {name: ranking.passage_ids[:k] for name, ranking in run.items()}
    texts = _passages_of(set().union(*best.values()), path, passages)
    return [
        RankedQuestion(
            questions[name],
            tuple(
                Candidate(texts[passage_id], score)
                for passage_id, score in zip(best[name], ranking.scores, strict=False)
            ),
        )
        for name, ranking in run.items()
    ]


def write_rankings(
    path: str | os.PathLike,
    ranked: Iterable[RankedQuestion],
    file_format: str,
    *,
    tag: str,
) -> None:
    """Writes rankings; the file appears only when it is whole.

    Args:
        path: of the file; gzipped where it ends in `.gz`.
        ranked: candidates best first.
        file_format: one of `FORMATS`.
        tag: the name of a TREC run.

    Raises:
        DataError: a TREC run cannot hold an id, which is empty or has a space in it.
    """
    if file_format != TREC:
        example_files.write_examples(path, ranked, file_format)
        return
    runs.write_run(path, map(_ranking_of, ranked), tag=tag)


def _read_json(
    path: str | os.PathLike,
    file_format: str,
    k: int,
    queries: str | None,
    passages: str | None,
) -> list[RankedQuestion]:
    """The rankings of a file that holds texts, as a rule."""
    examples = example_files.read_examples(
        path, file_format, may_lack_texts=passages is not None
    )
    ranked = [
        dataclasses.replace(one, candidates=one.candidates[:k]) for one in examples
    ]
    found = {one.passage for each in ranked for one in each.candidates}
    texts = {one: one for one in found}
    lacking = {one.passage_id: one for one in found if not one.text}
    if lacking:
        known = _passages_of(set(lacking), path, passages)
        texts |= {one: known[passage_id] for passage_id, one in lacking.items()}
    question_of = _question_finder(queries)
    return [
        dataclasses.replace(
            one,
            question=question_of(one.question),
            candidates=tuple(
                dataclasses.replace(candidate, passage=texts[candidate.passage])
                for candidate in one.candidates
            ),
        )
        for one in ranked
    ]


def _question_finder(queries: str | None) -> Callable[[Question], Question]:
    """What gives the question of a file that is the one of a ranking; else the same."""
    if queries is None:
        return lambda question: question
    asked = list(read_questions(queries))
    by_id = {one.question_id: one for one in asked}
    by_text = {one.text: one for one in asked}

    def find(question: Question) -> Question:
        same_id = by_id.get(question.question_id)
        if same_id is not None and same_id.text == question.text:
            return same_id
        return by_text.get(question.text, question)

    return find


def _ranking_of(one: RankedQuestion) -> tuple[str, runs.Ranking]:
    ids = tuple(candidate.passage.passage_id for candidate in one.candidates)
    scores = tuple(candidate.score for candidate in one.candidates)
    return one.question.question_id, runs.Ranking(ids, scores)


def _questions_of(run, path, queries: str, qrels: str | None) -> dict[str, Question]:
    """The questions of a run by their ids."""
    found = {one.question_id: one for one in _read_questions(queries, qrels)}
    missing = [name for name in run if name not in found]
    if missing:
        raise DataError(
            f"{len(missing)} questions of the run are not in {queries}, or without "
            f"judgments, such as {missing[0]!r}: the files are of different sets.",
            path,
        )
    return found


def _read_questions(queries: str, qrels: str | None) -> Iterator[Question]:
    if qrels is None:
        return read_questions(queries)
    return benchmark_files.read_judged_questions(
        pathlib.Path(queries), pathlib.Path(qrels)
    )


def _passages_of(ids: set[str], path, passages: str) -> dict[str, Passage]:
    """The passages of some ids."""
    folder = pathlib.Path(passages)
    if folder.is_dir():
        store = folder / "evidence" if (folder / "evidence").is_dir() else folder
        evidence = load_evidence(store)
        return {one: evidence.passage(evidence.row_of(one)) for one in ids}
    return select_passages(
        read_passages(passages, allow_empty_text=True),
        ids,
        source=f"in {passages}",
        path=path,
    )
