import pytest

from art_jax.data.questions import Question
from art_jax.evaluation.answer_measures import measure_answers

TWO = Question("a", "?", ("x", "y", "z"), answer_groups=(("x", "y"), ("z",)))
ONE = Question("b", "?", ("the cat", "dog"))
UNKNOWN = Question("c", "?")


def test_one_answer_is_held_against_all_that_are_accepted():
    said = [("Z!",), ("black cat",), ("x",)]
    found = measure_answers(said, [TWO, ONE, UNKNOWN], "one")
    # "black cat" against "cat": precision 1/2, recall 1.
    assert found == {"exact_match": 1 / 2, "token_f1": pytest.approx((1 + 2 / 3) / 2)}


def test_sets_are_compared_and_those_of_several_apart():
    found = measure_answers([("z", "w"), ("cat",)], [TWO, ONE], "sequence")
    # Of two said one is right, and of two right ones one is said.
    assert found == {"answer_set_f1": (1 / 2 + 1) / 2, "multi_answer_set_f1": 1 / 2}
    assert measure_answers([("y", "z")], [TWO], "sequence") == {
        "answer_set_f1": 1.0,
        "multi_answer_set_f1": 1.0,
    }


def test_nothing_said_is_wrong_and_nothing_known_is_not_measured():
    assert measure_answers([()], [ONE], "one")["exact_match"] == 0
    assert measure_answers([()], [ONE], "sequence") == {"answer_set_f1": 0.0}
    assert measure_answers([("x",)], [UNKNOWN], "sequence") == {}
