"""Graded measures equal trec_eval's printed numbers and a plain twin of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import ranking
from art_jax.evaluation.runs import Ranking

QRELS = {"q1": {"d1": 2, "d2": 1, "d3": 1}}


def run_of(*ids, scores=None):
    scores = scores or [float(-place) for place in range(len(ids))]
    return Ranking(tuple(ids), tuple(scores))


def test_numbers_of_trec_eval():
    run = {"q1": run_of("d2", "d5", "d1"), "q2": run_of("d8", "d9")}
    qrels = {**QRELS, "q2": {"d9": 1}}
    got = ranking.evaluate_questions(run, qrels, ("ndcg_at_10", "recall_at_100", "map"))
    assert got["ndcg_at_10"] == pytest.approx([0.638788, 0.630930], abs=1e-6)
    assert got["recall_at_100"] == pytest.approx([2 / 3, 1])
    assert got["map"] == pytest.approx([0.555556, 0.5], abs=1e-6)


def test_equal_scores_stand_in_descending_order_of_their_ids():
    run = {"q1": run_of("d1", "d9", "a0", scores=[1.0, 1.0, 1.0])}
    got = ranking.evaluate_run(run, QRELS, ("ndcg_at_10", "recall_at_2"))
    assert got["ndcg_at_10"] == pytest.approx(0.403030, abs=1e-6)
    assert got["recall_at_2"] == pytest.approx(1 / 3)
    assert got["num_questions"] == 1


def test_capped_recall_asks_for_no_more_than_k():
    run = {"q1": run_of("d1", "x", "d2")}
    got = ranking.evaluate_run(
        run, QRELS, ("capped_recall_at_2", "recall_at_2", "capped_recall_at_9")
    )
    assert got["capped_recall_at_2"] == pytest.approx(1 / 2)
    assert got["recall_at_2"] == pytest.approx(1 / 3)
    assert got["capped_recall_at_9"] == pytest.approx(2 / 3)


def twin(ids, scores, grades, k):
    """nDCG, recall, precision, reciprocal rank, success at k; MAP and R-precision."""
    order = sorted(zip(np.float32(scores), ids, strict=True), reverse=True)
    found = [max(grades.get(one, 0), 0) for _, one in order]
    hits = [grade > 0 for grade in found]
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)

    def dcg(values):
        return sum(v / math.log2(place + 2) for place, v in enumerate(values[:k]))

    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    first = next((i + 1 for i, hit in enumerate(hits[:k]) if hit), math.inf)
    return {
        f"ndcg_at_{k}": dcg(found) / dcg(best),
        f"recall_at_{k}": sum(hits[:k]) / len(best),
        f"capped_recall_at_{k}": sum(hits[:k]) / min(len(best), k),
        f"precision_at_{k}": sum(hits[:k]) / k,
        f"mrr_at_{k}": 1 / first,
        f"success_at_{k}": float(any(hits[:k])),
        "map": sum(precisions) / len(best),
        "r_precision": sum(hits[: len(best)]) / len(best),
    }


@settings(max_examples=60, deadline=None)
@given(
    found=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1),
    grades=st.dictionaries(st.sampled_from("abcdefghij"), st.integers(-1, 3)),
    step=st.sampled_from([1.0, 1e-9]),
    k=st.integers(1, 6),
)
def test_equals_a_plain_twin(found, grades, k, step):
    grades = {**grades, "j": 1}
    ids = sorted(found, key=lambda one: -found[one])
    # Steps of 1e-9 are lost in float32: such scores are ties.
    scores = [1.0 + step * found[one] for one in ids]
    want = twin(ids, scores, grades, k)
    got = ranking.evaluate_questions(
        {"q": Ranking(tuple(ids), tuple(scores))}, {"q": grades}, tuple(want)
    )
    assert {name: each[0] for name, each in got.items()} == pytest.approx(want)


def test_missing_and_unknown_questions_are_no_silent_matter():
    run, qrels = {"q1": run_of("d1")}, {**QRELS, "q2": {"d9": 1}}
    with pytest.raises(DataError, match="lacks 1 of 2 questions.*'q2'.*missing='zero'"):
        ranking.evaluate_run(run, qrels)
    got = ranking.evaluate_run(run, qrels, ("mrr",), missing="zero")
    assert got == {"mrr": 0.5, "num_questions": 2}
    assert ranking.evaluate_run({}, qrels, ("mrr",), missing="zero")["mrr"] == 0
    with pytest.raises(DataError, match="1 questions without judgments.*'q3'"):
        ranking.evaluate_run({**run, "q3": run_of("d1")}, QRELS)
    with pytest.raises(DataError, match="no judgments"):
        ranking.evaluate_run(run, {})
    with pytest.raises(ConfigError, match="'error' or 'zero'"):
        ranking.evaluate_run(run, qrels, missing="skip")


@pytest.mark.parametrize(
    "name", ["ndcg_at_0", "ndcg@10", "recall", "bleu_at_4", "map_at_x"]
)
def test_an_unknown_measure_is_refused(name):
    with pytest.raises(ConfigError, match="there is no measure"):
        ranking.evaluate_run({"q1": run_of("d1")}, QRELS, (name,))


def test_a_question_without_a_relevant_passage_scores_zero():
    got = ranking.evaluate_questions(
        {"q": run_of("a")}, {"q": {"a": 0}}, ("ndcg_at_10", "capped_recall_at_10")
    )
    np.testing.assert_array_equal(got["ndcg_at_10"], [0])
    np.testing.assert_array_equal(got["capped_recall_at_10"], [0])
