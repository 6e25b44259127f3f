"""Pieces of 100 words: disjoint, in order, nothing lost."""

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data.splitting import split_into_passages
from art_jax.errors import ConfigError


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
