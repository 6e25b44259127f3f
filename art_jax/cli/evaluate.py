"""`art-jax evaluate`: rankings of passages, and texts, measured through SeqIO.

Each task says what it is measured by; what finds the passages is a retriever, BM25,
both together, or a file of rankings that somebody else made.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pathlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from art_jax import atomic
from art_jax.cli import evaluation_corpus
from art_jax.data import (
    beir_folders,
    benchmark_files,
    example_files,
    kilt_files,
    vocabularies,
)
from art_jax.data.evidence import EvidenceStore, load_evidence
from art_jax.data.question_table import QuestionTable, tasks_with_split
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError
from art_jax.evaluation import (
    candidates,
    evaluator,
    kilt,
    rankings,
    report,
    runs,
    significance,
    systems,
)
from art_jax.evaluation.evaluator import TaskResult
from art_jax.evaluation.report import format_table as format_table
from art_jax.evaluation.systems import System
from art_jax.index import ann, bm25
from art_jax.index.retriever import Retriever
from art_jax.types import SearchResults

# Where no retriever reads the questions, nobody looks at their tokens.
_NO_TOKENS = WordPieceTokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
_BEIR_MEASURES = ("ndcg_at_10", "map", "mrr_at_10", "recall_at_100")
_BEIR_MEASURES += ("capped_recall_at_100",)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Questions that are to be answered, and where from.

    task: of SeqIO.
    split: of the task.
    label: what people call it.
    passages: a passage file in place of the run's evidence, or None.
    is_beir: whether that file is BEIR's.
    """

    task: str
    split: str
    label: str
    passages: pathlib.Path | None
    is_beir: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one system was found to do on one task.

    metrics: means.
    values: of each measure [n] float64, NaN for questions that do not count.
    result: with the questions and what was found.
    match: how answers are compared where accuracy at every k is drawn.
    """

    metrics: dict[str, float]
    values: dict[str, np.ndarray]
    result: TaskResult
    match: str = "string"

    @property
    def has_found(self) -> bool:
        """Whether passages were looked for."""
        return self.result.found is not None


def run(options) -> None:
    """Runs the verb `evaluate`."""
    _check_options(options)
    output_dir = pathlib.Path(options.output_dir or f"{options.run}/evaluation")
    assignments = find_assignments(options)
    measured: dict[str, Measured] = {}
    baselines: dict[str, Measured] = {}
    for one in assignments:
        places = Places(options, one, output_dir)
        system = places.system()
        log_dir = output_dir if system.name == "retriever" else output_dir / system.name
        measured[one.label] = measure(one, system, log_dir=log_dir)
        if options.baseline:
            other = places.baseline()
            baselines[one.label] = measure(one, other)
    record = make_record(options, assignments, system, measured)
    if options.baseline:
        record["baseline"] = describe_baseline(other, measured, baselines)
    write_record(output_dir, system.name, record)
    write_files(options, system.name, measured)
    curves = find_curves(measured) if options.plot is not None else {}
    if options.plot:
        report.plot_curves(curves, options.plot)
    if options.json:
        print(json.dumps({"what": system.name, **record}, indent=1))
        return
    print(format_table(table_rows(system.name, record)))
    if curves:
        print(f"\n{report.format_curves(curves)}")
    if system.name == "ann":
        print(f"{ann.in_words(places.retriever(options.run).table)}.")


def find_assignments(options) -> list[Assignment]:
    """The tasks that the options name; files and BEIR's folders become tasks.

    Raises:
        ConfigError: a task or split is not there, or a module of tasks.
        DataError: a file of a BEIR folder is missing.
    """
    passages = None if options.passages is None else pathlib.Path(options.passages)
    split = options.split
    if options.beir:
        return [
            Assignment(
                beir_task(folder, split, is_whole=options.keep_identical_ids),
                split,
                pathlib.Path(folder).name,
                passages or beir_folders.beir_file(folder, "corpus.jsonl"),
                passages is None,
            )
            for folder in options.beir
        ]
    if options.queries:
        local = importlib.import_module("art_jax.tasks.local")
        task = local.local_task(test=options.queries, match=options.match)
        return [Assignment(task, "test", options.queries, passages)]
    import_tasks(options.task_module)
    tasks = {
        task.name: task
        for name in options.task
        for task in tasks_with_split(name, split)
    }
    return [Assignment(name, split, name, passages) for name in tasks]


def import_tasks(modules: Sequence[str]) -> None:
    """Imports modules that register tasks; those of art_jax where none is named.

    Raises:
        ConfigError: one cannot be imported.
    """
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


def beir_task(folder: str, split: str, *, is_whole: bool = False) -> str:
    """The name of the task of a BEIR folder's judged questions.

    Args:
        folder: with queries.jsonl and qrels/SPLIT.tsv, plain or gzipped.
        split: of the judgments.
        is_whole: let a passage be found that is the question itself.

    Raises:
        ConfigError, DataError: a file is missing.
    """
    registration = importlib.import_module("art_jax.tasks.registration")
    read = functools.partial(
        benchmark_files.read_judged_questions,
        beir_folders.beir_file(folder, "queries.jsonl"),
        beir_folders.judgments_file(folder, split),
    )
    identity = json.dumps([os.path.abspath(folder), split, is_whole])
    name = f"beir_folder_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not _is_registered(name):
        metrics = [
            evaluator.RankingMeasures(
                measures=_BEIR_MEASURES, ignore_identical_ids=not is_whole
            ),
            evaluator.TopKAccuracy(ks=registration.DEFAULT_KS),
        ]
        registration.add_task(name, {split: read}, metrics=metrics)
    return name


class Places:
    """Where passages and retrievers for one task lie; each is opened once."""

    def __init__(self, options, assignment: Assignment, output_dir: pathlib.Path):
        self.options = options
        self.assignment = assignment
        self.output_dir = output_dir
        self.retriever = functools.cache(self._load_retriever)
        self.evidence = functools.cache(self._open_evidence)

    def system(self) -> System:
        """What the options say finds passages.

        Raises:
            ConfigError: there is no run where one is needed.
            DataError, CorruptError: passages, rankings or an index are not as they
                should be.
        """
        options = self.options
        if options.rankings:
            return self._cut(self._file_system(options.rankings))
        if options.bm25:
            return self._cut(self._bm25_system())
        retriever = self.retriever(options.run)
        if not options.fusion:
            return self._cut(systems.dense_system(retriever, self._depth()))
        return self._cut(
            systems.fusion_system(
                retriever,
                bm25_settings(options),
                self._depth(),
                method=options.fusion,
                weight=options.fusion_weight,
                depth=options.fusion_depth,
            )
        )

    def baseline(self) -> System:
        """What `--baseline` names: BM25, another run, or a file of rankings."""
        given = self.options.baseline
        if given == "bm25":
            return self._cut(self._bm25_system())
        if pathlib.Path(given).is_dir():
            return self._cut(systems.dense_system(self.retriever(given), self._depth()))
        return self._cut(self._file_system(given))

    def _bm25_system(self) -> System:
        settings = bm25_settings(self.options)
        return systems.bm25_system(self.evidence(), settings, self._depth())

    def _file_system(self, path: str) -> System:
        one, read = self.assignment, None
        # Judgments name passages by id; answers and files of results need texts.
        if one.passages and (self.options.passages or self.options.dpr_results):
            read = functools.partial(
                evaluation_corpus.read_corpus, one.passages, is_beir=one.is_beir
            )
        missing = self.options.missing
        depth = self._depth()
        return systems.file_system(path, k=depth, read_passages=read, missing=missing)

    def _depth(self) -> int:
        return self.options.k + ignores_identical_ids(self.assignment)

    def _cut(self, system: System) -> System:
        if not ignores_identical_ids(self.assignment):
            return system
        return systems.without_identical_ids(system, self.options.k)

    def _load_retriever(self, run: str | None) -> Retriever:
        if run is None:
            raise ConfigError(
                "give a RUN to measure; or --bm25 with --passages or --beir; or "
                "--rankings FILE."
            )
        one = self.assignment
        if one.passages is None:
            return Retriever.load(run, ann=self.options.ann and run == self.options.run)
        folder = evaluation_corpus.embed_corpus(
            pathlib.Path(run), one.passages, self.output_dir, is_beir=one.is_beir
        )
        return Retriever.load(folder)

    def _open_evidence(self) -> EvidenceStore:
        one, run = self.assignment, self.options.run
        if one.passages is not None:
            return evaluation_corpus.open_evidence(
                one.passages, self.output_dir, is_beir=one.is_beir
            )
        if run is None:
            raise ConfigError(
                "BM25 needs passages: give a RUN, whose evidence it searches, or "
                "--passages FILE."
            )
        return load_evidence(pathlib.Path(run) / "evidence", verify=True)


def bm25_settings(options) -> bm25.Bm25Settings:
    """BM25's settings as the flags say."""
    stemmer = None if options.bm25_stemmer == "none" else options.bm25_stemmer
    return bm25.Bm25Settings(k1=options.bm25_k1, b=options.bm25_b, stemmer=stemmer)


