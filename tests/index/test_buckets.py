"""Buckets hold every row once, whole, with the least padding their rule allows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.index import buckets


def plan(lengths, num_shards=1, *, spare=0, max_tokens=16, chunk_tokens=8, **settings):
    lengths = np.array(lengths)
    rows_per_shard = -(-len(lengths) // num_shards) + spare
    planned = buckets.plan_buckets(
        lengths,
        num_shards=num_shards,
        rows_per_shard=rows_per_shard,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        **settings,
    )
    return planned, rows_per_shard


def computed_tokens(planned):
    return sum(bucket.local_rows.size * bucket.length for bucket in planned)


def four_quarters_tokens(lengths, num_shards, rows_per_shard, max_tokens, chunk_tokens):
    """Tokens computed by buckets of a quarter, a half, three and four quarters."""
    edges = sorted({max(1, -(-max_tokens * part // 4)) for part in (1, 2, 3, 4)})
    bucket_of_row = np.searchsorted(edges, np.clip(lengths, 1, max_tokens))
    shard_of_row = np.arange(len(lengths)) // rows_per_shard
    total = 0
    for bucket, length in enumerate(edges):
        most = max(
            int(((bucket_of_row == bucket) & (shard_of_row == shard)).sum())
            for shard in range(num_shards)
        )
        if most:
            size = min(max(1, chunk_tokens // length), most)
            total += num_shards * -(-most // size) * size * length
    return total


some_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=60)
some_shards = st.sampled_from([1, 2, 3, 8])


@settings(deadline=None, max_examples=100)
@given(
    lengths=some_lengths,
    num_shards=some_shards,
    spare=st.integers(0, 3),
    max_tokens=st.sampled_from([1, 5, 16, 33, 64]),
    chunk_tokens=st.integers(1, 200),
    shape_tokens=st.sampled_from([0, 7, None]),
)
def test_every_row_is_there_once_and_whole_in_few_shapes(
    lengths, num_shards, spare, max_tokens, chunk_tokens, shape_tokens
):
    planned, rows_per_shard = plan(
        lengths,
        num_shards,
        spare=spare,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        shape_tokens=shape_tokens,
    )
    assert 1 <= len(planned) <= buckets.MAX_SHAPES
    seen = []
    for bucket in planned:
        rows = bucket.local_rows
        assert rows.dtype == np.int32
        assert rows.shape[0] == num_shards
        assert bucket.length <= max_tokens
        assert rows.shape[2] == 1 or rows.shape[2] * bucket.length <= chunk_tokens
        is_row = rows < rows_per_shard
        np.testing.assert_array_equal(bucket.num_rows, is_row.sum(axis=(0, 2)))
        assert (bucket.num_rows > 0).all()
        shards, calls, slots = np.nonzero(is_row)
        found = shards * rows_per_shard + rows[shards, calls, slots]
        assert (np.minimum(np.array(lengths)[found], max_tokens) <= bucket.length).all()
        # Near each other in the evidence, and so quick to read.
        assert (np.diff(rows.reshape(num_shards, -1)) >= 0).all()
        seen.extend(found.tolist())
    assert sorted(seen) == list(range(len(lengths)))
    assert [b.length for b in planned] == sorted(b.length for b in planned)[::-1]


@settings(deadline=None, max_examples=100)
@given(
    lengths=some_lengths,
    num_shards=some_shards,
    max_tokens=st.sampled_from([1, 5, 16, 33, 64]),
    chunk_tokens=st.integers(1, 200),
)
def test_never_more_padding_than_quarters_have(
    lengths, num_shards, max_tokens, chunk_tokens
):
    planned, rows_per_shard = plan(
        lengths,
        num_shards,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        shape_tokens=0,
    )
    assert computed_tokens(planned) <= four_quarters_tokens(
        lengths, num_shards, rows_per_shard, max_tokens, chunk_tokens
    )


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=25),
    num_shards=st.sampled_from([1, 2]),
    chunk_tokens=st.integers(1, 40),
    shape_tokens=st.integers(0, 20),
)
def test_the_lengths_are_the_best_of_all(
    lengths, num_shards, chunk_tokens, shape_tokens
):
    planned, rows_per_shard = plan(
        lengths,
        num_shards,
        max_tokens=9,
        chunk_tokens=chunk_tokens,
        shape_tokens=shape_tokens,
    )
    shards = [
        sorted(lengths[s * rows_per_shard : (s + 1) * rows_per_shard])
        for s in range(num_shards)
    ]

    def cost(edges):
        total = 0
        for lower, upper in itertools.pairwise([0, *edges]):
            longer = [
                max(sum(n > edge for n in shard) for shard in shards)
                for edge in (lower, upper)
            ]
            most = longer[0] - longer[1]
            if most:
                calls = -(-most // max(1, chunk_tokens // upper))
                total += calls * -(-most // calls) * upper + shape_tokens
        return total

    choices = itertools.chain.from_iterable(
        itertools.combinations(range(1, max(lengths)), k) for k in range(8)
    )
    best = min(cost([*choice, max(lengths)]) for choice in choices)
    got = computed_tokens(planned) / num_shards + shape_tokens * len(planned)
    assert got == best


def test_calls_of_a_bucket_share_its_rows_evenly():
    # Nine rows in calls of four at most: three calls of three, and none half empty.
    (bucket,), _ = plan([2] * 9, max_tokens=2, chunk_tokens=8)
    assert bucket.local_rows.tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    assert bucket.num_rows.tolist() == [3, 3, 3]


def test_short_rows_do_not_pay_for_long_ones():
    planned, _ = plan([3, 16, 3, 3, 16, 3], chunk_tokens=32, shape_tokens=0)
    got = [(bucket.length, bucket.local_rows.tolist()) for bucket in planned]
    assert got == [(16, [[[1, 4]]]), (3, [[[0, 2, 3, 5]]])]


def test_the_longest_of_each_shard_share_a_bucket():
    # The second shard's rows are all shorter, and wait for the first's.
    planned, none = plan([9, 9, 4, 7, 2], num_shards=2, chunk_tokens=99, shape_tokens=0)
    assert none == 3
    got = [(bucket.length, bucket.local_rows.tolist()) for bucket in planned]
    assert got == [(9, [[[0, 1]], [[0, 1]]]), (4, [[[2]], [[3]]])]


@pytest.mark.parametrize("max_tokens", [64, 100, 256])
def test_long_rows_have_lengths_that_devices_like(max_tokens):
    lengths = np.random.default_rng(0).integers(1, 300, 5000)
    planned, _ = plan(lengths, 2, max_tokens=max_tokens, chunk_tokens=1024)
    assert len(planned) > 1
    assert planned[0].length == max_tokens
    assert all(bucket.length % 8 == 0 for bucket in planned[1:])


def test_lengths_as_of_encyclopedia_passages_have_little_padding():
    # Near those of 23,546 Wikipedia passages in BERT's word pieces: mean 149 after
    # the cut, a tenth below 80, one in fifteen cut.
    random = np.random.default_rng(0)
    lengths = np.maximum(random.gamma(6.0, 25.5, 20_000), 12).astype(int)
    for num_shards in (1, 8):
        planned, _ = plan(lengths, num_shards, max_tokens=256, chunk_tokens=16_384)
        assert buckets.padding_share(planned, lengths) < 0.1


def test_padding_is_what_is_computed_beyond_the_rows_tokens():
    lengths = [3, 16, 3, 3, 20]
    planned, _ = plan(lengths, chunk_tokens=32, shape_tokens=0)
    assert [bucket.length for bucket in planned] == [16, 3]
    assert buckets.padding_share(planned, np.array(lengths)) == 0
    planned, _ = plan(lengths, chunk_tokens=32, shape_tokens=10_000)
    # One length for all; 3 calls of 2 rows.
    assert buckets.padding_share(planned, np.array(lengths)) == 1 - 41 / (6 * 16)
    assert buckets.num_calls(planned) == 3


def test_few_rows_are_not_worth_many_compilations():
    lengths = np.random.default_rng(0).integers(1, 257, 16)
    planned, _ = plan(lengths, max_tokens=256, chunk_tokens=16_384)
    assert len(planned) == 1
