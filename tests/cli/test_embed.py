import json
import shutil

import pytest


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