def ignores_identical_ids(assignment: Assignment) -> bool:
    """Whether a task's passages must not be the question itself, as in BEIR."""
    return any(
        getattr(metric, "ignore_identical_ids", False)
        for metric in metrics_of(assignment)
    )


def metrics_of(assignment: Assignment) -> Sequence:
    """The metrics that a task states."""
    (task,) = tasks_with_split(assignment.task, assignment.split)
    return task.metric_objs


def measure(
    assignment: Assignment, system: System, *, log_dir: pathlib.Path | None = None
) -> Measured:
    """What a system does on a task, by the measures the task states.

    KILT's scores of answers come with predictions that have any.
    """
    vocabularies.use(system.tokenizer or _NO_TOKENS)
    result = evaluator.evaluate_task(
        assignment.task,
        assignment.split,
        system.retrieve,
        predict=system.predict,
        max_tokens=system.max_query_tokens,
        output_dir=log_dir,
    )
    metrics, values = dict(result.metrics), dict(result.values)
    if system.predict is not None and result.found is not None:
        answers = kilt_answers(result, system.predict(result.questions))
        values |= answers
        metrics |= {name: float(each.mean()) for name, each in answers.items()}
    matches = [getattr(one, "match", None) for one in metrics_of(assignment)]
    match = next(filter(None, matches), "string")
    return Measured(metrics, values, result, match)


