"""Parts of a refresh: written whole, found again, removed where they do not belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.index import buckets, embed, refresh_parts

KEY, OTHER = "0" * 64, "f" * 64


def make_calls(mesh, num_rows=40, chunk_tokens=8):
    shards = partitioning.num_row_shards(mesh)
    planned = buckets.plan_buckets(
        np.full(num_rows, 2),
        num_shards=shards,
        rows_per_shard=-(-num_rows // shards),
        max_tokens=2,
        chunk_tokens=chunk_tokens,
    )
    return embed.place_calls(planned, mesh)


def values_of(calls, mesh, dtype="bfloat16", width=3):
    """What each call might have given, all different."""
    for number, call in enumerate(calls):
        shape = (*call.local_rows.shape, width)
        values = jax.random.normal(jax.random.key(number), shape)
        sharding = partitioning.row_sharding(mesh)
        yield partitioning.put_global(np.asarray(values.astype(dtype)), sharding)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_was_saved_is_loaded(mesh, tmp_path, dtype):
    calls = make_calls(mesh)
    values = list(values_of(calls, mesh, dtype))
    folder = refresh_parts.open_folder(tmp_path / "parts", KEY)
    with refresh_parts.saving(folder) as save:
        save(1, values)
    assert refresh_parts.find_saved(folder, 3, mesh).tolist() == [False, True, False]
    loaded = list(
        refresh_parts.load_part(folder, 1, calls, width=3, dtype=dtype, mesh=mesh)
    )
    for got, want in zip(loaded, values, strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, 3)
        np.testing.assert_array_equal(got, want)


def test_what_was_given_before_a_stop_is_written(tmp_path):
    mesh = partitioning.make_mesh(2)
    calls = make_calls(mesh)
    folder = refresh_parts.open_folder(tmp_path, KEY)

    def save_and_stop():
        with refresh_parts.saving(folder) as save:
            save(0, list(values_of(calls, mesh)))
            save(1, list(values_of(calls, mesh)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_and_stop()
    assert refresh_parts.find_saved(folder, 3, mesh).tolist() == [True, True, False]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_part_that_cannot_be_written_is_no_secret(tmp_path, bad):
    mesh = partitioning.make_mesh(2)
    values = list(values_of(make_calls(mesh), mesh))
    folder = refresh_parts.open_folder(tmp_path, KEY)
    (folder / f".{bad:05d}-00001.unfinished").write_text("in the way")

    def save_both():
        with refresh_parts.saving(folder) as save:
            save(0, values)
            save(1, values)

    with pytest.raises(FileExistsError, match=f"{bad:05d}-00001"):
        save_both()


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_part_is_none(tmp_path, harm):
    mesh = partitioning.make_mesh(2)
    folder = refresh_parts.open_folder(tmp_path, KEY)
    with refresh_parts.saving(folder) as save:
        for part in range(2):
            save(part, list(values_of(make_calls(mesh), mesh)))
    # One shard of two is enough.
    path = folder / "00001-00001" / "values.bin"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[5] ^= 4
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "remove":
        path.unlink()
    else:
        (path.parent / "manifest.json").write_text("{}")
    assert refresh_parts.find_saved(folder, 2, mesh).tolist() == [True, False]
    assert not path.parent.exists()


def test_parts_of_other_keys_go_and_nothing_else(tmp_path):
    old = refresh_parts.open_folder(tmp_path, OTHER)
    (old / "00000-00000").mkdir()
    (tmp_path / "mine").mkdir()
    folder = refresh_parts.open_folder(tmp_path, KEY)
    assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", KEY}
    refresh_parts.remove_folder(tmp_path)
    assert not folder.exists()
    assert (tmp_path / "mine").exists()
    (tmp_path / "mine").rmdir()
    refresh_parts.remove_folder(tmp_path)
    assert not tmp_path.exists()
    refresh_parts.remove_folder(tmp_path)  # nothing there, nothing to do


def test_parts_hold_all_calls_in_order_in_about_equal_work(monkeypatch):
    mesh = partitioning.make_mesh(2)
    calls = make_calls(mesh, 1000, chunk_tokens=4)
    assert len(calls) == 250
    monkeypatch.setattr(refresh_parts, "_NUM_PARTS", 10)
    parts = refresh_parts.split_calls(calls)
    assert [call for part in parts for call in part] == calls
    assert [len(part) for part in parts] == [25] * 10
    monkeypatch.setattr(refresh_parts, "_MAX_PART_ROWS", 6)  # three calls of two rows
    assert [len(part) for part in refresh_parts.split_calls(calls)] == [3] * 83 + [1]


def test_the_digest_of_parameters_is_of_names_and_numbers():
    params = {"a": jnp.arange(4.0), "b": jnp.ones((2, 2), jnp.bfloat16)}
    digest = refresh_parts.params_digest(params)
    assert digest == refresh_parts.params_digest(jax.tree.map(jnp.copy, params))
    others = [
        {"a": jnp.arange(4.0).at[3].add(1e-6), "b": params["b"]},
        {"c": params["a"], "b": params["b"]},
        {"a": params["a"].reshape(2, 2), "b": params["b"]},
        {"a": params["a"], "b": params["b"].astype("float32")},
    ]
    assert len({digest, *map(refresh_parts.params_digest, others)}) == 5


def test_every_shard_of_one_process_is_local(mesh):
    shards = partitioning.num_row_shards(mesh)
    assert refresh_parts.local_shards(mesh) == list(range(shards))
