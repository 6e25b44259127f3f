"""Token rows in device memory and streamed are the same numbers."""

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_rows, make_token_table
from art_jax.index import rows

LAYOUT = Layout(prefix=(1,), separator=(2,), suffix=(3,), max_tokens=9)
NUM_ROWS = 21  # on 2 and 8 devices the last shard is filled up


def token_table(dtype=np.uint16, num_rows=NUM_ROWS):
    random = np.random.default_rng(0)
    titles = [random.integers(4, 60_000, i % 3) for i in range(num_rows)]
    texts = [random.integers(4, 60_000, i % 8) for i in range(num_rows)]
    return make_token_table(titles, texts, dtype)


def expected(tokens, some_rows):
    """The laid-out rows, one by one; zeros where there is none."""
    some_rows = np.asarray(some_rows)
    out = np.zeros((*some_rows.shape, LAYOUT.max_tokens), np.int32)
    for place in np.ndindex(some_rows.shape):
        if 0 <= some_rows[place] < tokens.num_rows:
            out[place] = layout_rows(LAYOUT, tokens, some_rows[place])
    return out


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_gather_gives_the_rows_that_were_found(mesh, dtype):
    tokens = token_table(dtype)
    found = np.random.default_rng(1).integers(0, NUM_ROWS, (8, 3), np.int32)
    found[0, 0] = NUM_ROWS - 1
    found[3] = -1
    found[5, 1] = -1
    want = expected(tokens, found)
    assert (want[3] == 0).all()
    placed = jax.jit(rows.place_rows(tokens, LAYOUT, mesh).gather)(found)
    streamed = rows.stream_rows(tokens, LAYOUT, mesh).gather(found)
    for got in (placed, streamed):
        assert got.dtype == np.int32
        assert got.sharding.is_equivalent_to(partitioning.batch_sharding(mesh), 3)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("length", [4, 9])
def test_chunk_gives_rows_of_each_shard_cut_to_a_length(mesh, length):
    tokens = token_table()
    shards = partitioning.num_row_shards(mesh)
    size = partitioning.padded_rows(NUM_ROWS, mesh) // shards
    random = np.random.default_rng(2)
    local = random.integers(0, size, (shards, 5), np.int32)
    local[:, 1] = size  # a slot without a row
    local[-1, 3] = size - 1  # padding on 2 and 8 shards
    in_table = np.where(local < size, local + np.arange(shards)[:, None] * size, -1)
    want = expected(tokens, in_table)[..., :length]
    got = rows.stream_rows(tokens, LAYOUT, mesh).chunk(local, length)
    assert got.dtype == np.int32
    assert got.sharding.is_equivalent_to(partitioning.row_sharding(mesh), 3)
    np.testing.assert_array_equal(got, want)


def test_placed_rows_take_two_bytes_a_token_and_end_in_zeros(mesh, monkeypatch):
    monkeypatch.setattr(rows, "_PLACE_ROWS", 4)  # several pieces a shard
    tokens = token_table()
    placed = rows.place_rows(tokens, LAYOUT, mesh)
    assert placed.tokens.dtype == np.uint16
    assert rows.place_rows(token_table(np.uint32), LAYOUT, mesh).tokens.dtype == "int32"
    padded = partitioning.padded_rows(NUM_ROWS, mesh)
    assert placed.tokens.shape == (padded, placed.width) == (padded, 9)
    np.testing.assert_array_equal(placed.tokens, expected(tokens, np.arange(padded)))


def test_both_say_how_many_rows_a_shard_holds(mesh):
    tokens = token_table()
    placed = rows.place_rows(tokens, LAYOUT, mesh)
    streamed = rows.stream_rows(tokens, LAYOUT, mesh)
    want = -(-NUM_ROWS // partitioning.num_row_shards(mesh))
    assert placed.rows_per_shard == streamed.rows_per_shard == want
    assert placed.width == streamed.width == 9


def test_fewer_rows_than_devices_is_no_hazard():
    mesh = partitioning.make_mesh(8)
    tokens = token_table(num_rows=3)
    found = np.array([[0, 2]] * 8, np.int32)
    placed = jax.jit(rows.place_rows(tokens, LAYOUT, mesh).gather)(found)
    streamed = rows.stream_rows(tokens, LAYOUT, mesh).gather(found)
    for got in (placed, streamed):
        np.testing.assert_array_equal(got, expected(tokens, found))


def test_a_slot_without_a_row_reads_nothing():
    # In a run of many processes row 0 is on another machine's share.
    reads = []

    def read(some_rows):
        reads.extend(some_rows.tolist())
        return np.ones((len(some_rows), 2), np.int32)

    mesh = partitioning.make_mesh(2)
    held = rows.HostRows(read, width=2, rows_per_shard=3, num_rows=5, mesh=mesh)
    got = held.chunk(np.array([[3, 1], [2, 0]], np.int32), 2)
    assert sorted(reads) == [1, 3]  # local 2 of the second shard is padding
    np.testing.assert_array_equal(np.asarray(got)[..., 0], [[0, 1], [0, 1]])


def test_of_equal_rows_the_first_stays_and_excluded_ones_go():
    found = np.array([[3, 1, 3, -1, -1, 1], [0, 2, 4, 0, 5, 2]], np.int32)
    excluded = np.array([[-1], [4]], np.int32)
    want = [[3, 1, -1, -1, -1, -1], [0, 2, -1, -1, 5, -1]]
    np.testing.assert_array_equal(rows.without_repeats(found, excluded), want)
