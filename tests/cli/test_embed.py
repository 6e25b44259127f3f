import json
import shutil

import pytest

from art_jax.cli import embed
from art_jax.errors import PreemptedError
from art_jax.index import embed as embedding
from art_jax.index import table as table_module


def found_ids(art_jax, run):
    code, out, _ = art_jax("search", run, "food3", "-k", 5, "--json")
    assert code == 0
    return [json.loads(line)["id"] for line in out.splitlines()]


def test_its_own_passages_embedded_again_are_found_alike(
    art_jax, finished_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "index")
    code, out, _ = art_jax("embed", run, "--dtype", "bfloat16")
    assert code == 0
    assert "30 passages embedded" in out
    assert found_ids(art_jax, run) == found_ids(art_jax, finished_run)


def test_other_passages_go_to_a_folder_of_their_own(art_jax, finished_run, tmp_path):
    passages, target = tmp_path / "new.txt", tmp_path / "new"
    passages.write_text("a heron eats food3\nan otter sleeps\n")
    code, out, _ = art_jax(
        "embed", finished_run, "--passages", passages, "--output_dir", target
    )
    assert code == 0
    assert "2 passages embedded" in out
    assert sorted(found_ids(art_jax, target)) == ["1", "2"]
    assert len(found_ids(art_jax, finished_run)) == 5


@pytest.mark.parametrize("bad", [b"good\n\xff\xfe\n", b"good\n\nbad\n", b""])
def test_bad_passages_end_in_3_and_mended_ones_are_embedded(
    art_jax, finished_run, tmp_path, bad
):
    passages, target = tmp_path / "new.txt", tmp_path / "new"
    passages.write_bytes(bad)
    command = ["embed", finished_run, "--passages", passages, "--output_dir", target]
    code, _, err = art_jax(*command)
    assert code == 3
    assert str(passages) in err
    assert not (target / "index").exists()
    passages.write_text("good\nbetter\n")
    assert art_jax(*command).code == 0
    assert sorted(found_ids(art_jax, target)) == ["1", "2"]


def test_a_folder_that_holds_something_is_left_alone(art_jax, finished_run, tmp_path):
    passages = tmp_path / "new.txt"
    passages.write_text("a text\n")
    code, _, err = art_jax(
        "embed", finished_run, "--passages", passages, "--output_dir", tmp_path
    )
    assert code == 2
    assert f"{tmp_path} is not empty: give a new folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]


def test_a_killed_embed_goes_on(art_jax, finished_run, tmp_path, monkeypatch):
    passages, target = tmp_path / "new.txt", tmp_path / "new"
    lines = [f"passage {n} about food{n}\n" for n in range(64)]
    passages.write_text("".join(lines))
    command = ["embed", finished_run, "--passages", passages, "--output_dir", target]
    monkeypatch.setattr(embedding, "default_chunk_tokens", lambda: 16)
    unfinished = target / embed.UNFINISHED
    written = []

    def stop_once_a_part_is_there():
        if written.extend(unfinished.glob("*/00*")) or written:
            raise PreemptedError("stopped by a test")

    with monkeypatch.context() as patched:
        patched.setattr(embed.preemption, "poll", stop_once_a_part_is_there)
        assert art_jax(*command).code == PreemptedError.exit_code
    assert not (target / "index").exists()
    times = [path.stat().st_mtime_ns for path in written]

    def save_table(table, directory):
        # The second time nothing was made that was there.
        assert [path.stat().st_mtime_ns for path in written] == times
        table_module.save_table(table, directory)

    monkeypatch.setattr(embed, "save_table", save_table)
    code, out, _ = art_jax(*command)
    assert code == 0
    assert "64 passages embedded" in out
    assert len(found_ids(art_jax, target)) == 5
    assert not unfinished.exists()
    # What is finished is not to be written over.
    assert art_jax(*command).code == 2
