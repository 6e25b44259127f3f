import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from art_jax.errors import ConfigError
from art_jax.evaluation import answers

# Results that DPR's official function printed, except where it says "guard".
STRING_VECTORS = [
    ("Beyonce", "Singer Beyoncé Knowles", False),
    ("Beyonc\u00e9", "Singer Beyonce\u0301", True),
    ("New York", "moved to New\nYork City", True),
    ("U.S.", "the US army", False),
    ("US", "the U.S. army", False),
    ("U.S.", "the U.S army", False),
    ("1,000", "about 1000 men", False),
    ("the Beatles", "Beatles fans", False),
    ("cat", "concatenate", False),
    ("14 December 1972", "14 December 1972.", True),
    ("May 18 , 2018", "May 18, 2018", True),
    ("St. Louis", "St Louis", False),
    ("N.W.A", "group N.W.A. was", True),
    ("\u2019s", "it's", False),
    ("", "anything", False),  # guard: the official function says True
    (" \u200b\n", "anything", False),  # guard: no token is left
]
REGEX_VECTORS = [
    (r"New\s?York", "in newyork", True),
    (
        r"Long Island|New\s?York|Roosevelt Field",
        "took off from roosevelt field",
        True,
    ),
    (r"^19\d\d$", "in 1969", False),
    (r"^19\d\d$", "x\n1969\ny", True),
    ("(unclosed", "(unclosed", False),
    (r"\b42\b", "4242", False),
    ("caf\u00e9", "cafe\u0301", True),
    ("", "anything", False),  # guard
]
KILT_VECTORS = [
    ("The Beatles!", "fans of beatles songs", True),
    ("the-man", "a man", False),
    ("cat", "concatenate", True),
    ("U.S.", "the US army", True),
    ("the", "the army", False),  # guard: nothing is left of the answer
]


@pytest.mark.parametrize(
    ("match", "answer", "text", "expected"),
    [("string", *vector) for vector in STRING_VECTORS]
    + [("regex", *vector) for vector in REGEX_VECTORS]
    + [("kilt", *vector) for vector in KILT_VECTORS],
)
def test_official_vectors(match, answer, text, expected):
    assert answers.has_answer(text, [answer], match) is expected


def test_tokens_of_the_official_example():
    text = "U.S. GDP — 3.5% in\u00a02008–09; Beyoncé's café"
    tokens = "u . s . gdp — 3 . 5 % in 2008 – 09 ; beyoncé ' s café"
    assert " ".join(answers.tokenize(text)) == unicodedata.normalize("NFD", tokens)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Beatles!", "beatles"),
        ("the-man", "theman"),
        ("Barack  Obama ", "barack obama"),
        ("“quoted”", "“quoted”"),
        ("an apple a day", "apple day"),
        ("a", ""),
    ],
)
def test_normalize(text, normalized):
    assert answers.normalize(text) == normalized


def test_any_of_the_answers_is_enough():
    assert answers.has_answer("born in 1969", ["1970", "", "1969"])
    assert not answers.has_answer("born in 1969", [])


def test_unknown_match_names_the_choices():
    with pytest.raises(ConfigError, match="string, regex, kilt"):
        answers.has_answer("text", ["answer"], "exact")


def contiguous_sublist(needle, tokens):
    """The protocol word for word, as the official code states it."""
    return bool(needle) and any(
        tokens[start : start + len(needle)] == needle
        for start in range(len(tokens) - len(needle) + 1)
    )


@pytest.mark.parametrize(
    ("match", "early", "late", "said"),
    [
        ("string", "an Apple", "PEAR", "an Apple"),
        ("regex", "app[a-z]*", "^pear", "apple"),
        ("kilt", "an apple!", "Pear", "an apple!"),
    ],
)
def test_an_answer_is_found_where_it_stands_first(match, early, late, said):
    text = "He ate an apple.\nPear, apple, pear"
    first, what = answers.find_answer(text, early, match)
    second, _ = answers.find_answer(text, late, match)
    assert what == said
    assert 0 < first < second
    assert answers.find_answer(text, "plum", match) is None
    assert answers.find_answer(text, "", match) is None


