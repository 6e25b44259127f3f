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
from collections.abc import Sequence

import numpy as np

from art_jax.cli import evaluation_corpus
from art_jax.cli.evaluation_record import (
    Measured,
    describe_baseline,
    describe_metric,
    find_curves,
    make_record,
    table_rows,
    write_files,
    write_record,
)
from art_jax.data import (
    beir_folders,
    benchmark_files,
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
    report,
    systems,
)
from art_jax.evaluation.evaluator import TaskResult
from art_jax.evaluation.report import format_table as format_table
from art_jax.evaluation.systems import System
from art_jax.index import bm25
from art_jax.index.retriever import Retriever, retriever_of
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


def run(options) -> None:
    """Runs the verb `evaluate`."""
    _check_options(options)
    output_dir = pathlib.Path(options.output_dir or f"{options.run}/evaluation")
    assignments = find_assignments(options)
    places = Places(options, output_dir)
    measured: dict[str, Measured] = {}
    baselines: dict[str, Measured] = {}
    for one in assignments:
        system = places.system(one)
        log_dir = output_dir if system.name == "retriever" else output_dir / system.name
        measured[one.label] = measure(one, system, log_dir=log_dir)
        if options.baseline:
            other = places.baseline(one)
            baselines[one.label] = measure(one, other)
    record = make_record(system, assignments[0].split, measured, k=options.k)
    if options.baseline:
        record["baseline"] = describe_baseline(other, measured, baselines)
    write_record(output_dir, system.name, record)
    write_files(options, system.name, measured)
    curves = {}
    if options.plot is not None:
        curves = find_curves(measured)
        others = find_curves(baselines)
        curves |= {f"{label} ({other.name})": others[label] for label in others}
    if options.plot:
        report.plot_curves(curves, options.plot)
    if options.json:
        print(json.dumps({"what": system.name, **record}, indent=1))
        return
    print(format_table(table_rows(system.name, record)))
    if curves:
        print(f"\n{report.format_curves(curves)}")
    if system.words:
        print(f"{system.words}.")
    print(f"all measures and choices: {output_dir / system.name}.json")