def kilt_answers(result: TaskResult, answers: Sequence[str]) -> dict[str, np.ndarray]:
    """KILT's scores of answers and, as kilt_..., of those that are grounded.

    Returns:
        [n] float64 each; nothing where no answer or no evidence is known.
    """
    questions = result.questions.questions
    if not any(answers) or not any(question.evidence for question in questions):
        return {}
    golds = {
        question.question_id: kilt.Gold(
            tuple(map(frozenset, question.evidence)), question.answers
        )
        for question in questions
    }
    guesses = {
        question.question_id: kilt.Guess(tuple(candidates.ids_of(row)), answer)
        for question, row, answer in zip(questions, result.found, answers, strict=True)
    }
    values = kilt.evaluate_questions(golds, guesses, ks=())
    values.pop("r_precision")
    return values


def make_record(
    options,
    assignments: Sequence[Assignment],
    system: System,
    measured: Mapping[str, Measured],
) -> dict[str, Any]:
    """What was measured of a system and every choice behind it, as JSON holds it.

    "metrics" are the task's or, of several, their means; then "tasks" has each.
    """
    judged = {
        one.label: [describe_metric(metric) for metric in metrics_of(one)]
        for one in assignments
    }
    matches = {
        each["match"] for some in judged.values() for each in some if "match" in each
    }
    tasks = {
        label: {
            "metrics": one.metrics,
            "intervals": {
                name: [interval.low, interval.high]
                for name, interval in significance.bootstrap_intervals(
                    one.values
                ).items()
            },
            "measured_by": judged[label],
        }
        for label, one in measured.items()
    }
    record = {
        "task": ", ".join(one.label for one in assignments),
        "split": assignments[0].split,
        "k": min(options.k, max(map(deepest, measured.values()))),
        "match": ", ".join(sorted(matches)) or None,
        "search": dict(system.search),
        "choices": {
            "ties": "the rank decides; equal scores of a search go to the lower row; "
            "measures of graded relevance rank by score and, where scores are equal, "
            "by descending passage id, as trec_eval does",
            "missing_questions": options.missing if options.rankings else "none can be",
            "intervals": "bootstrap over questions, 95 %, 1,000 samples, seed 0",
        },
    }
    if len(tasks) == 1:
        (only,) = tasks.values()
        return record | only
    means = report.mean_metrics({label: one.metrics for label, one in measured.items()})
    return record | {"metrics": means, "tasks": tasks}


