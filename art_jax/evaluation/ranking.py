"""A run judged by graded relevance: nDCG, MAP, recall, R-precision and their kin.

trec_eval computes them, through ir-measures. As there, passages stand in the order of
their scores, compared in float32, and equal scores in descending order of passage id,
whatever rank the run gave them; a passage without a judgment is not relevant; gains are
linear.
"""

import re
from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation.runs import Ranking

Qrels = Mapping[str, Mapping[str, int]]  # question id -> passage id -> grade

_AT_K = {
    "ndcg": ir_measures.nDCG.__matmul__,
    "recall": ir_measures.R.__matmul__,
    "capped_recall": ir_measures.R.__matmul__,  # then multiplied, see below
    "precision": ir_measures.P.__matmul__,
    # Cut below: ir-measures' own RR@k breaks ties in another way than trec_eval.
    "mrr": lambda depth: ir_measures.RR,
    "map": ir_measures.AP.__matmul__,
    "success": ir_measures.Success.__matmul__,
}
_WHOLE = {
    "map": ir_measures.AP,
    "mrr": ir_measures.RR,
    "ndcg": ir_measures.nDCG,
    "r_precision": ir_measures.Rprec,
}


def evaluate_run(
    run: Mapping[str, Ranking],
    qrels: Qrels,
    measures: Sequence[str] = ("ndcg_at_10", "recall_at_100"),
    *,
    missing: str = "error",
) -> dict[str, float]:
    """Means over the questions of `qrels`; arguments as of `evaluate_questions`."""
    values = evaluate_questions(run, qrels, measures, missing=missing)
    means = {name: float(each.mean()) for name, each in values.items()}
    return {**means, "num_questions": len(qrels)}


def evaluate_questions(
    run: Mapping[str, Ranking],
    qrels: Qrels,
    measures: Sequence[str] = ("ndcg_at_10", "recall_at_100"),
    *,
    missing: str = "error",
) -> dict[str, np.ndarray]:
    """What each measure gives each question.

    Args:
        run: what was found for each question.
        qrels: grades of passages for each question, above 0 where relevant.
        measures: "ndcg_at_k", "recall_at_k", "capped_recall_at_k", "precision_at_k",
            "mrr_at_k", "map_at_k", "success_at_k", with a number for k; "ndcg",
            "map", "mrr" and "r_precision" of whole rankings.
        missing: what a question of `qrels` without a ranking means: "error", or
            "zero", a ranking of nothing.

    Returns:
        {measure: [n] float64}, questions in the order of `qrels`. A question without
        a relevant passage scores 0, as in trec_eval.

    Raises:
        ConfigError: there is no such measure, or `missing` is neither.
        DataError: `qrels` is empty; a question of it is missing; or the run has one
            that `qrels` does not know.
    """
    _check_questions(run, qrels, missing)
    objects = {name: _parse(name) for name in measures}
    found = [
        ir_measures.ScoredDoc(question_id, passage_id, score)
        for question_id, ranking in run.items()
        for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True)
    ]
    judged = [
        ir_measures.Qrel(question_id, passage_id, grade)
        for question_id, grades in qrels.items()
        for passage_id, grade in grades.items()
    ]
    places = {question_id: place for place, question_id in enumerate(qrels)}
    by_object = {measure: np.zeros(len(qrels)) for measure in objects.values()}
    if found:
        for metric in ir_measures.iter_calc(list(by_object), judged, found):
            by_object[metric.measure][places[metric.query_id]] = metric.value
    values = {}
    for name, measure in objects.items():
        values[name] = by_object[measure]
        base, at, depth = name.partition("_at_")
        if base == "capped_recall":
            values[name] = values[name] * _uncapped(qrels, int(depth))
        elif base == "mrr" and at:
            values[name] = np.where(values[name] >= 1 / int(depth), values[name], 0.0)
    return values


def depth_of(name: str) -> int:
    """The depth that a measure looks to; 1 for those of whole rankings.

    Raises:
        ConfigError: there is no such measure.
    """
    _parse(name)
    return int(name.partition("_at_")[2] or 1)


def _parse(name: str):
    """The measure of ir-measures that a name asks for."""
    base, at, depth = name.partition("_at_")
    if not at and base in _WHOLE:
        return _WHOLE[base]
    if base in _AT_K and re.fullmatch("[1-9][0-9]*", depth):
        return _AT_K[base](int(depth))
    raise ConfigError(
        f"there is no measure {name!r}: give {', '.join(sorted(_WHOLE))}, or one of "
        f"{', '.join(sorted(_AT_K))} with _at_ and a depth, such as "
        "ndcg_at_10."
    )


def _uncapped(qrels: Qrels, k: int) -> np.ndarray:
    """What recall is multiplied by to be a share of min(relevant, k), [n].

    Source: BEIR's capped recall, arXiv:2104.08663, section 5.
    """
    relevant = np.array(
        [sum(grade > 0 for grade in grades.values()) for grades in qrels.values()]
    )
    return relevant / np.maximum(np.minimum(relevant, k), 1)


def _check_questions(run: Mapping[str, Ranking], qrels: Qrels, missing: str) -> None:
    if missing not in ("error", "zero"):
        raise ConfigError(f"missing={missing!r}: it must be 'error' or 'zero'.")
    if not qrels:
        raise DataError("there are no judgments to evaluate by.")
    unknown = [question_id for question_id in run if question_id not in qrels]
    if unknown:
        raise DataError(
            f"the run has {len(unknown)} questions without judgments, the first of "
            f"them {unknown[0]!r}: it is of another set; leave them out of it."
        )
    absent = [question_id for question_id in qrels if question_id not in run]
    if absent and missing == "error":
        raise DataError(
            f"the run lacks {len(absent)} of {len(qrels)} questions, the first of them "
            f"{absent[0]!r}: give missing='zero' if nothing was found for them."
        )
