"""Pieces of 100 words, and of whole sentences: disjoint, in order, nothing lost."""

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data import splitting
from art_jax.data.splitting import (
    Paragraph,
    count_tokens,
    split_into_passages,
    split_paragraphs,
    split_sentences,
)
from art_jax.errors import ConfigError

PROSE = st.text("ab.A1!? ,'(字", max_size=120)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.text(max_size=200), st.integers(1, 7))
def test_every_word_is_in_exactly_one_piece(text, max_words):
    pieces = split_into_passages(text, max_words=max_words)
    assert [word for piece in pieces for word in piece.split()] == text.split()
    lengths = [len(piece.split()) for piece in pieces]
    assert all(length == max_words for length in lengths[:-1])
    assert all(1 <= length <= max_words for length in lengths)


@pytest.mark.parametrize(
    ("num_words", "want"),
    [(0, []), (1, [1]), (99, [99]), (100, [100]), (101, [100, 1]), (200, [100, 100])],
)
def test_pieces_of_a_hundred_words(num_words, want):
    pieces = split_into_passages(" ".join(["word"] * num_words))
    assert [len(piece.split()) for piece in pieces] == want


def test_the_last_piece_stays_short_and_white_space_becomes_one_space():
    assert split_into_passages("a  b\n\nc\td e", max_words=2) == ["a b", "c d", "e"]


def test_a_piece_needs_a_word():
    with pytest.raises(ConfigError, match="max_words is 0"):
        split_into_passages("a", max_words=0)
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        list(split_paragraphs([Paragraph(1, 0, "a")], max_tokens=0))


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Then it snowed!", "Why?", "Nobody knows… yet."],
        ["Mr. J. R. Smith met Dr. Who in Washington, D.C. on Jan. 5."],
        ["The U.S. Army has no. 5 in vol. 3, i.e. the last, cf. Figure 2."],
        ['"No."', "He left."],
        ['She said "stop!"', '"Why?" (he asked) "now?"'],
        ["It sold for $3.50 in 1990.", "2 were left."],
        ["Founded by Acme Inc.", "It grew."],
        ["Was it J?", "It was J!", "No."],
        ["É is a letter.", "É too.", "“So it is.”", "‘Is it?’", "(It is.)", "[Yes.]"],
        ["a. b. c"],
        ["Version 2.0 is out. see below"],
    ],
)
def test_where_sentences_end(sentences):
    assert split_sentences("  ".join(sentences) + "\n") == sentences


def test_no_words_are_no_sentences():
    assert split_sentences(" \n\t") == []


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", 0),
        ("John's 1,000 U.S. dollars.", 6),
        ("don't", 2),
        ("well-known (3.14): yes... no -- so", 12),
        ("10:30 a.m.", 2),
        ("漢字 and かな", 5),
        ("snake_case", 1),
    ],
)
def test_tokens_are_words_numbers_and_marks(text, want):
    assert count_tokens(text) == want


def cut(*paragraphs, max_tokens):
    rows = [Paragraph(*row) for row in paragraphs]
    pieces = split_paragraphs(rows, max_tokens)
    return [(piece.last_paragraph, piece.text) for piece in pieces]


def test_sentences_fill_passages_and_stay_whole():
    # 3, 4 and 2 tokens, stops included.
    text = "One two. One two three. One."
    assert cut((1, 0, text), max_tokens=9) == [(1, text)]
    assert cut((1, 0, text), max_tokens=8) == [
        (1, "One two. One two three."),
        (1, "One."),
    ]
    assert cut((1, 0, text), max_tokens=6) == [
        (1, "One two."),
        (1, "One two three. One."),
    ]


def test_a_short_paragraph_joins_the_one_before_in_its_section():
    rows = (1, "a", "One two."), (2, "a", "Three."), (3, "b", "Four.")
    assert cut(*rows, max_tokens=5) == [(2, "One two. Three."), (3, "Four.")]
    assert cut(*rows, max_tokens=4) == [(1, "One two."), (2, "Three."), (3, "Four.")]


def test_a_paragraph_of_several_passages_starts_its_own():
    # The first of them would fit behind "Zero.".
    rows = (1, "a", "Zero."), (2, "a", "One. Two three four.")
    assert cut(*rows, max_tokens=5) == [
        (1, "Zero."),
        (2, "One."),
        (2, "Two three four."),
    ]


def test_a_sentence_that_is_too_long_is_cut_between_words():
    assert cut((4, 0, "a b c d e. F."), max_tokens=3) == [
        (4, "a b c"),
        (4, "d e."),
        (4, "F."),
    ]
    assert cut((4, 0, "a b-c-d e"), max_tokens=4) == [(4, "a"), (4, "b-c-"), (4, "d e")]


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 1), PROSE), max_size=5), st.integers(1, 9)
)
def test_every_letter_is_in_exactly_one_passage(rows, max_tokens):
    paragraphs = [Paragraph(n, section, text) for n, (section, text) in enumerate(rows)]
    pieces = list(split_paragraphs(paragraphs, max_tokens))
    letters = "".join("".join(text.split()) for _, text in rows)
    assert "".join(piece.text.replace(" ", "") for piece in pieces) == letters
    for piece in pieces:
        assert piece.num_tokens == count_tokens(piece.text)
        assert 1 <= piece.num_tokens <= max_tokens
        assert piece.text == " ".join(piece.text.split())
        assert rows[piece.last_paragraph][0] == piece.section
    places = [piece.last_paragraph for piece in pieces]
    assert places == sorted(places)


@hypothesis.settings(deadline=None)
@hypothesis.given(PROSE)
def test_sentences_are_the_text(text):
    assert " ".join(split_sentences(text)) == " ".join(text.split())


def test_a_cut_inside_a_word_loses_nothing():
    text = "x-" * 7
    assert [part for part, _ in splitting._cut_sentence(text, 4)] == [
        "x-x-",
        "x-x-",
        "x-x-",
        "x-",
    ]
