"""ScaNN behind the exact search's interface: small integers, so that == is right."""

import pathlib
import pickle
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

from art_jax import manifest, partitioning
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import ann, table

# There is no wheel of ScaNN elsewhere; everywhere else the extra `test` brings it.
needs_scann = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="ScaNN has wheels for Linux on x86-64 alone",
)
pytestmark = needs_scann

NUM_ROWS, WIDTH = 600, 8
# With all partitions searched and enough rows rescored nothing is missed.
SETTINGS = {
    "hashed": ann.AnnSettings(brute_force_below=0, rescored=60),
    "partitioned": ann.AnnSettings(
        brute_force_below=0, rescored=60, partitions=12, searched_partitions=12
    ),
    "brute_force": ann.AnnSettings(),
}


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def make_table(values, dtype="float32", shards=2, **fields):
    mesh = partitioning.make_mesh(shards)
    padded = np.zeros((partitioning.padded_rows(len(values), mesh), values.shape[1]))
    padded[: len(values)] = values
    embeddings = partitioning.put_global(
        padded.astype(dtype), partitioning.row_sharding(mesh)
    )
    fields = {"table_step": 7, "generation": 2, "evidence_digest": "e" * 64, **fields}
    return table.EmbeddingTable(
        embeddings=embeddings, num_rows=len(values), mesh=mesh, **fields
    )


@pytest.fixture(scope="module")
def held():
    return make_table(integers(NUM_ROWS, WIDTH), "bfloat16")


@pytest.fixture(scope="module", params=SETTINGS)
def index(request, held):
    return ann.build_ann(held, SETTINGS[request.param])


@pytest.fixture(scope="module")
def saved(held, tmp_path_factory):
    """A run's folders `index` and `ann`, partitioned."""
    run = tmp_path_factory.mktemp("run")
    table.save_table(held, run / "index")
    made = ann.build_ann_from_files(run / "index", SETTINGS["partitioned"])
    ann.save_ann(made, run / "ann", measured={"recall": 1.0})
    return run


def test_it_scores_and_orders_as_the_exact_search(index, held):
    queries = integers(9, WIDTH, seed=1)
    got = ann.search(index, queries, k=5)
    want = table.search(held, queries, k=5)
    assert got.scores.dtype == np.float32
    assert got.rows.dtype == np.int32
    np.testing.assert_array_equal(got.scores, want.scores)
    every_score = queries @ integers(NUM_ROWS, WIDTH).T
    np.testing.assert_array_equal(
        got.scores, np.take_along_axis(every_score, got.rows, axis=1)
    )
    for scores, rows in zip(got.scores, got.rows, strict=True):
        assert len(set(rows)) == 5
        for place in range(4):
            # Equal scores come by row.
            assert (-scores[place], rows[place]) < (-scores[place + 1], rows[place + 1])


def test_equal_scores_come_by_row_whatever_order_they_were_found_in():
    found = ann._in_order(
        np.array([[1.0, 3.0, 1.0, -np.inf, 3.0]]), np.array([[9, 8, 4, -1, 2]]), k=6
    )
    np.testing.assert_array_equal(found.rows, [[2, 8, 4, 9, -1, -1]])
    np.testing.assert_array_equal(found.scores, [[3, 3, 1, 1, -np.inf, -np.inf]])
    assert found.scores.dtype == np.float32


def test_settings_choose_the_method(index, request):
    name = request.node.callspec.params["index"]
    assert index.is_exact == (name == "brute_force")
    assert index.settings.partitions == (12 if name == "partitioned" else 0)


@pytest.mark.parametrize("k", [NUM_ROWS, NUM_ROWS + 30])
def test_more_rows_than_there_are_end_in_minus_one(index, k):
    found = ann.search(index, integers(3, WIDTH, seed=1), k=k)
    assert found.rows.shape == found.scores.shape == (3, k)
    for scores, rows in zip(found.scores, found.rows, strict=True):
        np.testing.assert_array_equal(np.sort(rows[:NUM_ROWS]), np.arange(NUM_ROWS))
        np.testing.assert_array_equal(rows[NUM_ROWS:], -1)
        np.testing.assert_array_equal(scores[NUM_ROWS:], -np.inf)