# Letters whose lower case depends on context or grows, marks, spaces, punctuation.
WORDS = st.text(alphabet="aAbΣςİé\u0301.,'-\u200b\u00a0 \n\t12", max_size=12)


@hypothesis.given(text=WORDS, answer=WORDS)
@hypothesis.settings(max_examples=300, deadline=None)
def test_string_match_is_a_contiguous_sublist_of_tokens(text, answer):
    expected = contiguous_sublist(answers.tokenize(answer), answers.tokenize(text))
    assert answers.has_answer(text, [answer]) is expected


@pytest.mark.parametrize("match", answers.MATCHES)
def test_batch_equals_one_by_one_and_prepares_each_row_once(match):
    texts = ["in New York", "the cat sat", "1969", ""]
    wanted = [["new york", "cat"], ["1969", "(", ""], []]
    rows = np.array([[0, 1, 2, -1], [3, 2, 0, 1], [0, 1, -1, -1]])
    asked = []

    def text_of_row(row):
        asked.append(row)
        return texts[row]

    hits = answers.answer_hits(rows, text_of_row, wanted, match)
    for question, column in np.ndindex(rows.shape):
        row = rows[question, column]
        expected = row >= 0 and answers.has_answer(texts[row], wanted[question], match)
        assert hits[question, column] == expected
    assert hits[0, :2].all()
    assert sorted(asked) == [0, 1, 2, 3]


def test_unusable_answers_are_counted_and_warned_of(caplog):
    wanted = [["", "fine"], ["("], ["fine"]]
    assert answers.count_unusable_answers(wanted, "regex") == 2
    assert answers.count_unusable_answers(wanted, "string") == 1
    answers.answer_hits(np.zeros((3, 1), int), lambda row: "fine", wanted, "regex")
    assert "2 answers never match" in caplog.text
    caplog.clear()
    answers.answer_hits(np.zeros((1, 1), int), lambda row: "fine", [["fine"]])
    assert not caplog.text


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="rankings of 2 questions, answers of 1"):
        answers.answer_hits(np.zeros((2, 1), int), lambda row: "", [["a"]])


def plainly_has_answer(text, wanted_answers):
    """The protocol done plainly: a sub-list of the text's tokens is the answer's."""
    tokens = answers.tokenize(text)
    for answer in wanted_answers:
        wanted = answers.tokenize(answer)
        places = range(len(tokens) - len(wanted) + 1)
        if wanted and any(tokens[i : i + len(wanted)] == wanted for i in places):
            return True
    return False


# Letters whose lower case depends on their neighbours or has another length.
LETTERS = "aAsSΣσςßẞİı́. -ſ"


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    text=st.text(LETTERS, max_size=12),
    wanted=st.lists(st.text(LETTERS, max_size=4), max_size=3),
)
def test_the_short_cut_changes_no_decision(text, wanted):
    assert answers.has_answer(text, wanted) == plainly_has_answer(text, wanted)


def test_letters_equal_in_lower_case_are_equal_when_folded():
    for code in range(0x110000):
        letter = unicodedata.normalize("NFD", chr(code))
        assert letter.casefold() == letter.lower().casefold()


def test_a_text_is_cut_only_where_an_answer_may_be(monkeypatch):
    cut = []
    spaced = answers._spaced_tokens
    monkeypatch.setattr(
        answers, "_spaced_tokens", lambda text: cut.append(text) or spaced(text)
    )
    texts = ["a cat", "a catalogue", "a dog"]
    rows = np.array([[0, 1, 2], [2, 1, 0]])
    hits = answers.answer_hits(rows, texts.__getitem__, [["cat"], ["Cat"]])
    np.testing.assert_array_equal(hits, [[True, False, False], [False, False, True]])
    assert sorted(cut) == ["Cat", "a cat", "a catalogue", "cat"]