def deepest(measured: Measured) -> int:
    """How many passages were found for some question; 0 where none were asked for."""
    if not measured.has_found:
        return 0
    return int((measured.result.found != None).sum(axis=1).max())  # noqa: E711


def describe_metric(metric) -> dict[str, Any]:
    """A metric's name and settings."""
    settings = ("ks", "measures", "match", "alpha", "ignore_identical_ids")
    given = {name: getattr(metric, name) for name in settings if hasattr(metric, name)}
    return {"metric": type(metric).__name__, **given}


def compare(ours: Measured, theirs: Measured) -> dict[str, float]:
    """The p-values of paired tests, of each measure that both systems have."""
    p_values = {}
    for name, values in ours.values.items():
        others = theirs.values.get(name)
        if others is None:
            continue
        counted = ~np.isnan(values) & ~np.isnan(others)
        if counted.any():
            p_values[name] = significance.paired_test(values[counted], others[counted])
    return p_values


def describe_baseline(
    system: System, measured: Mapping[str, Measured], baselines: Mapping[str, Measured]
) -> dict[str, Any]:
    """What a baseline does, and whether the difference may be luck."""
    tasks = {
        label: {"metrics": one.metrics, "p_values": compare(measured[label], one)}
        for label, one in baselines.items()
    }
    described = {
        "what": system.name,
        "search": dict(system.search),
        "test": "paired randomisation, two-sided, 10,000 samples, seed 0",
    }
    if len(tasks) == 1:
        (only,) = tasks.values()
        return described | only
    means = report.mean_metrics(
        {label: one.metrics for label, one in baselines.items()}
    )
    return described | {"metrics": means, "tasks": tasks}


