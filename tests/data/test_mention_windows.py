"""The window of a document that holds the mention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_jax.data.mention_windows import mention_window, window_draw

START, END = 1, 2


def document(num_before, num_behind=50):
    """Tokens that are all different, so that a window says where it is."""
    before = np.arange(100, 100 + num_before)
    behind = np.arange(5000, 5000 + num_behind)
    return np.concatenate([before, [START, 7, END], behind]).astype(np.int32)


@pytest.mark.parametrize(
    ("num_before", "draw", "first"),
    [
        # Of 32 tokens 30 are the document's: the last of them is place 29.
        (29, 0.0, 0),
        (30, 0.5, 30 - 16),
        # A quarter of 16 less or more: int((0 - .5) * 16 / 2) = -4.
        (30, 0.0, 30 - 12),
        (100, 0.0, 100 - 12),
        (100, 0.999, 100 - 19),
    ],
)
def test_where_a_window_begins(num_before, draw, first):
    ids = document(num_before)
    got = mention_window(ids, [START], 32, draw)
    np.testing.assert_array_equal(got, ids[first:])


@given(st.integers(0, 300), st.floats(0, 1, exclude_max=True), st.integers(8, 64))
def test_the_mention_is_always_read(num_before, draw, max_tokens):
    ids = document(num_before)
    read = mention_window(ids, [START], max_tokens, draw)[: max_tokens - 2]
    assert START in read


def test_a_marker_of_several_pieces_is_read_whole():
    ids = np.array([*range(100, 110), 9, 8, 7, 9, 8, 7], np.int32)
    whole = mention_window(ids, [9, 8, 7], 15, 0.5)
    np.testing.assert_array_equal(whole, ids)
    # Its last piece would be cut off: half of 14 before it.
    np.testing.assert_array_equal(mention_window(ids, [9, 8, 7], 14, 0.5), ids[3:])
    # Half of 5 before it would be before the document.
    np.testing.assert_array_equal(mention_window(ids[9:], [9, 8, 7], 5, 0.5), ids[9:])


@pytest.mark.parametrize("marker", [[3], [], [1, 1]])
def test_without_a_mention_nothing_changes(marker):
    ids = document(100)
    np.testing.assert_array_equal(mention_window(ids, marker, 32, 0.5), ids)
    np.testing.assert_array_equal(mention_window(ids[:1], [1, 1], 8, 0.5), ids[:1])


def test_draws_are_a_questions_own():
    draws = [window_draw(f"q{n}") for n in range(400)]
    assert draws == [window_draw(f"q{n}") for n in range(400)]
    assert all(0 <= draw < 1 for draw in draws)
    assert len(set(draws)) == 400
    assert 0.45 < np.mean(draws) < 0.55
    assert window_draw("q1", seed=1) != window_draw("q1")
