import numpy as np
import pytest

from art_jax.data.answer_targets import TargetRules
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.evaluation.grounding import Grounding, find_targets, ground_answers

TEXTS = ["a plum, an apple", "nothing", "New York is big; pears grow in NYC"]


def ground(rows, groups, match="string"):
    ((found),) = ground_answers(np.array([rows]), TEXTS.__getitem__, [groups], match)
    return [(one.group, one.text) for one in found]


def test_answers_come_in_the_order_in_which_passages_hold_them():
    groups = (("apple",), ("cherry",), ("NYC", "New York"), ("plum",), ("pears",))
    # Of the city's names the one that stands first in the text is its text.
    assert ground([0, 1, 2], groups) == [
        (3, "plum"),
        (0, "apple"),
        (2, "New York"),
        (4, "pears"),
    ]
    assert ground([1, 2, 0], groups) == [
        (2, "New York"),
        (4, "pears"),
        (3, "plum"),
        (0, "apple"),
    ]


def test_an_alias_of_an_earlier_passage_comes_before_one_of_a_later():
    assert ground([2, 0], (("plum", "NYC"),)) == [(0, "NYC")]
    assert ground([0, 2], (("NYC", "plum"),)) == [(0, "plum")]


def test_of_equals_the_first_given_is_taken():
    assert ground([2], (("New", "New York"),)) == [(0, "New")]
    assert ground([2], (("New York",), ("New",))) == [(0, "New York"), (1, "New")]
    # But the passage's own writing comes before another.
    assert ground([2], (("nyc", "NYC"),)) == [(0, "NYC")]


def test_padding_holds_nothing_and_expressions_give_what_they_match():
    assert ground([1, -1], (("plum",),)) == []
    assert ground([-1, 2], (("n[a-z]* york",), ("pears?",)), "regex") == [
        (0, "New York"),
        (1, "pears"),
    ]


@pytest.mark.parametrize("unknown", [(), ((),)])
def test_questions_without_answers_have_none(unknown):
    rows = np.array([[0], [2], [0]])
    found = ground_answers(
        rows, TEXTS.__getitem__, [unknown, (("NYC",),), (("apple",),)]
    )
    assert found == [[], [Grounding(0, "NYC")], [Grounding(0, "apple")]]
    assert ground_answers(rows[:1], TEXTS.__getitem__, [unknown]) == [[]]


def find(rows, answers=(), groups=(), target="", **rules):
    passages = [Candidate(Passage(str(row), TEXTS[row])) for row in rows]
    question = Question("q", "?", tuple(answers), answer_groups=tuple(groups))
    one = RankedQuestion(question, tuple(passages), target)
    return find_targets([one], TargetRules(**rules))[0]


def test_targets_are_answers_that_can_be_said():
    groups = (("Gotham", "NYC", "New York"), ("cherry", "kirsch"), ("plum",))
    sequence = {"groups": groups, "form": "sequence"}
    assert find([0, 2], **sequence) == ["plum", "New York"]
    assert find([0, 2], **sequence, grounded=False) == ["plum", "New York", "cherry"]
    # One answer is any alias of any.
    assert find([0, 2], groups=groups) == ["plum", "New York", "NYC"]
    assert find([2], ["Gotham", "NYC"], grounded=False) == ["NYC", "Gotham"]
    assert find([2], ["Gotham", "NYC"], target="New York") == ["New York"]


def test_without_a_passage_or_an_answer_nothing_is_said():
    assert find([1], ["plum"]) == []
    assert find([1], ["plum"], grounded=False) == ["plum"]
    assert find([], ["plum"], grounded=False) == []
    assert find([0]) == find([0], grounded=False) == []
