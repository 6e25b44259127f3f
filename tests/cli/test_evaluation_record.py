"""Records say every choice; rows and files are of the right task."""

import types

import numpy as np
import pytest

from art_jax.cli import evaluation_record
from art_jax.cli.evaluation_record import Measured
from art_jax.data.examples import Candidate
from art_jax.data.passages import Passage
from art_jax.data.question_table import QuestionTable
from art_jax.data.questions import Question
from art_jax.evaluation import candidates, evaluator
from art_jax.evaluation.evaluator import TaskResult
from art_jax.evaluation.runs import read_run
from art_jax.evaluation.systems import System

SYSTEM = System("bm25", None, {"method": "bm25", "k1": 0.9})


def measured(values, metric=None, question=None):
    question = question or Question("q", "?", ("ann",))
    found = candidates.stack([[Candidate(Passage("p1", "by ann"), 1.0)]])
    table = QuestionTable(np.zeros((1, 1), np.int32), (question,))
    metrics = {name: float(np.nanmean(each)) for name, each in values.items()}
    metrics["num_questions"] = len(next(iter(values.values())))
    described = evaluation_record.describe_metric(metric or evaluator.TopKAccuracy())
    result = TaskResult(metrics, values, table, found)
    return Measured(metrics, values, result, (described,))


def test_a_record_of_one_task():
    one = measured({"map": np.array([1.0, 1.0])})
    record = evaluation_record.make_record(SYSTEM, "test", {"nq": one}, k=100)
    assert record["k"] == 1  # no more was found
    assert (record["task"], record["split"], record["match"]) == (
        "nq",
        "test",
        "string",
    )
    assert record["search"] == {"method": "bm25", "k1": 0.9}
    assert record["metrics"] == {"map": 1.0, "num_questions": 2}
    assert record["intervals"] == {"map": [1.0, 1.0]}
    assert record["measured_by"] == [
        {"metric": "TopKAccuracy", "ks": (1, 5, 20, 50, 100), "match": "string"}
    ]
    assert record["choices"].keys() == {"ties", "missing_questions", "intervals"}


def test_a_record_of_several_tasks_has_their_mean():
    beir = evaluator.RankingMeasures(ignore_identical_ids=True)
    tasks = {
        "a": measured({"map": np.array([1.0, 0.0])}, beir),
        "b": measured({"map": np.array([1.0])}, beir),
    }
    record = evaluation_record.make_record(SYSTEM, "test", tasks, k=1)
    assert record["metrics"] == {"map": 0.75, "num_questions": 3}
    assert record["tasks"]["a"]["metrics"]["map"] == 0.5
    assert record["tasks"]["a"]["measured_by"][0]["ignore_identical_ids"] is True
    assert record["match"] is None
    rows = evaluation_record.table_rows("bm25", record)
    assert list(rows) == ["a", "b", "mean"]
    record["baseline"] = evaluation_record.describe_baseline(SYSTEM, tasks, tasks)
    assert list(evaluation_record.table_rows("retriever", record)) == [
        "a",
        "a, bm25",
        "b",
        "b, bm25",
        "mean",
        "mean, bm25",
    ]


def test_systems_are_compared_on_the_questions_that_count():
    ours = measured({"x": np.array([1.0, 1.0, 1.0, np.nan]), "y": np.ones(4)})
    theirs = measured({"x": np.array([0.0, 0.0, 0.0, 0.0])})
    # Of eight ways to exchange three equal differences, two are as large.
    assert evaluation_record.compare(ours, theirs) == {"x": 2 / 8}


def test_curves_are_of_tasks_that_say_what_is_right():
    kilt = measured(
        {"x": np.ones(1)},
        evaluator.KiltRetrieval(),
        Question("k", "?", evidence=(("7",),)),
    )
    tasks = {"nq": measured({"x": np.ones(1)}), "kilt": kilt}
    curves = evaluation_record.find_curves(tasks)
    assert curves.keys() == {"nq"}
    np.testing.assert_array_equal(curves["nq"], [1.0])


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_each_task_has_its_files(tmp_path, num_tasks):
    names = ["cqadupstack/android", "nq"][:num_tasks]
    options = types.SimpleNamespace(
        run_file=str(tmp_path / "x.trec.gz"), dpr_results=None, kilt_predictions=None
    )
    tasks = {name: measured({"x": np.ones(1)}) for name in names}
    evaluation_record.write_files(options, "bm25", tasks)
    files = sorted(path.name for path in tmp_path.iterdir())
    if num_tasks == 1:
        assert files == ["x.trec.gz"]
    else:
        assert files == ["x.cqadupstack_android.trec.gz", "x.nq.trec.gz"]
    assert read_run(tmp_path / files[0])["q"].passage_ids == ("p1",)
