"""The order of work against a slow twin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.teacher.worklist import make_worklist, row_lengths, static_lengths

NUM_SLOTS = 12


@functools.cache
def build(wave_size):
    return jax.jit(functools.partial(make_worklist, wave_size=wave_size))


def twin(rows, lengths, classes, wave_size):
    """Distinct passages, and pairs by waves, as lists of lists of slots."""
    slots = [slot for slot in range(len(rows)) if rows[slot] >= 0]
    slots.sort(key=lambda slot: (-lengths[slot], rows[slot], slot))
    passages = []
    for slot in slots:
        if rows[slot] not in [rows[held] for held in passages]:
            passages.append(slot)
    waves = []
    for first in range(0, len(passages), wave_size):
        held = [rows[slot] for slot in passages[first : first + wave_size]]
        pairs = [slot for slot in range(len(rows)) if rows[slot] in held]
        pairs.sort(key=lambda slot: (-classes[slot], -lengths[slot], slot))
        waves.append(pairs)
    return passages, waves


@st.composite
def slots(draw):
    numbers = st.lists(st.integers(-1, 6), min_size=NUM_SLOTS, max_size=NUM_SLOTS)
    rows = draw(numbers)
    length_of = draw(st.lists(st.integers(0, 3), min_size=7, max_size=7))
    lengths = [length_of[row] if row >= 0 else 9 for row in rows]
    classes = draw(st.lists(st.integers(0, 1), min_size=NUM_SLOTS, max_size=NUM_SLOTS))
    return rows, lengths, classes


@settings(max_examples=60, deadline=None)
@given(st.lists(slots(), min_size=2, max_size=2), st.sampled_from([1, 3, 12]))
def test_each_passage_once_the_longest_first_and_its_pairs_in_its_wave(
    groups, wave_size
):
    arrays = [jnp.array(part, jnp.int32) for part in zip(*groups, strict=True)]
    work = jax.tree.map(np.asarray, build(wave_size)(*arrays))
    for group, (rows, lengths, classes) in enumerate(groups):
        passages, waves = twin(rows, lengths, classes, wave_size)
        num_passages = work.num_passages[group]
        assert work.passages[group][:num_passages].tolist() == passages
        starts = work.wave_starts[group]
        spans = zip(starts[:-1], starts[1:], strict=True)
        got = [work.pairs[group][start:end].tolist() for start, end in spans]
        assert [pairs for pairs in got if pairs] == waves
        for pair, place in zip(
            work.pairs[group][: starts[-1]], work.pair_passages[group], strict=False
        ):
            assert rows[passages[place]] == rows[pair]


def test_a_row_is_as_long_as_its_last_token():
    tokens = jnp.array([[[5, 1, 0, 0], [5, 0, 1, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]])
    np.testing.assert_array_equal(row_lengths(tokens), [[2, 3], [0, 4]])


@pytest.mark.parametrize(
    ("shorter", "want"),
    [((), (8,)), ((4, 2, 4), (2, 4, 8)), ((8, 9), (8,))],
    ids=["none", "sorted", "too long"],
)
def test_the_whole_length_is_always_among_the_static_ones(shorter, want):
    assert static_lengths(8, shorter) == want
