"""What `art-jax rerank` prints, and how it chooses."""

import dataclasses

import numpy as np
import pytest

from art_jax.cli import rerank_report
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError

PASSAGES = {
    "p1": Passage("p1", "The heron wades in the marsh.", "Heron"),
    "p2": Passage("p2", "The otter swims in the river.", "Otter"),
    "p3": Passage("p3", "Granite is hard.", ""),
}


def ranked(name, text, ids, answers=(), marks=None):
    marks = marks or [None] * len(ids)
    candidates = tuple(
        Candidate(PASSAGES[one], float(9 - rank), mark)
        for rank, (one, mark) in enumerate(zip(ids, marks, strict=True))
    )
    return RankedQuestion(Question(name, text, answers), candidates)


RANKED = [
    ranked("a", "who swims in the river", ["p1", "p3", "p2"], ("otter",)),
    ranked("b", "what is hard", ["p2", "p3"], ("granite",)),
]


def test_has_answer_of_a_file_is_believed():
    marked = [ranked("a", "who swims", ["p1", "p2"], ("otter",), [True, False])]
    kept, hits = rerank_report.find_hits(marked, "string")
    assert kept == marked
    np.testing.assert_array_equal(hits, [[True, False]])


def test_answers_mark_what_nobody_marked_and_depths_may_differ():
    marked, hits = rerank_report.find_hits(RANKED, "string")
    np.testing.assert_array_equal(hits, [[False, False, True], [False, True, False]])
    assert [one.has_answer for one in marked[1].candidates] == [False, True]


def test_judgments_count_before_answers_and_mark_nothing():
    (one,) = RANKED[:1]
    question = dataclasses.replace(one.question, relevant_ids=("p1",))
    judged = [dataclasses.replace(one, question=question)]
    kept, hits = rerank_report.find_hits(judged, "string")
    assert kept == judged
    np.testing.assert_array_equal(hits, [[True, False, False]])


def test_where_nothing_says_what_is_right_nothing_is_measured():
    unknown = [*RANKED, ranked("c", "why", ["p1"])]
    assert rerank_report.find_hits(unknown, "string")[1] is None
    assert rerank_report.find_hits([], "string")[1] is None


def test_top_k_of_every_depth_there_is():
    before, after = np.zeros((2, 60), bool), np.zeros((2, 60), bool)
    before[0, 4] = before[1, 25] = after[0, 0] = after[1, 5] = True
    lines = rerank_report.accuracy_table({"before": before, "after": after})
    assert [line.split() for line in lines.splitlines()] == [
        ["top-1", "top-5", "top-10", "top-20", "top-50"],
        ["before", "0.000", "0.500", "0.500", "0.500", "1.000"],
        ["after", "0.500", "0.500", "1.000", "1.000", "1.000"],
    ]


def test_several_answers_are_groups_not_aliases():
    assert not rerank_report.has_several_answers(RANKED)
    several = Question("q", "who", ("x", "y"), answer_groups=(("x",), ("y",)))
    assert rerank_report.has_several_answers([RankedQuestion(several, ())])


def test_the_best_of_several_and_of_equals_the_first():
    results = {
        "beta 1": {"mrecall_at_5": 0.25, "num_questions": 4},
        "beta 2": {"mrecall_at_5": 0.5, "num_questions": 4},
        "beta 3": {"mrecall_at_5": 0.5, "num_questions": 4},
    }
    assert rerank_report.best_by(results, "mrecall_at_5") == "beta 2"
    lines = rerank_report.measure_table(results).splitlines()
    assert lines[1].split() == ["mrecall_at_5", "0.250", "0.500", "0.500"]
    with pytest.raises(ConfigError, match="no measure 'map' to choose by; there are m"):
        rerank_report.best_by(results, "map")