def table_rows(name: str, record: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """A record's rows for `format_table`: systems of one task, or tasks and a mean."""
    baseline = record.get("baseline")
    if "tasks" not in record:
        lows = {key: low for key, (low, _) in record["intervals"].items()}
        highs = {key: high for key, (_, high) in record["intervals"].items()}
        rows = {name: record["metrics"], "  95 % from": lows, "  to": highs}
        if baseline:
            other = baseline["what"]
            rows[other if other != name else f"{other} (baseline)"] = baseline[
                "metrics"
            ]
            rows["  p-value"] = baseline["p_values"]
        return rows
    rows = {}
    for label, task in record["tasks"].items():
        rows[label] = task["metrics"]
        if baseline:
            rows[f"  {baseline['what']}"[:3] + f"{baseline['what']} of {label}"] = (
                baseline["tasks"][label]["metrics"]
            )
    rows["mean"] = record["metrics"]
    if baseline:
        rows[f"{baseline['what']}, mean"] = baseline["metrics"]
    return rows


def find_curves(measured: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """Top-k accuracy at every k of each task that has questions and answers for it.

    Raises:
        DataError: nothing says which passages are right.
    """
    curves = {}
    for label, one in measured.items():
        if one.has_found:
            questions = one.result.questions.questions
            hits = evaluator.candidate_hits(questions, one.result.found, one.match)
            curves[label] = report.accuracy_curve(hits)
    return curves


def write_files(options, name: str, measured: Mapping[str, Measured]) -> None:
    """Writes rankings in the formats that were asked for, a file for each task."""
    for label, one in measured.items():

        def path(given: str, label=label) -> pathlib.Path:
            return (
                _path_of_task(given, label)
                if len(measured) > 1
                else pathlib.Path(given)
            )

        questions, found = one.result.questions, one.result.found
        if options.run_file:
            run_of_ids = candidates.as_run(questions.question_ids, found)
            runs.write_run(
                path(options.run_file), run_of_ids.items(), tag=f"art_jax_{name}"
            )
        if options.dpr_results:
            # Whether a passage has an answer, where there are any, as DPR says it.
            judged = [
                dataclasses.replace(question, relevant_ids=(), grades=())
                if question.answers
                else question
                for question in questions.questions
            ]
            hits = evaluator.candidate_hits(judged, found, one.match)
            ranked = rankings.ranked_questions(questions.questions, found, hits)
            example_files.write_examples(
                path(options.dpr_results), ranked, "dpr-results"
            )
        if options.kilt_predictions:
            items = rankings.kilt_predictions(questions.questions, found)
            kilt_files.write_kilt(path(options.kilt_predictions), items)


def write_record(output_dir: pathlib.Path, name: str, record: Mapping) -> None:
    """Writes what was measured where `art-jax export` looks for it.

    Args:
        output_dir: a run's folder `evaluation`.
        name: of what was measured: "retriever", "ann" (the same, searched
            approximately), "bm25", "fusion", "rankings" or "predictions".
        record: task, split, metrics and the rest: JSON values.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"what": name, **record}, indent=1)
    atomic.write_text(output_dir / f"{name}.json", text)


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
    system = systems.dense_system(retriever, k)
    vocabularies.use(retriever.model.tokenizer)
    result = evaluator.evaluate_task(
        task,
        split,
        system.retrieve,
        max_tokens=system.max_query_tokens,
        output_dir=output_dir,
        step=step,
    )
    return result.metrics


def search_with_bm25(
    retriever: Retriever, questions: QuestionTable, k: int
) -> SearchResults:
    """Returns BM25's rankings of the retriever's evidence."""
    return bm25.search_bm25(bm25.open_bm25(retriever.evidence), questions.texts, k)


def _check_options(options) -> None:
    """Raises ConfigError where flags do not go together, before anything is read."""
    if options.k < 1:
        raise ConfigError(f"-k is {options.k}: ask for at least one passage.")
    if options.ann and (options.passages or options.beir):
        raise ConfigError(
            "--ann searches the index that `art-jax ann RUN` built of the RUN's own "
            "passages: it goes with neither --passages nor --beir."
        )
    if options.plot:
        report.check_plot(options.plot)
    if options.run is None and options.output_dir is None:
        raise ConfigError("without a RUN, say where to write with --output_dir.")


def _path_of_task(given: str, label: str) -> pathlib.Path:
    """The file of one task of several: "out.trec" becomes "out.nq_open.trec"."""
    path = pathlib.Path(given)
    stem, dot, suffixes = path.name.partition(".")
    safe = label.replace("/", "_")
    return path.with_name(f"{stem}.{safe}{dot}{suffixes}")


def _is_registered(name: str) -> bool:
    from art_jax.data.host_tensorflow import seqio

    return name in seqio.TaskRegistry.names()
