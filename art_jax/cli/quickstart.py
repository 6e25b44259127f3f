"""`art-jax quickstart`: trains on this machine's Python documentation, and reports."""

import json
import os
import pathlib

from art_jax import atomic
from art_jax.cli import evaluate, gin_flags, train
from art_jax.cli.run_folder import Clock, report
from art_jax.data import documentation, sources
from art_jax.data.question_table import read_question_table
from art_jax.evaluation import measures
from art_jax.index.refresh import refresh
from art_jax.index.retriever import Retriever
from art_jax.methods.workspace import passage_side

GIN_FILE = "gin/runs/quickstart.gin"
TASK = "art_quickstart"
DEPTHS = (1, 5, 20, 100)


def run(options) -> None:
    """Runs the verb `quickstart`: `train` on gin/runs/quickstart.gin, and a report."""
    clock = Clock()
    os.environ.setdefault(sources.DATA_DIR_VARIABLE, f"{options.model_dir}/data")
    report("reading the documentation of the installed packages")
    documentation.prepare_corpus()
    clock.lap("corpus")
    gin_flags.parse_gin(
        [GIN_FILE, *options.gin_file],
        [f"MODEL_DIR = {options.model_dir!r}", *options.gin_bindings],
        options.gin_search_paths,
    )
    clock.lap("import")
    trained = gin_flags.call(train.train)
    clock.lap("train")
    accuracy = {
        "bm25": measure_bm25(trained.retriever),
        "untrained": measure(untrained(trained)),
        "art": measure(trained.retriever),
    }
    clock.lap("evaluate")
    seconds = {**clock.seconds, **trained.seconds}
    results = {
        "corpus": corpus_facts(trained.retriever),
        "queries": count_questions(trained.retriever),
        "top_k_accuracy": accuracy,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "versions": documentation.package_versions(),
    }
    folder = pathlib.Path(options.model_dir)
    metrics = {f"top_{k}_accuracy": value for k, value in accuracy["art"].items()}
    record = {"task": TASK, "split": "test", "k": DEPTHS[-1], "metrics": metrics}
    evaluate.write_record(folder / "evaluation", "retriever", record)
    path = folder / "results.json"
    atomic.write_text(path, json.dumps(results, indent=1) + "\n")
    print(report_text(results))
    print(f"\nwritten to {path}. Try it:")
    print(f'  art-jax search {options.model_dir} "sort a list in place"')


def untrained(trained: train.TrainedRun) -> Retriever:
    """Returns the retriever as it was before training, with a table of its own."""
    table = refresh(
        trained.refresher, passage_side(trained.initial.params), step=0, generation=0
    )
    return Retriever(trained.initial, table, trained.retriever.evidence)


def measure(retriever: Retriever) -> dict[str, float]:
    """Returns top-k accuracy on the test questions, by SeqIO's evaluator."""
    return shortened(evaluate.evaluate(retriever, TASK, "test", k=DEPTHS[-1]))


def measure_bm25(retriever: Retriever) -> dict[str, float]:
    """Returns BM25's top-k accuracy on the same questions."""
    questions = read_question_table(TASK, "test", retriever.model.max_query_tokens)
    found = evaluate.search_with_bm25(retriever, questions, DEPTHS[-1])
    return shortened(
        measures.evaluate_questions(
            questions, found.rows, retriever.evidence.passage, DEPTHS
        )
    )


def shortened(metrics: dict[str, float]) -> dict[str, float]:
    """Returns {"1": ..., "5": ..., ...} of metrics named top_K_accuracy."""
    return {str(k): round(metrics[f"top_{k}_accuracy"], 4) for k in DEPTHS}


def corpus_facts(retriever: Retriever) -> dict:
    """Returns how much evidence there is."""
    evidence = retriever.evidence
    tokens = evidence.token_tables["retriever"]
    return {
        "passages": evidence.num_passages,
        "tokens": int(tokens.offsets[-1]),
        "vocabulary": retriever.model.tokenizer.vocab_size,
        "digest": evidence.digest,
    }


def count_questions(retriever: Retriever) -> dict[str, int]:
    """Returns the number of questions of each split."""
    return {
        split: read_question_table(
            TASK, split, retriever.model.max_query_tokens
        ).num_questions
        for split in ("train", "dev", "test")
    }


def report_text(results: dict) -> str:
    """Returns the table that ends the quickstart."""
    corpus, queries = results["corpus"], results["queries"]
    lines = [
        "",
        f"{corpus['passages']:,} passages of Python documentation, "
        f"{queries['train']:,} training questions without labels.",
        f"Top-k accuracy on {queries['test']:,} held-out questions:",
        "",
    ]
    named = {
        name: {f"top_{k}_accuracy": value for k, value in values.items()}
        for name, values in results["top_k_accuracy"].items()
    }
    lines.append(evaluate.format_table(named))
    total = sum(
        results["seconds"][name] for name in ("corpus", "import", "train", "evaluate")
    )
    ratio = results["top_k_accuracy"]["art"]["20"] / max(
        results["top_k_accuracy"]["bm25"]["20"], 1e-9
    )
    lines.append("")
    lines.append(f"top-20 accuracy is {ratio:.2f} of BM25's; {total:.0f} s in all.")
    return "\n".join(lines)
