"""A refresh makes a new table and leaves the old one alone."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_lengths, make_token_table
from art_jax.errors import ConfigError, DivergedError, PreemptedError
from art_jax.index import buckets, refresh, rows

NUM_ROWS = 19
LAYOUT = Layout((1,), (), (2,), 8)


def token_table():
    random = np.random.default_rng(0)
    texts = [random.integers(3, 50, i % 7) for i in range(NUM_ROWS)]
    return make_token_table([()] * NUM_ROWS, texts, np.uint16)


@pytest.fixture(autouse=True)
def several_lengths(monkeypatch):
    """So few rows would be embedded in one length otherwise."""
    monkeypatch.setattr(buckets, "_MIN_SAVED_TOKENS", 8)
    assert len(refresher(partitioning.make_mesh(2)).buckets) > 1


def row_lengths():
    return layout_lengths(LAYOUT, token_table(), np.arange(NUM_ROWS))


def encode(params, tokens):
    mask = (tokens > 0).astype("float32")
    return (params[tokens] * mask[..., None]).sum(axis=1) / mask.sum(
        axis=1, keepdims=True
    )


def refresher(mesh, place=rows.place_rows, **changes):
    tokens = token_table()
    settings = {
        "encode": encode,
        "rows": place(tokens, LAYOUT, mesh),
        "lengths": row_lengths(),
        "width": 3,
        "mesh": mesh,
        "evidence_digest": "digest",
        "chunk_tokens": 16,
    }
    return refresh.Refresher(**settings | changes)


def params(seed):
    return jax.random.normal(jax.random.key(seed), (50, 3))


def bits(table):
    arrays = jax.tree.leaves((table.embeddings, table.int8_rows))
    return b"".join(np.asarray(array).tobytes() for array in arrays)


def refreshed(fixed, seed=0, **settings):
    return refresh.refresh(fixed, params(seed), step=1, generation=1, **settings)


def test_a_refresh_is_a_new_generation_and_the_old_table_stays(mesh):
    fixed = refresher(mesh)
    old = refresh.refresh(fixed, params(0), step=0, generation=0)
    old_bits = bits(old)
    seen = []
    new = refresh.refresh(
        fixed, params(1), step=500, generation=1, on_progress=seen.append
    )
    assert (new.generation, new.table_step) == (1, 500)
    assert (new.num_rows, new.width, new.evidence_digest) == (NUM_ROWS, 3, "digest")
    assert new.embeddings.dtype == "bfloat16"
    assert new.mesh == mesh
    assert seen[-1] == NUM_ROWS
    assert bits(new) != old_bits
    assert bits(old) == old_bits
    assert (np.asarray(new.embeddings)[NUM_ROWS:] == 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_same_weights_on_the_same_mesh_give_the_same_bits(mesh, dtype):
    placed = refresher(mesh, dtype=dtype)
    streamed = refresher(mesh, rows.stream_rows, dtype=dtype)
    one, two, three = (
        bits(refresh.refresh(fixed, params(0), step=1, generation=1))
        for fixed in (placed, placed, streamed)
    )
    assert one == two == three


def test_any_mesh_gives_the_same_embeddings():
    tables = [
        np.asarray(
            refresh.refresh(
                refresher(partitioning.make_mesh(devices), dtype="float32"),
                params(0),
                step=1,
                generation=1,
            ).embeddings
        )[:NUM_ROWS]
        for devices in (1, 2, 8)
    ]
    # A chunk of another size may sum in another order.
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tables[2], tables[0], rtol=1e-6, atol=1e-6)


def test_diverged_weights_make_no_table(mesh):
    with pytest.raises(DivergedError, match="are not finite"):
        refresh.refresh(refresher(mesh), params(0) * np.nan, step=1, generation=1)


def test_a_stop_in_the_middle_leaves_no_table():
    def stop(num_rows):
        if num_rows:
            raise KeyboardInterrupt

    mesh = partitioning.make_mesh(2)
    with pytest.raises(KeyboardInterrupt):
        refresh.refresh(
            refresher(mesh), params(0), step=1, generation=1, on_progress=stop
        )


def counting(fixed):
    """The refresher with an encoder that counts its calls as they are made."""
    made = []

    def counting_encode(weights, tokens):
        jax.debug.callback(lambda: made.append(1))
        return encode(weights, tokens)

    return dataclasses.replace(fixed, encode=counting_encode), made


def stop_at(num_rows):
    def on_progress(done):
        if done >= num_rows:
            raise PreemptedError("stopped by a test")

    return on_progress


@pytest.mark.parametrize("place", [rows.place_rows, rows.stream_rows])
def test_a_killed_refresh_goes_on_and_gives_the_same_bits(tmp_path, place):
    mesh = partitioning.make_mesh(2)
    fixed = refresher(mesh, place, int8=True)
    want = bits(refreshed(fixed))
    folder = tmp_path / "parts"
    stops = np.cumsum([call.num_rows for call in fixed.calls])[:-1:2]
    assert len(stops) >= 2
    for num_rows in stops:
        with pytest.raises(PreemptedError):
            refreshed(fixed, parts=folder, on_progress=stop_at(num_rows))
    seen = []
    table = refreshed(fixed, parts=folder, on_progress=seen.append)
    assert bits(table) == want
    assert seen == sorted(seen)
    assert seen[-1] == NUM_ROWS
    assert not folder.exists()


def test_what_was_made_is_not_made_again(tmp_path):
    fixed, made = counting(refresher(partitioning.make_mesh(1)))
    num_calls = len(fixed.calls)
    done = sum(call.num_rows for call in fixed.calls[: num_calls // 2])
    with pytest.raises(PreemptedError):
        refreshed(fixed, parts=tmp_path, on_progress=stop_at(done))
    jax.effects_barrier()
    before = len(made)
    assert num_calls // 2 <= before <= num_calls // 2 + 2
    kept = refreshed(fixed, parts=tmp_path, keep_parts=True)
    jax.effects_barrier()
    # Each call is a part here; the one that was stopped in is made again.
    assert len(made) <= num_calls + 1
    again = len(made)
    assert bits(refreshed(fixed, parts=tmp_path)) == bits(kept)
    jax.effects_barrier()
    assert len(made) == again


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"dtype": "float32"},
        {"evidence_digest": "other"},
        {"chunk_tokens": 8},
        {"lengths": row_lengths()[::-1]},
        {"encode": lambda params, tokens: encode(params, tokens) * 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_of_anything_else_are_not_used(tmp_path, changes):
    mesh = partitioning.make_mesh(2)
    refreshed(refresher(mesh), parts=tmp_path, keep_parts=True)
    (old,) = tmp_path.iterdir()
    (tmp_path / "notes.txt").write_text("not ours")
    changes = dict(changes)
    seed = changes.pop("seed", 0)
    other = refresher(mesh, **changes)
    got = refreshed(other, seed, parts=tmp_path, keep_parts=True)
    assert bits(got) == bits(refreshed(other, seed))
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_diverged_weights_leave_no_part_behind(tmp_path):
    fixed = refresher(partitioning.make_mesh(2))
    bad = params(0).at[token_table().token_ids[0]].set(np.nan)
    messages = []
    for _ in range(2):
        with pytest.raises(DivergedError, match="are not finite") as caught:
            refresh.refresh(fixed, bad, step=1, generation=1, parts=tmp_path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("int8", [False, True])
def test_all_slices_in_turn_are_a_refresh(mesh, int8):
    fixed = refresher(mesh, int8=int8)
    table = refreshed(fixed, seed=1)
    want = bits(refreshed(fixed))
    num_slices = 3
    for index in range(5, 5 + num_slices):
        table = refresh.refresh_slice(
            fixed, params(0), table, slice_index=index, num_slices=num_slices
        )
    assert bits(table) == want
    assert (table.generation, table.table_step) == (1, 1)


def test_a_slice_changes_its_own_rows_alone_and_compiles_nothing_new(tiny):
    fixed = refresher(partitioning.make_mesh(2), dtype="float32")
    old, new = (np.asarray(refreshed(fixed, seed).embeddings) for seed in (0, 1))
    table = refreshed(fixed)
    donated = table.embeddings
    changed = np.zeros(len(old), bool)
    with tiny.counted_compilations() as compiled:
        for index in range(4):
            table = refresh.refresh_slice(
                fixed, params(1), table, slice_index=index, num_slices=4
            )
            for call in fixed.calls[index::4]:
                shards, slots = np.nonzero(call.local_rows < fixed.rows.rows_per_shard)
                local = call.local_rows[shards, slots]
                changed[shards * fixed.rows.rows_per_shard + local] = True
            want = np.where(changed[:, None], new, old)
            np.testing.assert_array_equal(table.embeddings, want)
    assert changed[:NUM_ROWS].all()
    assert donated.is_deleted()
    assert len(compiled) == 0


def test_more_slices_than_calls_are_empty_and_harmless():
    fixed = refresher(partitioning.make_mesh(8), chunk_tokens=1024)
    want = bits(refreshed(fixed))
    table = refreshed(fixed, seed=1)
    for index in range(9):
        table = refresh.refresh_slice(
            fixed, params(0), table, slice_index=index, num_slices=9
        )
    assert bits(table) == want


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"evidence_digest": "other"}],
    ids=lambda changes: next(iter(changes)),
)
def test_slices_of_another_table_are_refused(changes):
    mesh = partitioning.make_mesh(2)
    table = refreshed(refresher(mesh))
    with pytest.raises(ConfigError, match="before its slices"):
        refresh.refresh_slice(
            refresher(mesh, **changes), params(0), table, slice_index=0, num_slices=2
        )


def test_the_same_refresher_plans_the_same_rows():
    one, two = (refresher(partitioning.make_mesh(8)).buckets for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.length == b.length
        np.testing.assert_array_equal(a.local_rows, b.local_rows)
