"""Exact match, F1, BLEU, ROUGE-L and Q-BLEU, by vectors of the official evaluators."""

import numpy as np
import pytest

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import text_measures as measures


@pytest.mark.parametrize(
    ("found", "gold", "want"),
    [
        ("The Beatles!", "beatles", True),
        ("U.S.", "us", True),
        ("14 December, 1972", "14 december 1972", True),
        ("an apple a day", "apple day", True),
        ("Barack  Obama ", "barack obama", True),
        ("Ph.D.", "phd", True),
        ("café", "cafe", False),
        ("the-man", "man", False),
        ("“quoted”", "quoted", False),
        ("a", "", True),
    ],
)
def test_exact_match(found, gold, want):
    assert measures.exact_match(found, [gold]) is want
    assert measures.exact_match(found, ["something else", gold]) is want


def test_token_f1():
    assert measures.token_f1("the cat sat on the mat", "cat on mat") == pytest.approx(
        2 * (3 / 4) * (3 / 3) / (3 / 4 + 3 / 3)
    )
    assert measures.token_f1("x x y", "x x x") == pytest.approx(2 / 3)
    assert measures.token_f1("", "") == 0


def words(text):
    return text.split()


@pytest.mark.parametrize(
    ("found", "gold", "want"),
    [
        ("the the the the the the the", "the cat is on the mat", [2 / 7]),
        ("the cat sat", "the cat is on the mat", [0.2453, 0.2124, 0, 0]),
        (
            "this state has the largest number of counties in the us",
            "this state has the largest number of counties in the u s",
            [0.8301, 0.8259, 0.8211, 0.8155],
        ),
    ],
)
def test_bleu(found, gold, want):
    got = measures.bleu([words(found)], [[words(gold)]])
    assert got[: len(want)] == pytest.approx(want, abs=1e-4)


def test_bleu_pools_a_set_and_takes_the_nearest_reference():
    found = [words("a b"), words("c d e f")]
    golds = [[words("a b")], [words("x"), words("c d e f g h i")]]
    # Matches 2 + 4 of 2 + 4 words; lengths 2 + 4 against 2 + 1 (3 off, not 3: shorter).
    assert measures.bleu(found, golds, n=1)[0] == pytest.approx(1)
    # Clipped by the largest count of one reference, not by their sum.
    assert measures.bleu([words("a a a")], [[words("a"), words("a a b")]], n=1)[
        0
    ] == pytest.approx(2 / 3)


def test_rouge_l():
    got = measures.rouge_l(
        words("the cat sat on the mat"), [words("the cat is on the mat")]
    )
    assert got == pytest.approx(5 / 6)
    precision, recall, weight = 2 / 4, 2 / 2, 1.44
    assert measures.rouge_l(words("a b c d"), [words("a d"), words("x y z")]) == (
        pytest.approx((1 + weight) * precision * recall / (recall + weight * precision))
    )
    assert measures.rouge_l([], [words("a")]) == 0
    assert measures.rouge_l(words("a"), [words("b")]) == 0


def test_q_bleu_of_the_authors_example():
    found, gold = "Is this a great question?", "Is this a good question?"
    assert measures.q_bleu(found, gold, 3) == pytest.approx(0.678, abs=5e-4)
    assert measures.q_bleu(found, gold, 1) == pytest.approx(0.765, abs=5e-4)


def test_q_bleu_looks_at_question_types_and_their_noun():
    alone = {"weights": (0.0, 1.0, 0.0), "answerability_share": 1.0}
    assert measures.q_bleu("What city is it?", "Which city is it?", **alone) == 0.5
    assert measures.q_bleu("Who is it?", "Who is it?", **alone) == 1
    entities = {"weights": (1.0, 0.0, 0.0), "answerability_share": 1.0}
    # A question word that comes first is no name; anywhere else it is.
    assert measures.q_bleu("Who met Ann?", "When met Ann?", **entities) == 1
    assert measures.q_bleu("Who met Ann?", "Who met Bob?", **entities) == 0
    content = {"weights": (0.0, 0.0, 1.0), "answerability_share": 1.0}
    assert measures.q_bleu("Who met the man?", "Who saw a man?", **content) == 0.5


