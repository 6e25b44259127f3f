"""Patterns become the answers they match."""

from art_jax.data.answer_sets import find_answer_sets
from art_jax.data.questions import Question


def normalize(text):
    return text.replace(".", "").removeprefix("the ")


def find(patterns, texts, **limits):
    questions = [Question(f"q{n}", "?", (one,)) for n, one in enumerate(patterns)]
    return list(find_answer_sets(questions, texts, normalize, **limits))


def test_the_papers_example():
    texts = ["He left Long Island, New York.", "took off from roosevelt field, newyork"]
    texts += ["near NEW YORK, long  island"]
    (got,) = find([r"Long Island|New\s?York|Roosevelt Field"], texts)
    assert got.answer_groups == (
        ("long island",),
        ("new york", "newyork"),
        ("roosevelt field",),
    )
    assert got.answers == ("long island", "new york", "newyork", "roosevelt field")
    assert (got.question_id, got.text) == ("q0", "?")


def test_what_matches_nothing_or_too_much_is_left_out():
    texts = ["1 2", "3 4"]
    patterns = [r"\d", "x", "(broken", "[1-3]"]
    got = find(patterns, texts, max_matches=3)
    assert [one.question_id for one in got] == ["q3"]
    assert [one.question_id for one in find(patterns, texts)] == ["q0", "q3"]


def test_long_matches_and_empty_ones_are_no_answers():
    (got,) = find(
        [r"a+(?: a+)*|\.|c*"], ["a a a", "aa aa", "..", "a a a a"], max_words=3
    )
    # "a a a" and "aa aa" differ in spaces alone from "aaa" and "aaaa".
    assert got.answer_groups == (("a a a",), ("aa aa",))
    assert find(["a a"], ["a a"], max_words=1) == []


def test_text_is_compared_decomposed_and_given_composed():
    spellings = ("Beyonc\u00e9", "Beyonce\u0301")
    for pattern in spellings:
        for text in spellings:
            (got,) = find([pattern], [text])
            assert got.answers == ("beyonc\u00e9",)
