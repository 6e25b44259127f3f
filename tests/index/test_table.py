"""A table on disk is the table that was saved, or an error that names the file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import atomic, manifest, partitioning
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import int8_rows, table
from art_jax.index.topk import SearchOptions

NUM_ROWS, WIDTH = 21, 4


def make_table(devices=8, dtype="float32", seed=0, generation=3):
    mesh = partitioning.make_mesh(devices)
    values = np.zeros((partitioning.padded_rows(NUM_ROWS, mesh), WIDTH), np.float32)
    values[:NUM_ROWS] = np.random.default_rng(seed).normal(size=(NUM_ROWS, WIDTH))
    embeddings = partitioning.put_global(
        values.astype(jnp.dtype(dtype)), partitioning.row_sharding(mesh)
    )
    return table.EmbeddingTable(embeddings, NUM_ROWS, generation, 500, "digest", mesh)


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("chunk_rows", [65_536, 2])
def test_what_eight_devices_save_any_number_loads(
    tmp_path, mesh, dtype, chunk_rows, monkeypatch
):
    monkeypatch.setattr(table, "_MAX_CHUNK_ROWS", chunk_rows)
    saved = make_table(8, dtype)
    table.save_table(saved, tmp_path / "index")
    loaded = table.load_table(tmp_path / "index", mesh)
    for field in ("num_rows", "generation", "table_step", "evidence_digest", "width"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert loaded.mesh == mesh
    assert loaded.embeddings.dtype == dtype
    assert loaded.embeddings.sharding == partitioning.row_sharding(mesh)
    padded = partitioning.padded_rows(NUM_ROWS, mesh)
    want = np.zeros((padded, WIDTH), jnp.dtype(dtype))
    want[:NUM_ROWS] = np.asarray(saved.embeddings)[:NUM_ROWS]
    assert np.asarray(loaded.embeddings).tobytes() == want.tobytes()


def test_what_one_device_saves_eight_load(tmp_path):
    saved = make_table(1)
    table.save_table(saved, tmp_path / "index")
    loaded = table.load_table(tmp_path / "index", partitioning.make_mesh(8))
    got = np.asarray(loaded.embeddings)
    np.testing.assert_array_equal(got[:NUM_ROWS], saved.embeddings)
    assert (got[NUM_ROWS:] == 0).all()


def test_a_shard_is_few_files_whatever_its_number_of_rows(tmp_path, monkeypatch):
    # 11 rows a shard is a prime number: chunks that divide it would hold one row.
    monkeypatch.setattr(table, "_MAX_CHUNK_ROWS", 8)
    table.save_table(make_table(2), tmp_path / "index")
    chunks = [p for p in files(tmp_path / "index" / "embeddings") if p.name[0] != "."]
    assert len(chunks) == 2 * 2


def test_every_damaged_or_missing_file_is_named(tmp_path):
    directory = tmp_path / "index"
    table.save_table(make_table(2), directory)
    mesh = partitioning.make_mesh(1)
    assert len(files(directory)) >= 4
    for path in files(directory):
        before = path.read_bytes()
        # The first byte: white space inside JSON would say nothing.
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        with pytest.raises(CorruptError, match=path.name.replace(".", r"\.")):
            table.load_table(directory, mesh)
        path.unlink()
        with pytest.raises(CorruptError, match=rf"{path.name}\D* missing"):
            table.load_table(directory, mesh, verify=False)
        path.write_bytes(before)
    table.load_table(directory, mesh)


def test_a_kill_before_the_move_leaves_the_old_table(tmp_path, monkeypatch):
    directory = tmp_path / "index"
    old, new = make_table(seed=0), make_table(seed=1, generation=4)
    table.save_table(old, directory)

    def kill(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "finish_directory", kill)
        with pytest.raises(KeyboardInterrupt):
            table.save_table(new, directory)
    assert table.load_table(directory, old.mesh).generation == 3
    table.save_table(new, directory)
    assert table.load_table(directory, old.mesh).generation == 4
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_kill_between_the_moves_leaves_the_old_table(tmp_path):
    directory = tmp_path / "index"
    table.save_table(make_table(), directory)
    directory.rename(tmp_path / ".index.replaced")
    assert table.load_table(directory, partitioning.make_mesh(1)).generation == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "evidence"}, "no.* embedding table"), ({"format_version": 99}, "99")],
)
def test_other_folders_and_versions_are_refused(tmp_path, change, message):
    directory = tmp_path / "index"
    table.save_table(make_table(2), directory)
    description = manifest.read_manifest(directory)["extra"]
    manifest.write_manifest(directory, description | change)
    with pytest.raises(CorruptError, match=message):
        table.load_table(directory, partitioning.make_mesh(1))


def test_search_finds_the_highest_dot_products(mesh):
    held = make_table(mesh.size)
    queries = np.random.default_rng(5).normal(size=(3, WIDTH)).astype(np.float32)
    found = table.search(held, queries, k=4)
    assert isinstance(found.scores, np.ndarray)
    scores = queries @ np.asarray(held.embeddings)[:NUM_ROWS].T
    want = np.argsort(-scores, axis=1)[:, :4]
    np.testing.assert_array_equal(found.rows, want)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(scores, want, axis=1), rtol=1e-5
    )
    without = table.search(held, queries, k=4, excluded_rows=want[:, :1])
    np.testing.assert_array_equal(without.rows[:, :3], want[:, 1:])


def test_places_beyond_the_table_hold_no_row():
    found = table.search(make_table(2), np.ones((1, WIDTH), np.float32), k=30)
    assert (found.rows[0, :NUM_ROWS] >= 0).all()
    assert (found.rows[0, NUM_ROWS:] == -1).all()
    assert (found.scores[0, NUM_ROWS:] == -np.inf).all()


@pytest.mark.parametrize("shape", [(2, WIDTH + 1), (WIDTH,), (1, 2, WIDTH)])
def test_queries_of_another_width_are_refused(shape):
    with pytest.raises(ConfigError, match=f"width {WIDTH}"):
        table.search(make_table(1), np.zeros(shape, np.float32), k=1)


def test_k_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        table.search(make_table(1), np.zeros((1, WIDTH), np.float32), k=0)


def test_nan_is_an_error_that_names_query_or_row(mesh):
    held = make_table(mesh.size)
    queries = np.ones((3, WIDTH), np.float32)
    queries[1, 2] = np.nan
    with pytest.raises(ValueError, match="score of query 1 "):
        table.search(held, queries, k=2)
    values = np.array(held.embeddings)
    values[17] = np.nan
    bad = jax.device_put(values, held.embeddings.sharding)
    held = dataclasses.replace(held, embeddings=bad)
    with pytest.raises(ValueError, match="row 17 of the table is NaN"):
        table.search(held, np.ones((1, WIDTH), np.float32), k=2)


def with_int8(held):
    quantized = int8_rows.build_quantize(held.mesh)(held.embeddings)
    return dataclasses.replace(held, int8_rows=quantized)


def test_int8_rows_find_the_same(mesh):
    held = with_int8(make_table(mesh.size, "bfloat16"))
    queries = np.random.default_rng(6).normal(size=(3, WIDTH)).astype(np.float32)
    want = table.search(held, queries, k=4, options=SearchOptions(method="plain"))
    found = table.search(held, queries, k=4, options=SearchOptions(method="int8"))
    np.testing.assert_array_equal(found.rows, want.rows)
    without = dataclasses.replace(held, int8_rows=None)
    with pytest.raises(ConfigError, match=r"load_table\(..., int8=True\)"):
        table.search(without, queries, k=4, options=SearchOptions(method="int8"))


def test_int8_rows_are_made_again_on_loading(tmp_path, mesh):
    saved = with_int8(make_table(8))
    table.save_table(saved, tmp_path / "index")
    assert table.load_table(tmp_path / "index", mesh).int8_rows is None
    loaded = table.load_table(tmp_path / "index", mesh, int8=True)
    for got, want in zip(
        jax.tree.leaves(loaded.int8_rows),
        jax.tree.leaves(saved.int8_rows),
        strict=True,
    ):
        np.testing.assert_array_equal(got[:NUM_ROWS], want[:NUM_ROWS])


@pytest.mark.parametrize("int8", [False, True])
def test_rows_are_written_where_they_are_held(mesh, int8):
    held = make_table(mesh.size, "bfloat16")
    held = with_int8(held) if int8 else held
    want = np.array(held.embeddings)
    rows = np.array([20, 3, -1, 3, 0], np.int32)
    values = np.random.default_rng(7).normal(size=(5, WIDTH)).astype(np.float32)
    values[3] = values[1]
    sharding = held.embeddings.sharding
    old = jax.tree.leaves((held.embeddings, held.int8_rows))
    embeddings, quantized = table.write_rows(
        held.embeddings, held.int8_rows, rows, values
    )
    want[rows[[0, 1, 4]]] = values[[0, 1, 4]].astype(want.dtype)
    np.testing.assert_array_equal(embeddings, want)
    assert embeddings.sharding.is_equivalent_to(sharding, 2)
    assert all(array.is_deleted() for array in old)
    if int8:
        again = int8_rows.build_quantize(mesh)(embeddings)
        jax.tree.map(np.testing.assert_array_equal, quantized, again)
    else:
        assert quantized is None


def test_rows_are_written_under_jit():
    held = make_table(2)

    @jax.jit
    def write(embeddings, rows, values):
        return table.write_rows(embeddings, None, rows, values, mesh=held.mesh)[0]

    got = write(held.embeddings, jnp.asarray([4], jnp.int32), jnp.ones((1, WIDTH)))
    assert (np.asarray(got)[4] == 1).all()
    np.testing.assert_array_equal(got[5:], held.embeddings[5:])
