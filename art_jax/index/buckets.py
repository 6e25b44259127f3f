"""Rows bucketed by length, so that short passages do not pay for long ones' padding.

Every shard makes the same calls of the same few shapes. Each shard sorts its own rows
by length; the k-th longest rows of all shards then share a bucket, which is as long as
the longest of them needs.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

MAX_SHAPES = 8
# Bucket lengths are multiples of this, where rows are not short altogether.
_LENGTH_STEP = 8
# What one more shape must save of a shard's tokens to be worth its compilation.
_MIN_SAVED_SHARE = 0.005
_MIN_SAVED_TOKENS = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Rows that every shard embeds in calls of one shape.

    length: tokens a row; no row of the bucket is longer.
    local_rows: [shards, calls, C] int32, rows within each shard; slots without a row
        hold the number of rows on a shard.
    num_rows: [calls] int64, how many slots of each call, over all shards, hold a row.
    """

    length: int
    local_rows: np.ndarray
    num_rows: np.ndarray


def plan_buckets(
    lengths: np.ndarray,
    *,
    num_shards: int,
    rows_per_shard: int,
    max_tokens: int,
    chunk_tokens: int,
    shape_tokens: int | None = None,
) -> list[Bucket]:
    """Returns buckets that hold every row once, the longest first.

    They depend on the arguments alone, so every process plans the same. The lengths
    are those at which the fewest tokens are computed, found exactly.

    Args:
        lengths: [N] int, tokens of each row.
        num_shards: devices that hold rows.
        rows_per_shard: rows on each; `num_shards * rows_per_shard` >= N.
        max_tokens: longer rows count as this long.
        chunk_tokens: tokens of one shard in a call, at most (one row at least).
        shape_tokens: tokens of a shard that one more shape must save. None: half a
            percent of all, and 2,048 at least.
    """
    lengths = np.clip(lengths, 1, max_tokens)
    step = _LENGTH_STEP if max_tokens >= 8 * _LENGTH_STEP else 1
    longest = int(lengths.max())
    edges = np.append(
        np.arange(0, longest, step), min(-(-longest // step) * step, max_tokens)
    )
    longer = _count_longer(lengths, edges, num_shards, rows_per_shard)
    if shape_tokens is None:
        saved = int(lengths.sum() * _MIN_SAVED_SHARE / num_shards)
        shape_tokens = max(saved, _MIN_SAVED_TOKENS)
    chosen = _choose_edges(edges, longer, chunk_tokens, shape_tokens)
    rows = _sorted_rows(lengths, num_shards, rows_per_shard)
    buckets = []
    for lower, upper in zip(chosen[-2::-1], chosen[:0:-1], strict=True):
        start, stop, length = longer[upper], longer[lower], int(edges[upper])
        calls, size = _call_shape(stop - start, length, chunk_tokens)
        local_rows = np.full((num_shards, calls * size), rows_per_shard, np.int32)
        # By row, so that those of a call are read from places near each other.
        local_rows[:, : stop - start] = np.sort(rows[:, start:stop], axis=1)
        local_rows = local_rows.reshape(num_shards, calls, size)
        num_rows = (local_rows < rows_per_shard).sum(axis=(0, 2))
        buckets.append(Bucket(length, local_rows, num_rows))
    return buckets


def num_calls(buckets: Sequence[Bucket]) -> int:
    """Returns how many calls every shard makes."""
    return sum(bucket.local_rows.shape[1] for bucket in buckets)


def padding_share(buckets: Sequence[Bucket], lengths: np.ndarray) -> float:
    """Returns the share of all computed tokens that are padding, between 0 and 1.

    Slots without a row count as padding, and so do tokens that a shard computes
    because another one holds longer rows.

    Args:
        buckets: of `plan_buckets`.
        lengths: [N] int, as given to it.
    """
    computed = sum(bucket.local_rows.size * bucket.length for bucket in buckets)
    longest = max(bucket.length for bucket in buckets)
    return 1 - float(np.minimum(lengths, longest).sum()) / computed


def _call_shape(num_rows: int, length: int, chunk_tokens: int) -> tuple[int, int]:
    """Returns calls, and rows in each, with less than one empty slot a call."""
    calls = -(-num_rows // max(1, chunk_tokens // length))
    return calls, -(-num_rows // calls)


def _count_longer(
    lengths: np.ndarray, edges: np.ndarray, num_shards: int, rows_per_shard: int
) -> np.ndarray:
    """Returns [edges]: rows longer than each, on the shard that has most of them."""
    width = int(edges[-1]) + 1
    shard_of_row = np.arange(len(lengths)) // rows_per_shard
    counts = np.bincount(shard_of_row * width + lengths, minlength=num_shards * width)
    at_most = counts.reshape(num_shards, width).cumsum(axis=1)[:, edges]
    return (at_most[:, -1:] - at_most).max(axis=0)


def _choose_edges(
    edges: np.ndarray, longer: np.ndarray, chunk_tokens: int, shape_tokens: int
) -> list[int]:
    """Returns indices of edges, first and last included, whose buckets cost least.

    A dynamic programme: `cost[i, j]` is that of the bucket between two edges, and
    `best[j]` the least cost of all rows up to an edge, by number of buckets.
    """
    num_edges = len(edges)
    cost = np.full((num_edges, num_edges), np.inf)
    for i in range(num_edges):
        for j in range(i + 1, num_edges):
            num_rows = longer[i] - longer[j]
            if num_rows:
                calls, size = _call_shape(num_rows, edges[j], chunk_tokens)
                cost[i, j] = calls * size * edges[j] + shape_tokens
    best = np.full(num_edges, np.inf)
    best[0] = 0
    totals, previous = [], []
    for _ in range(MAX_SHAPES):
        sums = best[:, None] + cost
        previous.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
        totals.append(best[-1])
    chosen = [num_edges - 1]
    for step in reversed(previous[: int(np.argmin(totals)) + 1]):
        chosen.insert(0, int(step[chosen[0]]))
    return chosen


def _sorted_rows(
    lengths: np.ndarray, num_shards: int, rows_per_shard: int
) -> np.ndarray:
    """Returns [shards, S] int32: rows of each shard, longest first, then none."""
    rows = np.full((num_shards, rows_per_shard), rows_per_shard, np.int32)
    # NumPy sorts 16 bits in linear time.
    small = np.uint16 if lengths.max() < 1 << 16 else np.int64
    missing = (lengths.max() - lengths).astype(small)
    for shard in range(num_shards):
        here = missing[shard * rows_per_shard : (shard + 1) * rows_per_shard]
        rows[shard, : len(here)] = np.argsort(here, kind="stable")
    return rows
