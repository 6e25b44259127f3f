import numpy as np
import pytest

from art_jax.data.examples import Candidate
from art_jax.data.passages import Passage
from art_jax.errors import DataError
from art_jax.evaluation import candidates
from art_jax.evaluation.runs import Ranking
from art_jax.types import SearchResults

PASSAGES = [Passage(f"p{n}", f"text {n}") for n in range(4)]


def test_what_a_search_found():
    rows = np.array([[2, 0], [2, -1]], np.int32)
    scores = np.array([[0.5, 0.25], [3, -np.inf]], np.float32)
    asked = []

    def passage_of_row(row):
        asked.append(row)
        return PASSAGES[row]

    found = candidates.of_search(SearchResults(scores, rows), passage_of_row)
    assert found.tolist() == [
        [Candidate(PASSAGES[2], 0.5), Candidate(PASSAGES[0], 0.25)],
        [Candidate(PASSAGES[2], 3.0), None],
    ]
    assert asked == [0, 2]
    numbers, passages = candidates.rows_and_passages(found)
    np.testing.assert_array_equal(numbers, [[0, 1], [0, -1]])
    assert passages == [PASSAGES[2], PASSAGES[0]]
    assert candidates.ids_of(found[1]) == ["p2"]


def test_rankings_of_different_lengths_and_none():
    found = candidates.stack([[], [Candidate(PASSAGES[0], 1.0)] * 2])
    assert found.shape == (2, 2)
    assert found[0].tolist() == [None, None]
    assert candidates.stack([[], []]).tolist() == [[None], [None]]


def test_to_a_run_and_back():
    run = {"a": Ranking(("p1", "p2"), (2.0, 2.0)), "b": Ranking((), ())}
    found = candidates.of_run(run, ["b", "a"])
    assert candidates.as_run(["b", "a"], found) == run
    # Nothing was found for a question that the run has not got.
    missing = candidates.of_run(run, ["c"])
    assert candidates.as_run(["c"], missing) == {"c": Ranking((), ())}


def test_a_question_is_left_out_of_its_own_ranking_if_wanted():
    run = {"p1": Ranking(("p2", "p1", "p3"), (3.0, 2.0, 1.0))}
    found = candidates.of_run(run, ["p1"])
    assert candidates.as_run(["p1"], found, ignore_identical_ids=True) == {
        "p1": Ranking(("p2", "p3"), (3.0, 1.0))
    }


@pytest.mark.parametrize(
    ("question_ids", "scores", "message"),
    [
        (["a"], (1.0, 2.0), "'p1' of question 'a' has the score 2.0 behind 1.0"),
        (["a"], (None, None), "has the score None"),
        (["a"], (float("nan"), 0.0), "has the score nan"),
        (["a", "a"], (1.0, 1.0), "question 'a' comes twice"),
    ],
)
def test_what_is_no_ranking(question_ids, scores, message):
    ranking = [
        Candidate(passage, score)
        for passage, score in zip(PASSAGES, scores, strict=False)
    ]
    with pytest.raises(DataError, match=message):
        candidates.as_run(question_ids, candidates.stack([ranking] * len(question_ids)))


def test_a_passage_found_twice():
    found = candidates.stack([[Candidate(PASSAGES[0], 1.0)] * 2])
    with pytest.raises(DataError, match="'p0' comes twice for question 'a'"):
        candidates.as_run(["a"], found)
