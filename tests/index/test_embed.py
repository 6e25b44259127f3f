"""Every row is embedded once, where it is, whatever the buckets and chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_lengths, layout_rows, make_token_table
from art_jax.errors import DivergedError
from art_jax.index import embed, rows

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
    return embed.plan_chunks(
        LENGTHS,
        num_shards=partitioning.num_row_shards(mesh),
        rows_per_shard=held.rows_per_shard,
        max_tokens=MAX_TOKENS,
        chunk_tokens=chunk_tokens,
    )


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    num_shards=st.sampled_from([1, 2, 3, 8]),
    spare=st.integers(0, 3),
    max_tokens=st.integers(1, 33),
    chunk_tokens=st.integers(1, 200),
)
def test_chunks_hold_every_row_once(
    lengths, num_shards, spare, max_tokens, chunk_tokens
):
    lengths = np.array(lengths)
    rows_per_shard = -(-len(lengths) // num_shards) + spare
    chunks = embed.plan_chunks(
        lengths,
        num_shards=num_shards,
        rows_per_shard=rows_per_shard,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
    )
    seen = []
    for chunk in chunks:
        assert chunk.local_rows.dtype == np.int32
        assert chunk.local_rows.shape[0] == num_shards
        size = chunk.local_rows.shape[1]
        assert size == 1 or size * chunk.length <= chunk_tokens
        shards, slots = np.nonzero(chunk.local_rows < rows_per_shard)
        found = shards * rows_per_shard + chunk.local_rows[shards, slots]
        assert chunk.num_rows == len(found)
        # No row loses a token that it has.
        assert (np.minimum(lengths[found], max_tokens) <= chunk.length).all()
        seen.extend(found.tolist())
    assert sorted(seen) == list(range(len(lengths)))


def test_short_rows_do_not_pay_for_long_ones():
    chunks = embed.plan_chunks(
        np.array([3, 4, 8, 5, 16]),
        num_shards=1,
        rows_per_shard=5,
        max_tokens=16,
        chunk_tokens=8,
    )
    got = [(chunk.length, chunk.local_rows.tolist()) for chunk in chunks]
    assert got == [(4, [[0, 1]]), (8, [[2]]), (8, [[3]]), (16, [[4]])]


@pytest.mark.parametrize("place", [rows.place_rows, rows.stream_rows])
@pytest.mark.parametrize("chunk_tokens", [1, 30, 10_000])
def test_each_device_embeds_its_rows_whatever_the_chunks(mesh, place, chunk_tokens):
    held = place(TOKENS, LAYOUT, mesh)
    got = embed.embed_rows(
        toy_encode,
        jnp.asarray(WEIGHTS),
        held,
        plan(held, mesh, chunk_tokens),
        width=5,
        mesh=mesh,
        dtype="float32",
    )
    assert got.sharding.is_equivalent_to(partitioning.row_sharding(mesh), 2)
    num_padded = partitioning.padded_rows(NUM_ROWS, mesh)
    np.testing.assert_array_equal(got, expected(held.rows_per_shard, num_padded))


def test_the_table_is_of_the_dtype_that_was_asked_for():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    chunks = plan(held, mesh, 100)
    params = jnp.asarray(WEIGHTS) / 3
    full, half = (
        embed.embed_rows(
            toy_encode, params, held, chunks, width=5, mesh=mesh, dtype=dtype
        )
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
        embed.embed_rows(
            toy_encode,
            jnp.asarray(params),
            held,
            plan(held, mesh, 30),
            width=5,
            mesh=mesh,
            dtype="float32",
        )


def test_slots_without_a_row_may_be_anything():
    # Empty slots embed all-padding rows, which some encoders turn into NaN.
    def encode(params, tokens):
        return params / (tokens > 0).sum(axis=1, keepdims=True).astype("float32")

    mesh = partitioning.make_mesh(8)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    chunks = plan(held, mesh, 30)
    assert any((c.local_rows == held.rows_per_shard).any() for c in chunks)
    got = embed.embed_rows(
        encode, jnp.ones((1, 1)), held, chunks, width=1, mesh=mesh, dtype="float32"
    )
    want = np.zeros((48, 1), np.float32)
    want[:NUM_ROWS, 0] = np.float32(1) / LENGTHS.astype(np.float32)
    np.testing.assert_array_equal(got, want)


def test_progress_rises_to_all_rows_and_may_stop():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    chunks = plan(held, mesh, 30)
    arguments = (toy_encode, jnp.asarray(WEIGHTS), held, chunks)
    seen = []
    embed.embed_rows(*arguments, width=5, mesh=mesh, on_progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == len(chunks)
    assert seen[-1] == NUM_ROWS

    def stop(num_rows):
        if num_rows >= seen[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed.embed_rows(*arguments, width=5, mesh=mesh, on_progress=stop)


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


def test_devices_do_not_wait_for_each_other():
    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    chunk = plan(held, mesh, 30)[0]
    table = partitioning.put_global(
        np.zeros((46, 5), np.float32), partitioning.row_sharding(mesh)
    )
    write = embed._build_write(toy_encode, mesh)
    tokens = held.chunk(chunk.local_rows, chunk.length)
    program = write.lower(jnp.asarray(WEIGHTS), tokens, chunk.local_rows, table)
    text = program.compile().as_text()
    for collective in ("all-reduce", "all-gather", "collective", "all-to-all"):
        assert collective not in text


def test_embedding_twice_compiles_once():
    traces = []

    def encode(params, tokens):
        traces.append(tokens.shape)
        return toy_encode(params, tokens)

    mesh = partitioning.make_mesh(2)
    held = rows.place_rows(TOKENS, LAYOUT, mesh)
    chunks = plan(held, mesh, 10_000)
    for _ in range(2):
        embed.embed_rows(encode, jnp.asarray(WEIGHTS), held, chunks, width=5, mesh=mesh)
    assert len(traces) == len(chunks) == 4
