"""KILT's numbers, as the official evaluation was seen to give them."""

import pytest

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import kilt


def sets(*texts):
    return [frozenset(text.split()) for text in texts]


THREE = sets("1 2", "5", "7 9 11")

# gold sets, guess, then R-precision, P@1, P@2, P@3, P@5, R@2, R@3, R@5, S@1, S@2; what
# the official evaluation was seen to give.
VECTORS = [
    (THREE, "2 5 7 33 1 9 44 88", 0.5, 1, 0.5, 2 / 3, 0.4, 1 / 3, 2 / 3, 2 / 3, 1, 1),
    (THREE, "5", 1, 1, 0.5, 1 / 3, 0.2, 1 / 3, 1 / 3, 1 / 3, 1, 1),
    (THREE, "1 1 2", 1, 1, 0.5, 1 / 3, 0.2, 1 / 3, 1 / 3, 1 / 3, 1, 1),
    (THREE, "2 3 1", 0.5, 0, 0.5, 1 / 3, 0.2, 1 / 3, 1 / 3, 1 / 3, 0, 1),
    (sets("10", "20"), "20 10", 1, 1, 1, 2 / 3, 0.4, 1, 1, 1, 1, 1),
    (sets("10", "10"), "10", 1, 1, 0.5, 1 / 3, 0.2, 1, 1, 1, 1, 1),
    (sets("10 20"), "10 99 20", 0.5, 0, 0.5, 1 / 3, 0.2, 1, 1, 1, 0, 1),
    ([], "10", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (sets("10 20", "30"), "30 10 20", 1, 1, 1, 2 / 3, 0.4, 1, 1, 1, 1, 1),
]
NAMES = [
    "r_precision",
    *(f"precision_at_{k}" for k in (1, 2, 3, 5)),
    *(f"recall_at_{k}" for k in (2, 3, 5)),
    *(f"success_at_{k}" for k in (1, 2)),
]


@pytest.mark.parametrize(("gold", "guess", "want"), [(g, i, w) for g, i, *w in VECTORS])
def test_retrieval_is_that_of_the_official_evaluation(gold, guess, want):
    got = kilt.retrieval_scores(guess.split(), gold, (1, 2, 3, 5))
    assert [got[name] for name in NAMES] == pytest.approx(want)


def test_passages_and_their_pages():
    gold = [frozenset({kilt.evidence_id(10, 3)}), frozenset({kilt.evidence_id(10, 7)})]
    ids = [kilt.evidence_id(" 10 ", paragraph) for paragraph in (4, 7, 3)]
    passage = kilt.retrieval_scores(ids, gold, (1, 5))
    assert (passage["r_precision"], passage["precision_at_5"]) == (0, 0.4)
    assert (passage["recall_at_5"], passage["success_at_1"]) == (1, 0)
    pages = [frozenset(map(kilt.page_of, support)) for support in gold]
    page = kilt.retrieval_scores([kilt.page_of(one) for one in ids], pages, (1, 5))
    assert (page["r_precision"], page["recall_at_5"], page["success_at_1"]) == (1, 1, 1)


def test_an_id_of_two_sets_counts_in_both():
    hits, num_sets = kilt.rank_evidence(["1", "2"], sets("1 2", "1"))
    assert (hits, num_sets) == ([True, True], 2)


@pytest.mark.parametrize(
    ("found", "right", "want"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 0.8),
        ("a b c", "a b c", 0.999999995),
        ("The cat.", "the cat", 0.5),
        (
            "Barack Obama was born in Honolulu, Hawaii.",
            "Obama was born in Hawaii",
            0.833333,
        ),
        ("one. two", "two. one", 0.999999995),
        ("", "a", 0.0),
        (".", "a.", 0.0),
    ],
)
def test_rouge_l_is_that_of_the_package_kilt_calls(found, right, want):
    assert kilt.rouge_l(found, right) == pytest.approx(want, abs=1e-6)


def test_an_answer_counts_where_its_page_was_found():
    golds = {
        "a": kilt.Gold((frozenset("1"), frozenset("23")), ("Paris", "City of Paris")),
        "b": kilt.Gold((frozenset("9"),), ("SUPPORTS",)),
    }
    guesses = {
        "a": kilt.Guess(("2", "3"), "the paris"),
        "b": kilt.Guess(("8",), "SUPPORTS"),
    }
    got = kilt.evaluate(golds, guesses, ks=(1,))
    want = {"accuracy": 0.5, "em": 1, "f1": 1, "rouge_l": 0.5}
    want |= {"kilt_accuracy": 0, "kilt_em": 0.5, "kilt_f1": 0.5, "kilt_rouge_l": 0}
    want |= {"r_precision": 0.5, "num_questions": 2}
    assert {name: got[name] for name in want} == pytest.approx(want, abs=1e-6)


def test_an_answer_is_grounded_page_by_page():
    golds = {"a": kilt.Gold((frozenset({"4+2"}),), ("yes",))}
    got = kilt.evaluate(golds, {"a": kilt.Guess(("4+9",), "yes")}, ks=(1,))
    assert (got["r_precision"], got["kilt_em"]) == (0, 1)


def test_no_answer_scores_nothing_and_retrieval_alone_reports_none():
    assert kilt.answer_scores("", ["x"])["em"] == 0
    assert kilt.answer_scores(None, ["x"])["rouge_l"] == 0
    alone = kilt.evaluate(
        {"a": kilt.Gold((frozenset("1"),))}, {"a": kilt.Guess(("1",))}, ks=(1,)
    )
    assert "em" not in alone


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(DataError, match="no questions"):
        kilt.evaluate({}, {})
    with pytest.raises(DataError, match="1 of 1 questions have no guess.*'a'"):
        kilt.evaluate({"a": kilt.Gold(())}, {})
    with pytest.raises(ConfigError, match="1 or more"):
        kilt.retrieval_scores(["1"], [], (0, 1))


def test_levels_read_pages_and_paragraphs_off_the_ids():
    # The first piece ends in paragraph 4, the right one; the page alone is known of
    # one place, which no passage can be.
    ids = ["10+4+0", "10+4+1", "11+2+0"]
    got = kilt.level_scores(ids, [["10+4", "11"]], (1, 2, 3))
    assert got["page_r_precision"] == 1.0
    assert got["page_recall_at_2"] == 1.0  # two pages, the second at rank 2
    assert got["passage_r_precision"] == 1.0
    assert got["passage_recall_at_1"] == 1.0
    assert not any("precision_at" in name for name in got)


def test_values_of_each_question_are_what_the_means_are_of():
    golds = {
        "a": kilt.Gold((frozenset({"1"}),), ("Paris",)),
        "b": kilt.Gold((frozenset({"9"}),), ("SUPPORTS",)),
    }
    guesses = {"a": kilt.Guess(("1",), "Paris"), "b": kilt.Guess(("8",), "SUPPORTS")}
    values = kilt.evaluate_questions(golds, guesses, ks=(1,))
    assert values["r_precision"].tolist() == [1, 0]
    assert values["em"].tolist() == [1, 1]
    assert values["kilt_em"].tolist() == [1, 0]
    means = kilt.evaluate(golds, guesses, ks=(1,))
    assert means == {
        **{name: each.mean() for name, each in values.items()},
        "num_questions": 2,
    }
