"""Measures of several answers, by hand and by vectors of official evaluators."""

import numpy as np
import pytest

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import multi_answer


def held(*passages, answers="ABC"):
    """Passages as texts of the answers they hold."""
    return np.array([[letter in text for letter in answers] for text in passages])


SEVEN = "ABCDEFG"


@pytest.mark.parametrize(
    ("ranking", "k", "want"),
    [
        (held("A", "B", "AC"), 3, True),
        (held("A", "B", ""), 2, True),
        (held("A", "A", "BC"), 2, False),
        (held("AB", "CD", "E", "", "", "FG", answers=SEVEN), 5, True),
        (held("AB", "CD", "", "", "", "EFG", answers=SEVEN), 5, False),
    ],
)
def test_all_answers_or_k_of_them(ranking, k, want):
    assert multi_answer.multi_answer_recall([ranking], k).tolist() == [want]


def test_an_alias_is_its_answer_and_texts_are_read_once():
    texts = ["Bonn was the capital", "then Berlin", "New York City"]
    asked = []

    def text_of_row(row):
        asked.append(row)
        return texts[row]

    got = multi_answer.answers_held(
        np.array([[0, 1], [2, -1]]),
        text_of_row,
        [[["Bonn"], ["Berlin"]], [["NYC", "New York"]]],
    )
    np.testing.assert_array_equal(got[0], [[True, False], [False, True]])
    np.testing.assert_array_equal(got[1], [[True], [False]])
    assert sorted(asked) == [0, 1, 2]


POOL = held("A", "A", "B", "AC", "")


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ((0, 1, 2, 3, 4), 0.7440969),
        ((3, 2, 0, 1, 4), 1.0),
    ],
)
def test_alpha_ndcg_is_that_of_ndeval(order, want):
    got = multi_answer.alpha_ndcg(POOL[list(order)], 5)
    assert got == pytest.approx(want, abs=1e-7)


def test_alpha_ndcg_with_a_pool_beyond_the_ranking():
    # A passage that no one judged stands second.
    ranking = np.stack([POOL[4], np.zeros(3, bool), POOL[0], POOL[1], POOL[2]])
    got = multi_answer.alpha_ndcg(ranking, 5, pool=POOL)
    assert got == pytest.approx(0.929920 / 2.685237, abs=1e-6)


def test_alpha_ndcg_by_hand():
    ranking = held("A", "AB")
    gained = 1 + (0.5 + 1) / np.log2(3)
    ideal = 2 + 0.5 / np.log2(3)
    got = multi_answer.alpha_ndcg(ranking, 2, alpha=0.5)
    assert got == pytest.approx(gained / ideal)
    assert multi_answer.alpha_ndcg(held("", ""), 2) == 0


@pytest.mark.parametrize(
    ("predictions", "golds", "want"),
    [
        (["a", "b"], [["A", "a1"], ["B"], ["C"]], 0.8),
        (["a", "b"], [["A"]], 2 / 3),
        (["a", "A"], [["A"]], 2 / 3),
        (["c"], [["A"], ["B"]], 0),
        (["A", "B"], [["A", "B"], ["A"]], 0.5),
    ],
)
def test_answer_sets_match_first_come(predictions, golds, want):
    # "a" alone is an article, which the official comparison drops.
    golds = [[f"x{alias}" for alias in group] for group in golds]
    predictions = [f"x{text}" for text in predictions]
    assert multi_answer.answer_set_f1(predictions, [golds]) == pytest.approx(want)


def test_the_best_annotation_counts():
    assert multi_answer.answer_set_f1(["one"], [[["two"]], [["One."]]]) == 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="k=3 of the 2"):
        multi_answer.multi_answer_recall([POOL[:2]], 3)
    with pytest.raises(ConfigError, match="alpha is 2"):
        multi_answer.alpha_ndcg(POOL, 5, alpha=2)
    with pytest.raises(DataError, match="question 1 has no answer"):
        multi_answer.answers_held(np.zeros((2, 1), int), str, [[["x"]], []])
    with pytest.raises(DataError, match="0 predictions"):
        multi_answer.answer_set_f1([], [[["x"]]])
    with pytest.raises(ValueError, match="rankings of 1"):
        multi_answer.answers_held(np.zeros((1, 1), int), str, [])
