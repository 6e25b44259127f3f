"""`art-jax verify` reads every byte that has a digest, and names what is wrong."""

import json
import shutil

import pytest

# One of each kind of part; a run's other files carry no digest.
PARTS = (
    "retriever",
    "index",
    "evidence",
    "tokenizers/teacher",
    "art/checkpoints/checkpoint_4",
)


@pytest.fixture
def run(finished_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    return copy


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_run_as_it_was_saved_is_good(art_jax, run):
    code, out, _ = art_jax("verify", run)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert {line[0] for line in lines} == {"good"}
    assert {f"run/{part}" for part in PARTS} < {line[1] for line in lines}


@pytest.mark.parametrize("part", PARTS)
def test_one_flipped_bit_in_any_file_is_found_and_named(art_jax, run, part):
    for path in files_of(run / part):
        good = path.read_bytes()
        if not good:
            continue
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bytes(bad))
        code, out, err = art_jax("verify", run / part)
        assert code == 4, path
        assert str(path) in err or str(path.parent) in err
        assert "DAMAGED" in out
        path.write_bytes(good)
    assert art_jax("verify", run / part).code == 0


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_gone_is_named(art_jax, run, part):
    for path in files_of(run / part):
        good = path.read_bytes()
        path.unlink()
        code, _, err = art_jax("verify", run)
        assert code == 4, path
        assert path.name in err or str(path.parent) in err
        path.write_bytes(good)


def test_two_files_that_changed_places_are_found(art_jax, run):
    # Of equal size, so that only the digests tell.
    files = [run / "retriever" / name for name in ("a.bin", "b.bin")]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 8)
    from art_jax import manifest

    manifest.write_manifest(run / "retriever", {"kind": "retriever"})
    assert art_jax("verify", run).code == 0
    one, two = (path.read_bytes() for path in files)
    files[0].write_bytes(two)
    files[1].write_bytes(one)
    code, _, err = art_jax("verify", run)
    assert code == 4
    assert "a.bin is damaged" in err


def test_an_index_of_another_run_is_found(art_jax, run):
    path = run / "index" / "manifest.json"
    from art_jax import manifest

    extra = json.loads(path.read_text())["extra"]
    manifest.write_manifest(run / "index", {**extra, "evidence_digest": "0" * 64})
    code, out, err = art_jax("verify", run)
    assert code == 4
    assert "made from other passages" in err
    assert "SWAPPED  run/index" in out


def test_an_ann_index_of_an_earlier_table_is_found(art_jax, run_with_ann, tmp_path):
    from art_jax import manifest

    run = tmp_path / "run"
    shutil.copytree(run_with_ann, run)
    (run / "evaluation" / "ann").mkdir(parents=True)  # what `evaluate --ann` writes
    code, out, _ = art_jax("verify", run)
    assert code == 0
    assert "good     run/ann" in out
    extra = manifest.read_manifest(run / "index")["extra"]
    manifest.write_manifest(run / "index", {**extra, "table_step": 99})
    code, out, err = art_jax("verify", run)
    assert code == 4
    assert "STALE    run/ann" in out
    assert f"`art-jax ann {run}`" in err
    shutil.rmtree(run / "ann")
    (run / "ann").mkdir()  # all its files are gone, its manifest too
    code, _, err = art_jax("verify", run)
    assert code == 4
    assert str(run / "ann" / "manifest.json") in err


def test_all_that_is_damaged_is_named_at_once(art_jax, run):
    for name in ("retriever/config.json", "evidence/text.utf8"):
        path = run / name
        path.write_bytes(path.read_bytes() + b" ")
    code, out, err = art_jax("verify", run)
    assert code == 4
    assert "retriever/config.json" in err
    assert "evidence/text.utf8" in err
    assert out.count("DAMAGED") == 2
    assert "good     run/index" in out


def test_what_a_kill_left_behind_is_not_looked_at(art_jax, run):
    (run / ".index.unfinished").mkdir()
    (run / ".index.unfinished" / "manifest.json").write_text("{")
    assert art_jax("verify", run).code == 0


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_has_no_manifest_ends_in_2(art_jax, tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    code, _, err = art_jax("verify", tmp_path / name)
    assert code == 2
    assert "is no folder" in err or "nothing with a manifest" in err
