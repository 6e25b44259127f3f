"""Every row is embedded once, where it is, whatever the buckets and chunks."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_lengths, layout_rows, make_token_table
from art_jax.errors import DivergedError
from art_jax.index import buckets, embed, rows
from art_jax.index.int8_rows import build_quantize

NUM_ROWS, MAX_TOKENS = 45, 12
LAYOUT = Layout((1,), (), (2,), MAX_TOKENS)


def table_of(lengths):
    random = np.random.default_rng(0)
    return make_token_table(
        [()] * len(lengths), [random.integers(3, 90, n) for n in lengths], np.uint16
    )


TOKENS = table_of(np.random.default_rng(1).integers(0, 16, NUM_ROWS))
LENGTHS = layout_lengths(LAYOUT, TOKENS, np.arange(NUM_ROWS))
WEIGHTS = np.random.default_rng(2).integers(-3, 4, (90, 4)).astype(np.float32)


def toy_encode(params, tokens):
    """A masked sum of small integers, so exact in float32; and the device it ran on."""
    picked = jnp.where((tokens > 0)[..., None], params[tokens], 0.0)
    shard = jax.lax.axis_index(partitioning.ROW_AXES).astype(jnp.float32)
    sums = picked.sum(axis=1)
    return jnp.concatenate([sums, jnp.full((len(tokens), 1), shard)], axis=1)


def expected(rows_per_shard, num_padded):
    tokens = layout_rows(LAYOUT, TOKENS, np.arange(NUM_ROWS))
    out = np.zeros((num_padded, 5), np.float32)
    out[:NUM_ROWS, :4] = (WEIGHTS[tokens] * (tokens > 0)[..., None]).sum(axis=1)
    out[:NUM_ROWS, 4] = np.arange(NUM_ROWS) // rows_per_shard
    return out


def plan(held, mesh, chunk_tokens):
    planned = buckets.plan_buckets(
        LENGTHS,
        num_shards=partitioning.num_row_shards(mesh),
        rows_per_shard=held.rows_per_shard,
        max_tokens=MAX_TOKENS,
        chunk_tokens=chunk_tokens,
        shape_tokens=20,
    )
    return embed.place_calls(planned, mesh)


def embed_all(
    held, calls, mesh, *, encode=None, params=WEIGHTS, dtype="float32", **settings
):
    """Embeds into a new table; returns its arrays."""
    num_padded = held.rows_per_shard * partitioning.num_row_shards(mesh)
    width = 5 if encode is None else 1
    int8 = settings.pop("int8", False)
    arrays = embed.empty_arrays(num_padded, width, dtype, mesh, int8=int8)
    return embed.embed_calls(
        encode or toy_encode,
        jnp.asarray(params),
        held,
        calls,
        arrays,
        mesh=mesh,
        **settings,
    )


@pytest.mark.parametrize("place", [rows.place_rows, rows.stream_rows])
@pytest.mark.parametrize("chunk_tokens", [1, 30, 10_000])
def test_each_device_embeds_its_rows_whatever_the_chunks(mesh, place, chunk_tokens):
    held = place(TOKENS, LAYOUT, mesh)
    got, _ = embed_all(held, plan(held, mesh, chunk_tokens), mesh)
    assert got.sharding.is_equivalent_to(partitioning.row_sharding(mesh), 2)
    num_padded = partitioning.padded_rows(NUM_ROWS, mesh)
    np.testing.assert_array_equal(got, expected(held.rows_per_shard, num_padded))


def test_the_table_is_of_the_dtype_that_was_asked_for():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls = plan(held, mesh, 100)
    full, half = (
        embed_all(held, calls, mesh, params=WEIGHTS / 3, dtype=dtype)[0]
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_array_equal(half, full.astype("bfloat16"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_counted(mesh, bad):
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    params = WEIGHTS.copy()
    token = int(layout_rows(LAYOUT, TOKENS, np.array(NUM_ROWS - 1))[1])
    params[token, 1] = bad
    tokens = layout_rows(LAYOUT, TOKENS, np.arange(NUM_ROWS))
    num_bad = int((tokens == token).any(axis=1).sum())
    assert 1 <= num_bad < NUM_ROWS
    with pytest.raises(DivergedError, match=f"^{num_bad} of {NUM_ROWS} passage"):
        embed_all(held, plan(held, mesh, 30), mesh, params=params)


def test_slots_without_a_row_may_be_anything():
    # Empty slots embed all-padding rows, which some encoders turn into NaN.
    def encode(params, tokens):
        return params / (tokens > 0).sum(axis=1, keepdims=True).astype("float32")

    mesh = partitioning.make_mesh(8)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls = plan(held, mesh, 30)
    assert any((call.local_rows == held.rows_per_shard).any() for call in calls)
    got, _ = embed_all(held, calls, mesh, encode=encode, params=np.ones((1, 1), "f4"))
    want = np.zeros((48, 1), np.float32)
    want[:NUM_ROWS, 0] = np.float32(1) / LENGTHS.astype(np.float32)
    np.testing.assert_array_equal(got, want)


def test_progress_rises_to_all_rows_and_may_stop():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls = plan(held, mesh, 30)
    seen = []
    embed_all(held, calls, mesh, on_progress=seen.append)
    assert seen == np.cumsum([call.num_rows for call in calls]).tolist()
    assert seen[-1] == NUM_ROWS

    def stop(num_rows):
        if num_rows >= seen[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_all(held, calls, mesh, on_progress=stop)


def test_calls_replace_their_own_rows_alone(mesh):
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls = plan(held, mesh, 30)
    num_padded = partitioning.padded_rows(NUM_ROWS, mesh)
    old = partitioning.put_global(
        np.full((num_padded, 5), 9, np.float32), partitioning.row_sharding(mesh)
    )
    got, _ = embed.embed_calls(
        toy_encode, jnp.asarray(WEIGHTS), held, calls[1:2], (old, None), mesh=mesh
    )
    shards, slots = np.nonzero(calls[1].local_rows < held.rows_per_shard)
    found = shards * held.rows_per_shard + calls[1].local_rows[shards, slots]
    want = np.full((num_padded, 5), 9, np.float32)
    want[found] = expected(held.rows_per_shard, num_padded)[found]
    np.testing.assert_array_equal(got, want)
    # Donated: the device holds one table and not two.
    assert old.is_deleted()


def test_rows_in_eight_bits_are_those_of_the_rows():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    embeddings, int8_rows = embed_all(held, plan(held, mesh, 30), mesh, int8=True)
    want = build_quantize(mesh)(embeddings)
    for got, leaf in zip(*map(jax.tree.leaves, (int8_rows, want)), strict=True):
        assert got.sharding.is_equivalent_to(partitioning.row_sharding(mesh), got.ndim)
        np.testing.assert_allclose(got[:NUM_ROWS], leaf[:NUM_ROWS], rtol=1e-6)


def test_values_written_again_are_the_same_table():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls, kept = plan(held, mesh, 30), []
    want = embed_all(
        held,
        calls,
        mesh,
        dtype="bfloat16",
        int8=True,
        on_values=lambda call, values: kept.append((call, values)),
    )
    assert [call for call, _ in kept] == calls
    got = embed.empty_arrays(len(want[0]), 5, "bfloat16", mesh, int8=True)
    for call, values in kept:
        got = embed.write_values(call, values, got, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_rows_are_read_ahead_while_a_call_computes():
    mesh = partitioning.make_mesh(2)
    streamed = rows.stream_rows(TOKENS, LAYOUT, mesh)
    calls = plan(streamed, mesh, 30)
    third_read = threading.Event()
    num_reads = itertools.count(1)

    def read(some_rows):
        if next(num_reads) == 2 * 2 + 1:  # one read a shard and call
            third_read.set()
        return streamed.read(some_rows)

    waited = []

    def on_progress(num_rows):
        # Of the first call: without reading ahead nobody would ever read the third.
        waited.append(third_read.wait(timeout=30))

    held = dataclasses.replace(streamed, read=read)
    got, _ = embed_all(held, calls, mesh, on_progress=on_progress)
    assert all(waited)
    np.testing.assert_array_equal(got, expected(held.rows_per_shard, 46))


def test_a_stop_while_streaming_stops_reading():
    mesh = partitioning.make_mesh(2)
    streamed = rows.stream_rows(TOKENS, LAYOUT, mesh)
    calls = plan(streamed, mesh, 1)
    reads = []

    def read(some_rows):
        reads.append(len(some_rows))
        return streamed.read(some_rows)

    def stop(num_rows):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        embed_all(
            dataclasses.replace(streamed, read=read), calls, mesh, on_progress=stop
        )
    assert threading.active_count() == before
    # Two calls made, and two that waited beside them at most; each reads two shards.
    assert len(reads) <= 2 * 5 < 2 * len(calls)


def test_an_error_of_the_reader_says_where_it_was():
    mesh = partitioning.make_mesh(1)

    def broken_read(some_rows):
        raise OSError("the disk is gone")

    held = dataclasses.replace(rows.stream_rows(TOKENS, LAYOUT, mesh), read=broken_read)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        embed_all(held, plan(held, mesh, 30), mesh)
    assert any(entry.name == "broken_read" for entry in caught.traceback)


def test_batches_of_host_rows_come_in_order_the_last_filled_up(mesh):
    tokens = np.arange(1, 2 * 21 + 1, dtype=np.int32).reshape(21, 2)
    data_size = mesh.shape["data"]
    got = []
    for used, batch in embed.embed_batches(
        lambda batch: batch, tokens, batch_size=9, mesh=mesh
    ):
        assert len(batch) == -(-9 // data_size) * data_size
        got.append(np.asarray(batch)[:used])
    np.testing.assert_array_equal(np.concatenate(got), tokens)


def test_no_rows_are_no_batches():
    none = np.zeros((0, 3), np.int32)
    mesh = partitioning.make_mesh(2)
    batches = embed.embed_batches(lambda batch: batch, none, batch_size=4, mesh=mesh)
    assert list(batches) == []


@pytest.mark.parametrize("place", [rows.place_rows, rows.stream_rows])
def test_devices_do_not_wait_for_each_other(place):
    mesh = partitioning.make_mesh(2)
    held = place(TOKENS, LAYOUT, mesh)
    call = plan(held, mesh, 30)[0]
    on_device = isinstance(held, rows.DeviceRows)
    length = call.bucket.length
    write = embed.build_write(toy_encode, length if on_device else None, mesh)
    tokens = held.tokens if on_device else held.chunk(call.local_rows, length)
    arrays = embed.empty_arrays(46, 5, "float32", mesh, int8=True)
    num_bad = partitioning.put_global(
        np.zeros(2, np.int32), partitioning.row_sharding(mesh)
    )
    program = write.lower(
        jnp.asarray(WEIGHTS), tokens, call.placed_rows, np.int32(0), arrays, num_bad
    )
    text = program.compile().as_text()
    for collective in ("all-reduce", "all-gather", "collective", "all-to-all"):
        assert collective not in text


def test_embedding_twice_compiles_once_a_shape():
    traces = []

    def encode(params, tokens):
        traces.append(tokens.shape)
        return toy_encode(params, tokens)

    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    calls = plan(held, mesh, 30)
    num_padded = held.rows_per_shard * 2
    for _ in range(2):
        arrays = embed.empty_arrays(num_padded, 5, "float32", mesh)
        embed.embed_calls(encode, jnp.asarray(WEIGHTS), held, calls, arrays, mesh=mesh)
    shapes = {(call.local_rows.shape[1], call.bucket.length) for call in calls}
    assert len(traces) == len(shapes) < len(calls)
    assert set(traces) == shapes