def test_rows_that_were_not_looked_at_are_missing_not_row_zero(held):
    few = ann.AnnSettings(
        brute_force_below=0, partitions=12, searched_partitions=1, rescored=4
    )
    found = ann.search(ann.build_ann(held, few), integers(4, WIDTH, seed=1), k=590)
    is_missing = found.rows < 0
    assert is_missing.any(axis=1).all()
    np.testing.assert_array_equal(found.scores == -np.inf, is_missing)
    for rows in found.rows:
        kept = rows[rows >= 0]
        assert len(set(kept)) == len(kept) > 0
    with_all = ann.search(ann.build_ann(held), integers(4, WIDTH, seed=1), k=590)
    assert ann.recall(found.rows, with_all.rows) < 0.9


def test_excluded_rows_are_not_found(index, held):
    queries = integers(4, WIDTH, seed=2)
    best = table.search(held, queries, k=6).rows
    excluded = np.stack([best[:, 0], best[:, 2], np.full(4, -1)], axis=1)
    got = ann.search(index, queries, k=3, excluded_rows=excluded)
    want = table.search(held, queries, k=3, excluded_rows=excluded)
    np.testing.assert_array_equal(got.scores, want.scores)
    for rows, left_out in zip(got.rows, excluded, strict=True):
        assert not set(rows) & set(left_out)


def test_a_batch_changes_no_result(index):
    queries = integers(7, WIDTH, seed=3)
    together = ann.search(index, queries, k=4)
    for place in range(7):
        alone = ann.search(index, queries[place : place + 1], k=4)
        np.testing.assert_array_equal(alone.scores[0], together.scores[place])


def test_no_queries_find_nothing(index):
    found = ann.search(index, np.zeros((0, WIDTH), np.float32), k=700)
    assert found.rows.shape == found.scores.shape == (0, 700)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rows_keep_the_dtype_of_the_table(dtype):
    values = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    held = make_table(values, dtype)
    settings = ann.AnnSettings(brute_force_below=0, rescored=40)
    queries = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    got = ann.search(ann.build_ann(held, settings), queries, k=5)
    want = table.search(held, queries, k=5)
    np.testing.assert_array_equal(got.rows, want.rows)
    # 16 products each, summed in another order.
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_rows", [1, 15, 16])
def test_a_table_too_small_to_learn_codes_from_is_scored_whole(num_rows):
    held = make_table(integers(num_rows, WIDTH), shards=1)
    index = ann.build_ann(held, ann.AnnSettings(brute_force_below=0))
    assert index.is_exact == (num_rows < 16)
    queries = integers(2, WIDTH, seed=1)
    got, want = ann.search(index, queries, k=1), table.search(held, queries, k=1)
    np.testing.assert_array_equal(got.scores, want.scores)


@pytest.mark.parametrize(
    ("num_rows", "partitions", "searched"),
    [(19_999, 0, 1), (99_999, 0, 1), (100_000, 316, 63), (1_000_000, 1000, 200)],
)
def test_defaults_follow_scanns_rules(num_rows, partitions, searched):
    settings = ann._resolve(ann.AnnSettings(), num_rows)
    assert settings.partitions == partitions
    assert settings.searched_partitions == max(searched, 1)


def test_no_more_partitions_are_searched_than_there_are():
    wanted = ann.AnnSettings(partitions=4, searched_partitions=9, brute_force_below=0)
    assert ann._resolve(wanted, 1000).searched_partitions == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"partitions": -1},
        {"searched_partitions": 0},
        {"rescored": 0},
        {"training_rows": 15},
        {"anisotropic_threshold": 1.5},
        {"anisotropic_threshold": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} is"):
        ann.AnnSettings(**wrong)


