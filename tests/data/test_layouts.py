"""Token rows: the vectorised layout against one row at a time."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from art_jax.data import layouts
from art_jax.errors import ConfigError

CLS, SEP, EOS = 101, 102, 1
ids = st.lists(st.integers(3, 60_000), max_size=12)


def slow_row(layout, title, text):
    """One row by the words of the docstring: cut the head, never the suffix."""
    head = [*layout.prefix, *title, *(layout.separator if title else ()), *text]
    head = head[: layout.max_tokens - len(layout.suffix)]
    row = head + list(layout.suffix)
    return row + [layout.pad_id] * (layout.max_tokens - len(row)), len(row)


@st.composite
def layout_and_rows(draw):
    prefix, suffix = draw(st.lists(st.integers(3, 9), max_size=3)), draw(ids)
    layout = layouts.Layout(
        prefix=tuple(prefix),
        separator=tuple(draw(st.lists(st.integers(3, 9), max_size=3))),
        suffix=tuple(suffix[:3]),
        max_tokens=draw(st.integers(len(prefix) + len(suffix[:3]) + 1, 30)),
        pad_id=draw(st.integers(0, 2)),
    )
    passages = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=6))
    rows = draw(st.lists(st.integers(0, len(passages) - 1), max_size=9))
    return layout, passages, rows


@hypothesis.settings(deadline=None)
@hypothesis.given(layout_and_rows())
def test_rows_and_lengths_equal_one_row_at_a_time(case):
    layout, passages, rows = case
    titles, texts = zip(*passages, strict=True)
    table = layouts.make_token_table(titles, texts, np.uint16)
    want = [slow_row(layout, *passages[row]) for row in rows]
    got = layouts.layout_rows(layout, table, np.array(rows, np.int32))
    assert got.dtype == np.int32
    assert got.shape == (len(rows), layout.max_tokens)
    assert got.tolist() == [row for row, _ in want]
    lengths = layouts.layout_lengths(layout, table, np.array(rows, np.int32))
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [length for _, length in want]


@pytest.mark.parametrize(
    ("max_tokens", "want"),
    [
        (9, [CLS, 7, 8, SEP, 20, 21, 22, SEP, 0]),
        (8, [CLS, 7, 8, SEP, 20, 21, 22, SEP]),  # exactly full: nothing is cut
        (7, [CLS, 7, 8, SEP, 20, 21, SEP]),
        (5, [CLS, 7, 8, SEP, SEP]),
        (4, [CLS, 7, 8, SEP]),
        (3, [CLS, 7, SEP]),
    ],
)
def test_bert_passage_by_hand(max_tokens, want):
    layout = layouts.Layout((CLS,), (SEP,), (SEP,), max_tokens)
    table = layouts.make_token_table([[7, 8]], [[20, 21, 22]])
    assert layouts.layout_rows(layout, table, np.array([0])).tolist() == [want]


def test_the_teachers_instruction_survives_a_long_passage():
    layout = layouts.Layout((30, 31), (), (40, 41, 42, EOS), max_tokens=8)
    table = layouts.make_token_table([[5]], [range(100, 400)])
    row = layouts.layout_rows(layout, table, np.array([0]))[0]
    assert row.tolist() == [30, 31, 5, 100, 40, 41, 42, EOS]


def test_a_question_has_no_separator_and_may_be_empty():
    layout = layouts.Layout((CLS,), (SEP,), (SEP,), max_tokens=4)
    got = layouts.layout_token_lists(layout, [[9], [], [5, 6, 7]])
    want = [[CLS, 9, SEP, 0], [CLS, SEP, 0, 0], [CLS, 5, 6, SEP]]
    assert got.tolist() == want
    assert layouts.layout_token_lists(layout, []).shape == (0, 4)


def test_the_shape_of_rows_is_kept():
    layout = layouts.Layout((), (), (EOS,), max_tokens=3)
    table = layouts.make_token_table([[]] * 4, [[10], [11], [12], [13]])
    rows = np.array([[0, 3], [2, 2]])
    assert layouts.layout_rows(layout, table, rows)[:, :, 0].tolist() == [
        [10, 13],
        [12, 12],
    ]
    assert layouts.layout_lengths(layout, table, rows).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_outside_the_table_is_an_error_not_another_row(row):
    layout = layouts.Layout((), (), (EOS,), max_tokens=3)
    table = layouts.make_token_table([[], []], [[10], [11]])
    with pytest.raises(ValueError, match=f"row {row} is not in the table"):
        layouts.layout_rows(layout, table, np.array([0, row]))
    with pytest.raises(ValueError, match="must be integers"):
        layouts.layout_rows(layout, table, np.array([0.0]))


def test_a_layout_without_room_for_text_is_refused():
    with pytest.raises(ConfigError, match="no room for text"):
        layouts.Layout((CLS,), (SEP,), (SEP,), max_tokens=2)


def test_titles_and_texts_must_pair_up():
    with pytest.raises(ValueError, match="2 titles for 1 texts"):
        layouts.make_token_table([[1], [2]], [[3]])
