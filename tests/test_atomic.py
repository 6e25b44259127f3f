"""A folder or file is there whole or not at all, whenever a kill comes."""

import pytest

from art_jax import atomic
from art_jax.errors import ConfigError


def fill(path, text):
    (atomic.new_directory(path) / "file").write_text(text)


def test_a_folder_appears_when_it_is_finished(tmp_path):
    path = tmp_path / "index"
    fill(path, "one")
    assert not path.exists()
    atomic.finish_directory(path)
    fill(path, "two")
    assert (path / "file").read_text() == "one"
    atomic.finish_directory(path)
    assert (path / "file").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_an_error_while_a_folder_is_built_leaves_nothing(tmp_path):
    path = tmp_path / "index"
    with atomic.building_directory(path) as folder:
        (folder / "file").write_text("one")
        assert not path.exists()
    assert (path / "file").read_text() == "one"

    def fail():
        with atomic.building_directory(path) as folder:
            (folder / "file").write_text("two")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (path / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_kill_between_the_moves_is_undone(tmp_path):
    path = tmp_path / "index"
    fill(path, "one")
    atomic.finish_directory(path)
    path.replace(tmp_path / ".index.replaced")
    atomic.recover_directory(path)
    assert (path / "file").read_text() == "one"
    atomic.recover_directory(path)
    assert (path / "file").read_text() == "one"


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    path = tmp_path / "index"
    fill(path, "half")
    folder = atomic.new_directory(path)
    assert list(folder.iterdir()) == []


def test_text_replaces_text(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_text(path, "1")
    atomic.write_text(path, "é")
    assert path.read_text(encoding="utf-8") == "é"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_removal(tmp_path):
    path = tmp_path / "old"
    path.mkdir()
    atomic.remove_directory(path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic.new_file(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    with atomic.new_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_two_do_not_build_the_same_folder_at_once(tmp_path):
    path = tmp_path / "index"
    with (
        atomic.building_directory(path) as folder,
        pytest.raises(ConfigError, match="another process is building .*index"),
        atomic.building_directory(path),
    ):
        pass
    (folder.with_name("index") / "file").write_text("one")
    with atomic.building_directory(path):
        pass
    assert list(path.iterdir()) == []


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    with atomic.building_directory(tmp_path / "index"):
        pass
    assert (tmp_path / "index").is_dir()


def test_a_folder_is_cleared_links_and_all(tmp_path):
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("one")
    (tmp_path / "full" / "link").symlink_to(tmp_path / "kept")
    atomic.clear_directory(tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []
    assert (tmp_path / "kept" / "file").exists()
