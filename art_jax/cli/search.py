"""`art-jax search`: a question in, passages out."""

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence

from art_jax.errors import ConfigError
from art_jax.evaluation import runs
from art_jax.index.retriever import Retriever, retriever_of
from art_jax.types import SearchResults

SNIPPET_CHARACTERS = 160


def run(options) -> None:
    """Runs the verb `search`."""
    if (options.question is None) == (options.queries is None):
        raise ConfigError('give one question, "in quotes", or --queries FILE.')
    if options.queries is not None and options.run_file is None:
        raise ConfigError(
            "--queries needs --run_file OUT.trec to write the rankings to."
        )
    if options.k < 1:
        raise ConfigError(f"-k is {options.k}: ask for at least one passage.")
    if options.queries is not None:
        search_file(
            options.run,
            options.queries,
            options.run_file,
            options.k,
            options.ann,
            options.query_task,
        )
        return
    for line in search_one(
        options.run,
        options.question,
        options.k,
        options.json,
        options.ann,
        options.query_task,
    ):
        print(line)


def search_one(
    run_dir: str,
    question: str,
    k: int,
    as_json: bool = False,
    ann: bool = False,
    query_task: str | None = None,
) -> Iterable[str]:
    """Yields one line a passage: rank, score, title and the start of the text."""
    if not question.strip():
        raise ConfigError("the question is empty.")
    retriever = retriever_of(Retriever.load(run_dir, ann=ann), query_task)
    found = retriever.search([question], k)
    for rank, (score, row) in enumerate(
        zip(found.scores[0], found.rows[0], strict=True), start=1
    ):
        if row < 0:
            break
        passage = retriever.evidence.passage(int(row))
        if as_json:
            yield json.dumps(
                {
                    "rank": rank,
                    "score": float(score),
                    "id": passage.passage_id,
                    "title": passage.title,
                    "text": passage.text,
                },
                ensure_ascii=False,
            )
            continue
        snippet = textwrap.shorten(passage.text, SNIPPET_CHARACTERS, placeholder=" …")
        yield f"{rank:>3}  {score:8.3f}  {passage.title or passage.passage_id}"
        yield f"               {snippet}"


def search_file(
    run_dir: str,
    queries: str,
    run_file: str,
    k: int,
    ann: bool = False,
    query_task: str | None = None,
) -> None:
    """Writes a TREC run with the k best passages of each question of a file."""
    from art_jax.data.questions import read_questions

    questions = list(read_questions(queries))
    retriever = retriever_of(Retriever.load(run_dir, ann=ann), query_task)
    found = retriever.search([question.text for question in questions], k)
    ids = [question.question_id for question in questions]
    run_of_file = make_run(ids, found, retriever.evidence.passage_id)
    runs.write_run(run_file, run_of_file.items(), tag="art_jax")
    print(f"{len(questions):,} questions, {k} passages each: {run_file}")


def make_run(
    question_ids: Sequence[str],
    found: SearchResults,
    passage_id_of_row: Callable[[int], str],
) -> dict[str, runs.Ranking]:
    """Returns search results as a TREC run; questions without any passage are left out.

    Args:
        question_ids: n ids.
        found: [n, K] NumPy arrays.
        passage_id_of_row: such as `EvidenceStore.passage_id`.
    """
    run_of_ids = {}
    for name, scores, rows in zip(question_ids, found.scores, found.rows, strict=True):
        kept = rows >= 0
        if kept.any():
            run_of_ids[name] = runs.Ranking(
                tuple(passage_id_of_row(int(row)) for row in rows[kept]),
                tuple(float(score) for score in scores[kept]),
            )
    return run_of_ids
