"""What `art-jax evaluate` says: its record, its table, and files of rankings."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from art_jax import atomic
from art_jax.data import example_files, kilt_files
from art_jax.evaluation import (
    candidates,
    evaluator,
    rankings,
    report,
    runs,
    significance,
)
from art_jax.evaluation.evaluator import TaskResult
from art_jax.evaluation.systems import System

_TIES = (
    "the rank decides; equal scores of a search go to the lower row; measures of "
    "graded relevance rank by score and, where scores are equal in float32, by "
    "descending passage id, as trec_eval does"
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one system was found to do on one task.

    metrics: means.
    values: of each measure [n] float64, NaN for questions that do not count.
    result: with the questions and what was found.
    measured_by: of each of the task's metrics, its name and settings.
    """

    metrics: dict[str, float]
    values: dict[str, np.ndarray]
    result: TaskResult
    measured_by: tuple[dict[str, Any], ...]

    @property
    def has_found(self) -> bool:
        """Whether passages were looked for."""
        return self.result.found is not None

    @property
    def match(self) -> str:
        """How answers are compared, where a metric of the task says it."""
        return next(
            (one["match"] for one in self.measured_by if "match" in one), "string"
        )


def make_record(
    system: System, split: str, measured: Mapping[str, Measured], *, k: int
) -> dict[str, Any]:
    """What was measured of a system and every choice behind it, as JSON holds it.

    "metrics" are the task's or, of several, their means; then "tasks" has each.

    Args:
        system: that was measured.
        split: of the tasks.
        measured: of each task's name what was measured.
        k: passages that were asked for.
    """
    matches = {
        one["match"]
        for task in measured.values()
        for one in task.measured_by
        if "match" in one
    }
    tasks = {
        name: {
            "metrics": one.metrics,
            "intervals": {
                measure: [interval.low, interval.high]
                for measure, interval in significance.bootstrap_intervals(
                    one.values
                ).items()
            },
            "measured_by": list(one.measured_by),
        }
        for name, one in measured.items()
    }
    record = {
        "task": ", ".join(measured),
        "split": split,
        "k": min(k, max(map(_deepest, measured.values()))),
        "match": ", ".join(sorted(matches)) or None,
        "search": dict(system.search),
        "choices": {
            "ties": _TIES,
            "missing_questions": system.search.get("missing", "none can be"),
            "intervals": "bootstrap over questions, 95 %, 1,000 samples, seed 0",
        },
    }
    if len(tasks) == 1:
        (only,) = tasks.values()
        return record | only
    return record | {"metrics": _means_of(measured), "tasks": tasks}


def _deepest(measured: Measured) -> int:
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
    return described | {"metrics": _means_of(baselines), "tasks": tasks}


def _means_of(measured: Mapping[str, Measured]) -> dict[str, float]:
    return report.mean_metrics({name: one.metrics for name, one in measured.items()})


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
            rows[f"{label}, {baseline['what']}"] = baseline["tasks"][label]["metrics"]
    rows["mean"] = record["metrics"]
    if baseline:
        rows[f"mean, {baseline['what']}"] = baseline["metrics"]
    return rows


def find_curves(measured: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """Top-k accuracy at every k, of tasks that say of every question what is right."""
    curves = {}
    for name, one in measured.items():
        questions = one.result.questions.questions
        can_be_judged = all(each.relevant_ids or each.answers for each in questions)
        if one.has_found and can_be_judged:
            hits = evaluator.candidate_hits(questions, one.result.found, one.match)
            curves[name] = report.accuracy_curve(hits)
    return curves


def write_files(options, name: str, measured: Mapping[str, Measured]) -> None:
    """Writes rankings in the formats that were asked for, a file for each task."""
    for label, one in measured.items():
        if not one.has_found:
            continue

        path = functools.partial(_path_of_task, label if len(measured) > 1 else None)
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


def _path_of_task(label: str | None, given: str) -> pathlib.Path:
    """The file of one task of several: "out.trec" becomes "out.nq_open.trec"."""
    path = pathlib.Path(given)
    if label is None:
        return path
    stem, dot, suffixes = path.name.partition(".")
    safe = label.replace("/", "_")
    return path.with_name(f"{stem}.{safe}{dot}{suffixes}")
