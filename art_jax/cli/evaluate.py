"""`art-jax evaluate`: a retriever, or BM25, on held-out questions, through SeqIO."""

import importlib
import json
import pathlib
import pkgutil
from collections.abc import Mapping, Sequence

import numpy as np

from art_jax import atomic
from art_jax.cli.search import make_run
from art_jax.data import vocabularies
from art_jax.data.question_table import QuestionTable, read_question_table
from art_jax.errors import ConfigError
from art_jax.evaluation import candidates, evaluator, measures, runs
from art_jax.index import ann, bm25
from art_jax.index.retriever import Retriever, search_queries
from art_jax.types import SearchResults


def run(options) -> None:
    """Runs the verb `evaluate`."""
    retriever = Retriever.load(options.run, ann=options.ann)
    vocabularies.use(retriever.model.tokenizer)
    task, split = find_task(options)
    k = min(options.k, retriever.evidence.num_passages)
    output_dir = pathlib.Path(options.output_dir or f"{options.run}/evaluation")
    questions = read_question_table(task, split, retriever.model.max_query_tokens)
    if options.bm25:
        found = search_with_bm25(retriever, questions, k)
        metrics = measures.evaluate_questions(
            questions,
            found.rows,
            retriever.evidence.passage,
            [depth for depth in (1, 5, 20, 50, 100) if depth <= k],
            match=options.match,
        )
    else:
        log_dir = output_dir / "ann" if options.ann else output_dir
        metrics = evaluate(retriever, task, split, k=k, output_dir=log_dir)
        found = retriever.search(questions.texts, k) if options.run_file else None
    name = "bm25" if options.bm25 else "ann" if options.ann else "retriever"
    write_record(
        output_dir,
        name,
        {
            "task": task if options.task else options.queries,
            "split": split,
            "k": k,
            "match": options.match,
            "search": describe_search(retriever, options),
            "metrics": metrics,
        },
    )
    if options.run_file:
        rankings = make_run(
            questions.question_ids, found, retriever.evidence.passage_id
        )
        runs.write_run(options.run_file, rankings.items(), tag=f"art_jax_{name}")
    print(format_table({name: metrics}))
    if options.ann:
        print(f"{ann.in_words(retriever.table)}.")


def describe_search(retriever: Retriever, options) -> dict:
    """Returns how passages were looked for, as JSON holds it."""
    if options.ann:
        return ann.describe(retriever.table)
    return {"method": "bm25" if options.bm25 else "dot_product", "exact": True}


def write_record(output_dir: pathlib.Path, name: str, record: Mapping) -> None:
    """Writes what was measured where `art-jax export` looks for it.

    Args:
        output_dir: a run's folder `evaluation`.
        name: of what was measured: "retriever", "ann" (the same, searched
            approximately) or "bm25".
        record: task, split, k, match, search and metrics: JSON values.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"what": name, **record}, indent=1)
    atomic.write_text(output_dir / f"{name}.json", text)


def find_task(options) -> tuple[str, str]:
    """Returns the task's name and split; a file of questions becomes a task."""
    if options.queries:
        local = importlib.import_module("art_jax.tasks.local")
        return local.local_task(test=options.queries, match=options.match), "test"
    modules = options.task_module
    if not modules:
        tasks = importlib.import_module("art_jax.tasks")
        modules = [
            f"art_jax.tasks.{info.name}"
            for info in pkgutil.iter_modules(tasks.__path__)
        ]
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--task_module {module} cannot be imported: {error}."
            ) from None
    return options.task, options.split


def evaluate(
    retriever: Retriever,
    task: str,
    split: str,
    *,
    k: int,
    output_dir: pathlib.Path | None = None,
    step: int | None = None,
) -> dict[str, float]:
    """Returns the metrics of a task's split, measured by SeqIO's evaluator."""
    result = evaluator.evaluate_task(
        task,
        split,
        make_retrieve(retriever, k),
        max_tokens=retriever.model.max_query_tokens,
        output_dir=output_dir,
        step=step,
    )
    return result.metrics


def make_retrieve(retriever: Retriever, k: int) -> evaluator.Retrieve:
    """Returns `retrieve(questions) -> candidates [n, k]`."""

    def retrieve(questions: QuestionTable) -> np.ndarray:
        queries = retriever.encode_query_tokens(questions.tokens)
        found = search_queries(retriever.table, queries, k=k)
        return candidates.of_search(found, retriever.evidence.passage)

    return retrieve


def search_with_bm25(
    retriever: Retriever, questions: QuestionTable, k: int
) -> SearchResults:
    """Returns BM25's rankings of the retriever's evidence."""
    texts = (bm25.passage_text(passage) for passage in retriever.evidence.passages())
    return bm25.search_bm25(bm25.build_bm25(texts), questions.texts, k)


def format_table(
    metrics_by_name: Mapping[str, Mapping[str, float]],
    depths: Sequence[int] = (1, 5, 20, 50, 100),
) -> str:
    """Returns top-k accuracies as a table of text, one row a retriever."""
    first = next(iter(metrics_by_name.values()))
    shown = [k for k in depths if f"top_{k}_accuracy" in first]
    width = max(len(name) for name in metrics_by_name) + 2
    lines = [" " * width + "".join(f"top-{k}".rjust(9) for k in shown)]
    for name, metrics in metrics_by_name.items():
        values = "".join(f"{metrics[f'top_{k}_accuracy']:9.3f}" for k in shown)
        lines.append(name.ljust(width) + values)
    return "\n".join(lines)