def find_assignments(options) -> list[Assignment]:
    """The tasks that the options name; files and BEIR's folders become tasks.

    Raises:
        ConfigError: a task or split is not there, or a module of tasks.
        DataError: a file of a BEIR folder is missing.
    """
    passages = None if options.passages is None else pathlib.Path(options.passages)
    split = options.split
    if options.beir:
        names = [pathlib.Path(folder).name for folder in options.beir]
        is_unique = len(set(names)) == len(names)
        return [
            Assignment(
                beir_task(folder, split, is_whole=options.keep_identical_ids),
                split,
                name if is_unique else folder,
                passages or beir_folders.beir_file(folder, "corpus.jsonl"),
                passages is None,
            )
            for folder, name in zip(options.beir, names, strict=True)
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
    """Where passages and retrievers lie; those of the last tasks are kept open."""

    def __init__(self, options, output_dir: pathlib.Path):
        self.options = options
        self.output_dir = output_dir
        # The measured and the baseline: tables of more runs may not fit the devices.
        self._load_retriever = functools.lru_cache(maxsize=2)(self._load_retriever)
        self._open_evidence = functools.lru_cache(maxsize=2)(self._open_evidence)

    def system(self, assignment: Assignment) -> System:
        """What the options say finds passages for a task.

        Raises:
            ConfigError: there is no run where one is needed.
            DataError, CorruptError: passages, rankings or an index are not as they
                should be.
        """
        options = self.options
        if options.rankings:
            system = self._file_system(options.rankings, assignment)
        elif options.bm25:
            system = self._bm25_system(assignment)
        elif options.fusion:
            system = systems.fusion_system(
                self._retriever(options.run, assignment),
                bm25_settings(options),
                self._depth(assignment),
                method=options.fusion,
                weight=options.fusion_weight,
                depth=options.fusion_depth,
            )
        else:
            retriever = self._retriever(options.run, assignment, options.ann)
            system = systems.dense_system(retriever, self._depth(assignment))
        return self._cut(system, assignment)

    def baseline(self, assignment: Assignment) -> System:
        """What `--baseline` names: BM25, another run, or a file of rankings."""
        given = self.options.baseline
        if given == "bm25":
            system = self._bm25_system(assignment)
        elif pathlib.Path(given).is_dir():
            retriever = self._retriever(given, assignment)
            system = systems.dense_system(retriever, self._depth(assignment))
        else:
            system = self._file_system(given, assignment)
        return self._cut(system, assignment)

    def _bm25_system(self, assignment: Assignment) -> System:
        given = self.options
        if assignment.passages and given.run and not (given.bm25 or given.rankings):
            # They are embedded, so there is a store of them already.
            evidence = self._retriever(given.run, assignment).evidence
        else:
            evidence = self._open_evidence(assignment.passages, assignment.is_beir)
        settings = bm25_settings(given)
        return systems.bm25_system(evidence, settings, self._depth(assignment))

    def _file_system(self, path: str, assignment: Assignment) -> System:
        given, read = self.options, None
        # Judgments name passages by id; answers and files of results need texts.
        if assignment.passages and (given.passages or given.dpr_results):
            read = functools.partial(
                evaluation_corpus.read_corpus,
                assignment.passages,
                is_beir=assignment.is_beir,
            )
        elif given.run and not assignment.passages:
            read = self._open_evidence(None, False).passages
        missing, depth = self.options.missing, self._depth(assignment)
        return systems.file_system(path, k=depth, read_passages=read, missing=missing)

    def _depth(self, assignment: Assignment) -> int:
        return self.options.k + ignores_identical_ids(assignment)

    def _cut(self, system: System, assignment: Assignment) -> System:
        if not ignores_identical_ids(assignment):
            return system
        return systems.without_identical_ids(system, self.options.k)

    def _retriever(
        self, run: str | None, assignment: Assignment, is_ann: bool = False
    ) -> Retriever:
        if run is None:
            raise ConfigError(
                "give a RUN to measure; or --bm25 with --passages or --beir; or "
                "--rankings FILE."
            )
        retriever = self._load_retriever(
            run, assignment.passages, assignment.is_beir, is_ann
        )
        is_measured = run == self.options.run
        given = self.options.query_task if is_measured else None
        named = assignment.task if self.options.task else ""
        return retriever_of(retriever, given, named)

    def _load_retriever(
        self, run: str, passages: pathlib.Path | None, is_beir: bool, is_ann: bool
    ) -> Retriever:
        if passages is None:
            return Retriever.load(run, ann=is_ann)
        folder = evaluation_corpus.embed_corpus(
            pathlib.Path(run), passages, self.output_dir, is_beir=is_beir
        )
        return Retriever.load(folder)

    def _open_evidence(
        self, passages: pathlib.Path | None, is_beir: bool
    ) -> EvidenceStore:
        if passages is not None:
            return evaluation_corpus.open_evidence(
                passages, self.output_dir, is_beir=is_beir
            )
        if self.options.run is None:
            raise ConfigError(
                "BM25 needs passages: give a RUN, whose evidence it searches, or "
                "--passages FILE."
            )
        folder = pathlib.Path(self.options.run) / "evidence"
        if not folder.is_dir():
            raise ConfigError(f"{folder} is missing: give passages with --passages.")
        return load_evidence(folder, verify=True)


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
    measured_by = tuple(map(describe_metric, metrics_of(assignment)))
    return Measured(metrics, values, result, measured_by)


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
    bm25_settings(options)
    if options.plot:
        report.check_plot(options.plot)
    if options.run is None and options.output_dir is None:
        raise ConfigError("without a RUN, say where to write with --output_dir.")


def _is_registered(name: str) -> bool:
    from art_jax.data.host_tensorflow import seqio

    return name in seqio.TaskRegistry.names()