def test_q_bleu_refuses_weights_that_are_no_shares():
    with pytest.raises(ConfigError, match="0 or more"):
        measures.q_bleu("a", "a", weights=(0.9, 0.2, 0.1))
    with pytest.raises(ConfigError, match="0 or more"):
        measures.q_bleu("a", "a", weights=(-0.1, 0.2, 0.1))


def test_distinct_ngrams():
    texts = [words("the cat sat on the mat"), words("the cat sat on a mat")]
    assert measures.distinct_ngrams(texts) == 6 / 8
    assert measures.distinct_ngrams([words("too short")]) == 0


def test_label_accuracy():
    found = [" SUPPORTS", "REFUTES", "supports"]
    assert measures.label_accuracy(found, ["SUPPORTS", "REFUTES", "SUPPORTS"]) == 2 / 3


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="0 texts"):
        measures.bleu([], [])
    with pytest.raises(DataError, match="2 texts.*of 1"):
        measures.label_accuracy(["a", "b"], ["a"])
    with pytest.raises(DataError, match="text 1 has no reference"):
        measures.bleu([["a"], ["b"]], [[["a"]], []])


def test_a_set_of_texts_by_several_measures():
    predictions = ["The Beatles!", '["x", "SUPPORTS"]']
    references = [(("beatles", "the cat"),), (("supports",), ("y", "z"))]
    names = ("exact_match", "token_f1", "label_accuracy", "answer_set_f1", "rouge_l")
    got = measures.evaluate_texts(predictions, references, names)
    assert got["exact_match"].tolist() == [1, 0]
    # "x supports" holds one word of "supports".
    assert got["token_f1"].tolist() == [1, pytest.approx(2 / 3)]
    assert got["label_accuracy"].tolist() == [0, 0]
    # One prediction of two is right, and one of the two answers is found.
    assert got["answer_set_f1"].tolist() == [1, 1 / 2]
    # "the beatles" against "beatles": precision 1/2, recall 1.
    beta = 1.2**2
    assert got["rouge_l"][0] == pytest.approx((1 + beta) * 0.5 / (1 + beta * 0.5))


def test_sets_of_several_answers_are_measured_apart():
    predictions = ['["x", "y"]', "x", '["x"]']
    references = [(("X",), ("z",)), (("x",),), (("x",), ("y",))]
    names = ("answer_set_f1", "multi_answer_set_f1")
    got = measures.evaluate_texts(predictions, references, names)
    # The third: precision 1, recall 1/2.
    np.testing.assert_allclose(got["answer_set_f1"], [1 / 2, 1, 2 / 3])
    np.testing.assert_allclose(got["multi_answer_set_f1"], [1 / 2, np.nan, 2 / 3])


def test_measures_of_all_texts_together():
    predictions = ["the cat sat on the mat", "The cat sat on a mat."]
    references = [((text,),) for text in predictions]
    names = ("bleu_1", "bleu_4", "distinct_3", "q_bleu")
    got = measures.evaluate_texts(predictions, references, names)
    assert got["bleu_1"] == pytest.approx(1)
    assert got["bleu_4"] == pytest.approx(1)
    assert got["distinct_3"] == 6 / 8
    assert got["q_bleu"].shape == (2,)
    # The set's own numbers, of the COCO evaluation.
    near = ["this state has the largest number of counties in the u s"]
    right = [(("this state has the largest number of counties in the us",),)]
    other = measures.evaluate_texts(near, right, ("bleu_1", "bleu_2", "bleu_4"))
    tokens = [near[0].split()], [[right[0][0][0].split()]]
    want = measures.bleu(*tokens)
    assert (other["bleu_1"], other["bleu_2"], other["bleu_4"]) == (
        want[0],
        want[1],
        want[3],
    )
    assert other["bleu_1"] != other["bleu_4"]
    with pytest.raises(ConfigError, match="no measure 'bleu_5' of texts: .*bleu_4"):
        measures.evaluate_texts(predictions, references, ["bleu_5"])
    with pytest.raises(DataError, match="text 0 has no reference"):
        measures.evaluate_texts(["a"], [()])
