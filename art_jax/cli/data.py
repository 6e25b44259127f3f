"""`art-jax data`: what is in a file, what is wrong with it; other formats of it."""

import os
import sys
from collections.abc import Iterable, Iterator

from art_jax.data import answer_sets, check, convert, describe, format_guesses
from art_jax.data.convert import Beside, Conversion, Format
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage, read_passages
from art_jax.data.questions import Question, read_questions, write_questions
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import answers, runs


def run(options) -> None:
    """Runs an action of the verb `data`."""
    actions = {
        "check": _check,
        "convert": _convert,
        "answer-sets": _answer_sets,
        "formats": lambda options: print(describe.formats_table(FORMATS)),
        "tasks": lambda options: print(describe.tasks_table()),
    }
    actions[options.action](options)


def _check(options) -> None:
    """A file with problems ends in exit code 3."""
    if os.path.isdir(options.file):
        reports = check.check_folder(options.file)
    else:
        formats = {**FORMATS, "trec-run": _BARE_RUN}
        reports = (check.check_file(options.file, options.format, formats),)
    for report in reports:
        print(check.format_report(report))
    total = sum(sum(report.num_problems.values()) for report in reports)
    if total:
        raise DataError(
            f"{total:,} problems would stop a reader: mend them as listed above.",
            options.file,
        )


def _convert(options) -> None:
    source, target = options.source, options.target
    _check_free(options)
    read_name, write_name = _format_names(options)
    read_as, write_as = convert.formats_of(read_name, write_name, FORMATS)
    sys.stderr.write(f"reading {source} as {read_name}, {read_as.summary}\n")
    sys.stderr.write(f"writing {target} as {write_name}, {write_as.summary}\n")
    beside = Beside(options.passages, options.queries, options.split)
    done = convert.convert(source, target, read_as, write_as, beside)
    for line in _losses(done, write_name):
        sys.stderr.write(f"{line}\n")
    print(f"{target}: {done.num_rows:,} {convert.KINDS[write_as.kind]}")


def _answer_sets(options) -> None:
    _check_free(options)
    questions = list(read_questions(options.questions))
    texts = (
        passage.text
        for passage in read_passages(options.passages, allow_empty_text=True)
    )
    found = answer_sets.find_answer_sets(questions, texts, answers.normalize)
    count = write_questions(options.target, found)
    print(f"{options.target}: {count:,} of {len(questions):,} questions have answers")


def _check_free(options) -> None:
    if os.path.exists(options.target) and not options.overwrite:
        raise ConfigError(
            f"{options.target} is there: give another name, or --overwrite."
        )


def _format_names(options) -> tuple[str, str]:
    """The formats' names as given or, where they are certain, guessed."""
    read_name, write_name = options.read_as, options.write_as
    if read_name is None:
        names = format_guesses.guess_source(options.source)
        if write_name in FORMATS:
            kind = FORMATS[write_name].kind
            of_kind = tuple(name for name in names if FORMATS[name].kind is kind)
            names = of_kind or names
        read_name = format_guesses.chosen(names, options.source, "--from")
    if write_name is None:
        kind = convert.known_format(read_name, FORMATS).kind
        names = format_guesses.guess_target(options.target, kind, FORMATS)
        write_name = format_guesses.chosen(names, options.target, "--to")
    return read_name, write_name


def _losses(done: Conversion, write_name: str) -> Iterator[str]:
    for what, count in sorted(done.lost.items()):
        rows = f"{count:,} of {done.num_rows:,} rows"
        yield f"not kept by {write_name}: {what} ({rows})"
    if done.num_left_out:
        yield f"left out: {done.num_left_out:,} questions without a positive passage"


def _read_run(path: str, beside: Beside) -> Iterator[RankedQuestion]:
    rankings = runs.read_run(path)
    by_question = {
        question_id: dict(zip(ranking.passage_ids, ranking.scores, strict=True))
        for question_id, ranking in rankings.items()
    }
    return convert.join_run(by_question, beside)


def _read_bare_run(path: str, beside: Beside) -> Iterator[RankedQuestion]:
    """The questions of a run, of which nothing but ids is known."""
    del beside
    for question_id, ranking in runs.read_run(path).items():
        yield RankedQuestion(
            Question(question_id, ""),
            tuple(
                Candidate(Passage(one, ""), score)
                for one, score in zip(ranking.passage_ids, ranking.scores, strict=True)
            ),
        )


def _write_run(path: str, rows: Iterable[RankedQuestion], beside: Beside) -> int:
    del beside
    count = 0

    def rankings() -> Iterator[tuple[str, runs.Ranking]]:
        nonlocal count
        for count, row in enumerate(rows, 1):  # noqa: B007
            ids = tuple(one.passage.passage_id for one in row.candidates)
            scores = tuple(one.score for one in row.candidates)
            yield row.question.question_id, runs.Ranking(ids, scores)

    runs.write_run(path, rankings(), "art_jax")
    return count


def _keep_run(row: RankedQuestion, place: int) -> RankedQuestion:
    """Ids and scores, which have nine digits; minus the rank where there is none."""
    del place
    candidates = tuple(
        Candidate(
            one.passage, float(-rank if one.score is None else f"{one.score:.9g}")
        )
        for rank, one in enumerate(row.candidates, 1)
    )
    return RankedQuestion(row.question, candidates)


# Runs are read by `evaluation`, which `data` does not know.
FORMATS = {
    **convert.FORMATS,
    "trec-run": Format(
        RankedQuestion,
        "TREC's run, ids alone (with --passages, --queries)",
        _read_run,
        _write_run,
        (".trec", ".run", ".txt"),
        _keep_run,
    ),
}
_BARE_RUN = Format(RankedQuestion, "TREC's run", _read_bare_run)