def test_more_partitions_than_rows_are_refused(held):
    settings = ann.AnnSettings(partitions=601, brute_force_below=0)
    with pytest.raises(ConfigError, match="600 rows cannot be split into 601"):
        ann.build_ann(held, settings)


def test_bad_queries_are_refused(index):
    with pytest.raises(ConfigError, match="of width 8"):
        ann.search(index, np.zeros((2, 9), np.float32), k=1)
    with pytest.raises(ConfigError, match="at least one row"):
        ann.search(index, np.zeros((2, 8), np.float32), k=0)
    queries = integers(3, WIDTH)
    queries[2, 1] = np.nan
    with pytest.raises(ValueError, match="query 2 is not finite"):
        ann.search(index, queries, k=1)


def test_a_row_that_is_not_finite_is_named():
    values = integers(40, WIDTH)
    values[33, 2] = np.inf
    with pytest.raises(CorruptError, match="row 33 of the table is not finite"):
        ann.build_ann(make_table(values))


def test_recall_by_hand():
    exact = np.array([[1, 2, 3], [4, 5, -1]])
    found = np.array([[3, 9, 1], [-1, 4, 2]])
    assert ann.recall(found, exact) == pytest.approx((2 + 1) / 5)
    assert ann.recall(exact, exact) == 1.0
    assert ann.recall(found[:0], exact[:0]) == 1.0


def test_what_was_saved_is_found_again_from_another_folder(saved, tmp_path):
    shutil.copytree(saved / "ann", tmp_path / "moved")
    again = ann.load_ann(tmp_path / "moved")
    first = ann.load_ann(saved / "ann")
    queries = integers(6, WIDTH, seed=4)
    want = ann.search(first, queries, k=4)
    got = ann.search(again, queries, k=4)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_array_equal(got.scores, want.scores)
    exact = np.sort(queries @ integers(NUM_ROWS, WIDTH).T)[:, ::-1][:, :4]
    np.testing.assert_array_equal(got.scores, exact)
    assert (again.num_rows, again.width, again.dtype) == (NUM_ROWS, WIDTH, "bfloat16")
    assert (again.table_step, again.generation) == (7, 2)
    assert again.settings.partitions == 12
    # Rows of bfloat16 take two bytes a number, and a header.
    rows = saved / "ann" / "bfloat16_dataset.npy"
    assert 0 <= rows.stat().st_size - NUM_ROWS * WIDTH * 2 < 256
    assert not (saved / "ann" / "dataset.npy").exists()
    extra = manifest.read_manifest(saved / "ann")["extra"]
    assert extra["measured"] == {"recall": 1.0}
    assert extra["scann"] == "1.4.2"


def test_files_build_without_a_device_and_in_blocks(saved, monkeypatch):
    monkeypatch.setattr(ann, "_READ_ROWS", 7)
    made = ann.build_ann_from_files(saved / "index")
    queries = integers(6, WIDTH, seed=4)
    exact = np.sort(queries @ integers(NUM_ROWS, WIDTH).T)[:, ::-1][:, :4]
    np.testing.assert_array_equal(ann.search(made, queries, k=4).scores, exact)


def test_damage_is_found_and_named(saved, tmp_path):
    for path in sorted((saved / "ann").iterdir()):
        copy = tmp_path / path.name
        shutil.copytree(saved / "ann", copy)
        bad = bytearray(path.read_bytes())
        bad[len(bad) // 2] ^= 1
        (copy / path.name).write_bytes(bytes(bad))
        with pytest.raises(CorruptError, match=path.name):
            ann.load_ann(copy)
        (copy / path.name).unlink()
        with pytest.raises(CorruptError, match=f"{path.name} is missing"):
            ann.load_ann(copy)


def test_what_scann_cannot_read_is_damaged(saved, tmp_path):
    copy = tmp_path / "ann"
    shutil.copytree(saved / "ann", copy)
    (copy / "ah_codebook.pb").write_bytes(b"xx")
    manifest.write_manifest(copy, manifest.read_manifest(copy)["extra"])
    with pytest.raises(CorruptError, match="cannot read it"):
        ann.load_ann(copy)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("kind", "embedding_table", "does not hold an index"), ("format_version", 9, "9")],
)
def test_a_folder_of_something_else_is_refused(saved, tmp_path, name, value, error):
    copy = tmp_path / "ann"
    shutil.copytree(saved / "ann", copy)
    extra = manifest.read_manifest(copy)["extra"]
    manifest.write_manifest(copy, {**extra, name: value})
    with pytest.raises(CorruptError, match=error):
        ann.load_ann(copy)


