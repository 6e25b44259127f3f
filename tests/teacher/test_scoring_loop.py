"""The loop against a plain pass over all pairs, with a model of small integers.

The model's scores are exact in float32, so == is right whatever the chunks are.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.teacher.scoring_loop import LoopSizes, num_groups, score_slots

QUESTIONS, SLOTS_EACH, LENGTH, TARGETS = 8, 3, 8, 5
NUM_ROWS = 9
SIZES = LoopSizes(
    chunk_size=4, passage_lengths=(2, 5), question_lengths=(3,), encoded_bytes=1 << 20
)
# Two floats of a token, four bytes each: how many passages a wave holds.
PASSAGE_BYTES = 2 * 4 * LENGTH


def encode(tokens):
    """[m, L, 2]: each token and its square."""
    return jnp.stack([tokens, tokens * tokens], axis=-1).astype(jnp.float32)


def score_pairs(encoded, tokens, targets):
    """The inner product of two sums; NaN where encoded is not of these tokens."""
    # What is encoded at padding means nothing.
    encoded = jnp.where((tokens > 0)[..., None], encoded, 0)
    is_own = jnp.all(encoded == encode(tokens), axis=(1, 2))
    passages = jnp.sum(encoded, axis=(1, 2))
    return jnp.where(is_own, passages * targets.sum(-1).astype(jnp.float32), jnp.nan)


@functools.cache
def build(sizes):
    return jax.jit(functools.partial(score_slots, encode, score_pairs, sizes=sizes))


def rows_of_tokens(rng, num_rows, length):
    tokens = rng.integers(1, 9, (num_rows, length))
    return np.where(
        np.arange(length) < rng.integers(1, length + 1, (num_rows, 1)), tokens, 0
    ).astype(np.int32)


def make_batch(seed, empty=True):
    """Tokens, targets and rows; slots without a passage hold anything."""
    rng = np.random.default_rng(seed)
    passages = rows_of_tokens(rng, NUM_ROWS + 1, LENGTH)
    rows = rng.integers(-1 if empty else 0, NUM_ROWS, (QUESTIONS, SLOTS_EACH))
    targets = rows_of_tokens(rng, QUESTIONS, TARGETS)
    return targets, passages[rows], rows.astype(np.int32)


def want_scores(targets, tokens, rows):
    passages = (tokens + tokens * tokens).sum(axis=-1)
    return np.where(rows >= 0, passages * targets.sum(axis=-1)[:, None], 0)


@functools.cache
def compile_for(sizes):
    """The program for a batch of `make_batch`, on one device."""
    targets, tokens, rows = make_batch(0)
    return build(sizes).lower(tokens, targets, rows).compile()


def run(targets, tokens, rows, sizes=SIZES):
    scores, done = compile_for(sizes)(tokens, targets, rows)
    return np.asarray(scores), jax.tree.map(np.asarray, done)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1 << 20, 9 * PASSAGE_BYTES, 1]),
)
def test_every_pair_has_its_score_whatever_is_held_at_once(seed, encoded_bytes):
    batch = make_batch(seed)
    sizes = LoopSizes(4, (2, 5), (3,), encoded_bytes)
    scores, _ = run(*batch, sizes)
    np.testing.assert_array_equal(scores, want_scores(*batch))


@pytest.mark.parametrize("chunk_size", [7, 100])
def test_the_chunk_size_changes_nothing(chunk_size):
    batch = make_batch(1)
    scores, done = run(*batch, LoopSizes(chunk_size, (), (), 1 << 20))
    np.testing.assert_array_equal(scores, want_scores(*batch))
    distinct = len(np.unique(batch[2][batch[2] >= 0]))
    assert done.encoded.sum() == -(-distinct // chunk_size)
    assert done.scored.sum() == -(-np.sum(batch[2] >= 0) // chunk_size)


def test_a_passage_of_many_questions_is_encoded_once():
    targets, tokens, rows = make_batch(2, empty=False)
    apart = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
    want, all_read = run(targets, tokens, apart)
    got, once = run(targets, tokens, rows)
    np.testing.assert_array_equal(got, want)
    assert all_read.encoded.sum() == rows.size // 4
    assert once.encoded.sum() == -(-len(np.unique(rows)) // 4) < rows.size // 4
    assert once.scored.sum() == all_read.scored.sum()


def test_nothing_is_read_where_no_slot_holds_a_passage():
    targets, tokens, rows = make_batch(3)
    scores, done = run(targets, tokens, np.full_like(rows, -1))
    np.testing.assert_array_equal(scores, 0)
    assert done.encoded.sum() == done.scored.sum() == 0


def lengths_run(num_long, long_questions=()):
    """Chunks of each length where all rows have 2 tokens and some have all."""
    tokens = np.zeros((QUESTIONS, SLOTS_EACH, LENGTH), np.int32)
    tokens[..., :2] = 3
    tokens.reshape(-1, LENGTH)[:num_long] = 3
    targets = np.zeros((QUESTIONS, TARGETS), np.int32)
    targets[:, :3] = 2
    targets[list(long_questions)] = 2
    rows = np.arange(24, dtype=np.int32).reshape(QUESTIONS, SLOTS_EACH)
    scores, done = run(targets, tokens, rows)
    np.testing.assert_array_equal(scores, want_scores(targets, tokens, rows))
    return done.encoded.tolist(), done.scored.tolist()


def test_chunks_are_cut_to_their_longest_passage_and_question():
    # 24 passages, 4 a chunk; static lengths 2, 5, 8 and 3, 5.
    assert lengths_run(0) == ([6, 0, 0], [[6, 0], [0, 0], [0, 0]])
    assert lengths_run(1) == ([5, 0, 1], [[5, 0], [0, 0], [1, 0]])
    assert lengths_run(5) == ([4, 0, 2], [[4, 0], [0, 0], [2, 0]])
    # One long question has 3 pairs: one chunk pays for it, not all.
    assert lengths_run(0, [6]) == ([6, 0, 0], [[5, 1], [0, 0], [0, 0]])


def test_no_more_passages_are_held_than_a_setting_says():
    for encoded_bytes, held in ((1 << 20, 24), (9 * PASSAGE_BYTES, 8), (1, 4)):
        program = compile_for(LoopSizes(4, (2, 5), (3,), encoded_bytes)).as_text()
        buffers = re.findall(rf"f32\[1,(\d+),{LENGTH},2\]", program)
        assert max(map(int, buffers)) == held


def test_a_wave_does_not_pay_for_the_next_ones_questions():
    # Two waves of 8 passages, the longer ones first; 9 pairs in the first of them,
    # so that its third chunk ends where the second wave's long question starts.
    tokens = np.zeros((QUESTIONS, SLOTS_EACH, LENGTH), np.int32)
    rows = np.full((QUESTIONS, SLOTS_EACH), -1, np.int32)
    rows[:3] = np.arange(9).reshape(3, 3)
    rows[2, 2] = 0
    rows[3] = 8, 9, 10
    tokens[:3] = 3
    tokens[3, :, :2] = 3
    targets = np.zeros((QUESTIONS, TARGETS), np.int32)
    targets[:, :2] = 2
    targets[3] = 2
    sizes = LoopSizes(4, (2, 5), (3,), 9 * PASSAGE_BYTES)
    scores, done = run(targets, tokens, rows, sizes)
    np.testing.assert_array_equal(scores, want_scores(targets, tokens, rows))
    assert done.scored.tolist() == [[0, 1], [0, 0], [3, 0]]


def test_the_order_of_the_batch_changes_nothing():
    batch = make_batch(4)
    order = np.random.default_rng(0).permutation(QUESTIONS)
    scores, done = run(*batch)
    moved, moved_done = run(*(array[order] for array in batch))
    np.testing.assert_array_equal(moved, scores[order])
    jax.tree.map(np.testing.assert_array_equal, done, moved_done)


@functools.cache
def compile_on(num_devices, model_parallelism=1):
    mesh = partitioning.make_mesh(num_devices, model_parallelism=model_parallelism)
    targets, tokens, rows = make_batch(5)
    arrays = partitioning.put_tree(
        (tokens, targets, rows), partitioning.batch_sharding(mesh)
    )
    return arrays, build(SIZES).lower(*arrays).compile()


@pytest.mark.parametrize("devices", [(8, 1), (8, 2)], ids=str)
def test_devices_score_their_own_questions_and_send_no_passage(devices):
    arrays, compiled = compile_on(*devices)
    scores, done = compiled(*arrays)
    np.testing.assert_array_equal(scores, want_scores(*make_batch(5)[:2], arrays[2]))
    # The number of chunks is that of the group with most passages.
    groups = devices[0] // devices[1]
    distinct = [
        len(np.unique(rows[rows >= 0]))
        for rows in np.split(np.asarray(arrays[2]), groups)
    ]
    assert done.encoded.sum() == -(-max(distinct) // min(4, 24 // groups))
    # Only the groups' maxima travel.
    program = compiled.as_text()
    assert set(re.findall(r" (all-[a-z-]+|collective-permute)\(", program)) <= {
        "all-reduce"
    }
    sent = re.findall(r"= (\S.*) all-reduce\(", program)
    assert set(",".join(sent)) <= set("(s32[], )")


def test_a_batch_that_every_device_holds_is_parted_all_the_same():
    _, parted = compile_on(8)
    whole = partitioning.put_tree(
        make_batch(5), partitioning.replicated(partitioning.make_mesh(8))
    )
    targets, tokens, rows = whole
    compiled = build(SIZES).lower(tokens, targets, rows).compile()
    scores, _ = compiled(tokens, targets, rows)
    np.testing.assert_array_equal(scores, want_scores(*make_batch(5)))
    one_groups_share = parted.memory_analysis().temp_size_in_bytes
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * one_groups_share


def test_a_batch_that_the_mesh_cannot_part_is_one_group():
    mesh = partitioning.make_mesh(8)
    targets, tokens, rows = (array[:3] for array in make_batch(6))
    whole = partitioning.put_tree(
        (tokens, targets, rows), partitioning.replicated(mesh)
    )
    assert num_groups(*whole) == 1
    scores, _ = build(SIZES)(*whole)
    np.testing.assert_array_equal(scores, want_scores(targets, tokens, rows))


def test_one_program_serves_every_batch():
    traced = []

    def counting(tokens):
        traced.append(tokens.shape)
        return encode(tokens)

    function = jax.jit(
        functools.partial(score_slots, counting, score_pairs, sizes=SIZES)
    )
    for seed in range(3):
        targets, tokens, rows = make_batch(seed)
        function(tokens, targets, rows)
    # The static lengths, and one row whose shape is asked for.
    assert sorted(traced) == [(1, 8), (4, 2), (4, 5), (4, 8)]


def test_no_gradient_is_asked_of_the_loop():
    targets, tokens, rows = make_batch(7)

    def loss(weight):
        scores, _ = build(SIZES)(tokens, targets, rows)
        return weight * jnp.sum(scores)

    want = want_scores(targets, tokens, rows).sum()
    assert float(jax.grad(loss)(2.0)) == want
