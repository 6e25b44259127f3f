"""Manifests: whatever happens to a saved directory, the file is named."""

import json
import random

import pytest

from art_jax import manifest
from art_jax.errors import CorruptError


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "saved"
    (directory / "inner").mkdir(parents=True)
    (directory / "a.bin").write_bytes(bytes(range(256)))
    (directory / "inner" / "b.bin").write_bytes(b"0123456789")
    (directory / "empty").write_bytes(b"")
    manifest.write_manifest(directory, {"step": 7, "ids": (1, 2)})
    return directory


def test_an_untouched_directory_verifies_and_gives_back_what_was_recorded(saved):
    found = manifest.verify_manifest(saved)
    assert found == manifest.read_manifest(saved)
    assert found["extra"] == {"step": 7, "ids": [1, 2]}
    assert found["files"].keys() == {"a.bin", "inner/b.bin", "empty"}
    # echo -n 0123456789 | sha256sum (coreutils 9.1)
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    assert found["files"]["inner/b.bin"] == {"bytes": 10, "sha256": digest}


def test_what_is_returned_is_what_is_read(saved):
    written = manifest.write_manifest(saved, {"ids": (1, 2)})
    assert written == manifest.read_manifest(saved)


def test_every_flipped_bit_is_found_and_the_file_named(saved):
    files = ["a.bin", "inner/b.bin", "manifest.json"]
    chooser = random.Random(0)
    for trial in range(60):
        path = saved / files[trial % len(files)]
        before = path.read_bytes()
        place = chooser.randrange(len(before) * 8)
        damaged = bytearray(before)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        # White space between JSON's tokens says nothing, whatever it is.
        if path.name != "manifest.json" or not _same_json(before, bytes(damaged)):
            with pytest.raises(CorruptError, match=path.name):
                manifest.verify_manifest(saved)
        path.write_bytes(before)
    manifest.verify_manifest(saved)


def _same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("check_digests", [True, False])
def test_missing_additional_and_cut_files_are_named(saved, check_digests):
    verify = manifest.verify_manifest
    (saved / "inner" / "b.bin").rename(saved / "inner" / "c.bin")
    with pytest.raises(CorruptError, match=r"inner/b\.bin is missing"):
        verify(saved, check_digests=check_digests)
    (saved / "inner" / "c.bin").rename(saved / "inner" / "b.bin")
    (saved / "inner" / "more").write_bytes(b"")
    with pytest.raises(CorruptError, match="inner/more does not belong"):
        verify(saved, check_digests=check_digests)
    (saved / "inner" / "more").unlink()
    (saved / "a.bin").write_bytes(bytes(255))
    with pytest.raises(CorruptError, match=r"a\.bin has 255 bytes instead of 256"):
        verify(saved, check_digests=check_digests)


def test_sizes_alone_do_not_see_a_flipped_bit(saved):
    (saved / "a.bin").write_bytes(bytes(256))
    manifest.verify_manifest(saved, check_digests=False)
    with pytest.raises(CorruptError, match=r"a\.bin is damaged"):
        manifest.verify_manifest(saved)


def test_two_files_swapped_are_found(saved):
    (saved / "c.bin").write_bytes(bytes(10))
    manifest.write_manifest(saved, {})
    content = (saved / "inner" / "b.bin").read_bytes()
    (saved / "inner" / "b.bin").write_bytes((saved / "c.bin").read_bytes())
    (saved / "c.bin").write_bytes(content)
    with pytest.raises(CorruptError, match="is damaged"):
        manifest.verify_manifest(saved)


def test_a_directory_without_a_manifest_was_never_finished(tmp_path):
    with pytest.raises(CorruptError, match=r"manifest\.json is missing"):
        manifest.verify_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"sha256": 3}', '{"format": "x"}', "\ud800"]
)
def test_a_manifest_that_is_not_one_is_damaged(saved, text):
    (saved / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CorruptError, match=r"manifest\.json"):
        manifest.read_manifest(saved)


def test_a_later_version_is_refused_by_number(saved, monkeypatch):
    monkeypatch.setattr(manifest, "_VERSION", 2)
    manifest.write_manifest(saved, {})
    monkeypatch.undo()
    with pytest.raises(CorruptError, match="has version 2; this art_jax reads 1"):
        manifest.read_manifest(saved)


def test_a_name_that_leads_outside_is_never_opened(saved):
    outside = saved.parent / "outside"
    outside.write_bytes(b"secret")
    manifest.write_manifest(saved, {})
    found = json.loads((saved / "manifest.json").read_text())
    found["files"]["../outside"] = {"bytes": 6, "sha256": manifest.file_sha256(outside)}
    body = {key: value for key, value in found.items() if key != "sha256"}
    found["sha256"] = manifest._digest(body)
    (saved / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(CorruptError, match="outside is missing"):
        manifest.verify_manifest(saved)