def test_a_file_outside_the_folder_is_not_read(saved, tmp_path):
    copy = tmp_path / "ann"
    shutil.copytree(saved / "ann", copy)
    path = copy / "scann_assets.pbtxt"
    path.write_text(path.read_text().replace("ah_codebook.pb", "../ah_codebook.pb"))
    manifest.write_manifest(copy, manifest.read_manifest(copy)["extra"])
    with pytest.raises(CorruptError, match="names the file"):
        ann.load_ann(copy)


def test_no_pickle_beside_it_is_read(saved, tmp_path, monkeypatch):
    copy = tmp_path / "ann"
    shutil.copytree(saved / "ann", copy)
    assert not list(copy.glob("*.pkl"))
    # ScaNN's own wrapper would load it; the manifest may even list it.
    (copy / "scann_docids.pkl").write_bytes(pickle.dumps(["a"]))
    manifest.write_manifest(copy, manifest.read_manifest(copy)["extra"])

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    assert ann.load_ann(copy).num_rows == NUM_ROWS


def test_a_killed_save_leaves_the_old_index(saved, tmp_path, monkeypatch):
    copy = tmp_path / "ann"
    shutil.copytree(saved / "ann", copy)

    def fail(*_):
        raise OSError("disk full")

    before = manifest.read_manifest(copy)
    monkeypatch.setattr(manifest, "write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        ann.save_ann(ann.load_ann(copy), copy)
    assert manifest.read_manifest(copy) == before
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]
    copy.rename(tmp_path / ".ann.replaced")  # killed between the two moves
    assert ann.load_ann(copy).num_rows == NUM_ROWS


def test_an_index_of_another_table_is_told_apart(saved, held, tmp_path):
    ann.check_source(saved / "ann", saved / "index")
    # Other embeddings of the same passages, made at the same step.
    other = make_table(integers(NUM_ROWS, WIDTH, seed=5), "bfloat16")
    table.save_table(other, tmp_path / "index")
    with pytest.raises(ConfigError, match="made from another table"):
        ann.check_source(saved / "ann", tmp_path / "index")
    with pytest.raises(CorruptError, match=f"art-jax ann {tmp_path}"):
        ann.check_source(saved / "ann", tmp_path / "index", CorruptError)
    ann.save_ann(ann.build_ann(held), tmp_path / "ann")
    with pytest.raises(ConfigError, match="made from another table"):
        ann.check_source(tmp_path / "ann", saved / "index")


def test_without_the_package_the_command_is_named(saved, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scann"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scann", None)
    for call in (ann.build_ann_from_files, ann.load_ann):
        with pytest.raises(ConfigError) as error:
            call(saved / "ann")
        assert "pip install 'art-jax[scann]'" in str(error.value)
        assert "Exact search needs no package" in str(error.value)


def test_it_runs_without_tensorflow_and_leaves_it_importable(saved):
    script = (
        "import pathlib, sys\n"
        "from art_jax.index import ann\n"
        "assert 'scann' not in sys.modules\n"
        f"index = ann.load_ann(pathlib.Path({str(saved / 'ann')!r}))\n"
        "assert index.num_rows == 600\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import jax._src.xla_bridge as bridge\n"
        "assert not bridge._backends, 'loading started a device'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_tensorflow_that_is_there_stays(saved, monkeypatch):
    for present in (None, pathlib):
        monkeypatch.setitem(sys.modules, "tensorflow", present)
        ann.load_ann(saved / "ann")
        assert sys.modules["tensorflow"] is present
