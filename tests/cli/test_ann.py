import json
import shutil
import sys

import pytest

from art_jax import manifest
from art_jax.cli import ann
from art_jax.errors import ConfigError


@pytest.fixture
def run(run_with_ann, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_with_ann, copy)
    return copy


def record(run):
    return manifest.read_manifest(run / "ann")["extra"]


def test_recall_and_speed_are_measured_and_kept(art_jax, run, corpus):
    code, out, _ = art_jax(
        *("ann", run, "--queries", corpus / "known.jsonl", "-k", 3),
        *("--brute_force_below", 0, "--partitions", 2, "--searched_partitions", 2),
    )
    assert code == 0
    assert "recall@3" in out
    assert "measured with 10 questions\n" in out
    assert "codes of 2 of 2 partitions" in out
    measured = record(run)["measured"]
    # Both partitions, and 12 of 30 rows scored exactly for each question.
    assert measured["recall"] > 0.8
    assert measured["queries_per_second"] > 0
    assert (measured["k"], measured["num_queries"]) == (3, 10)
    assert measured["queries_from"] == str(corpus / "known.jsonl")
    assert record(run)["settings"]["partitions"] == 2


def test_passages_stand_in_for_questions(art_jax, run):
    code, out, _ = art_jax("ann", run, "--num_queries", 7)
    assert code == 0
    assert "all 30 rows, so that none is missed" in out
    assert "measured with 7 passages' first words: give --queries" in out
    assert record(run)["measured"]["recall"] == 1.0
    assert record(run)["measured"]["k"] == 30  # of the 100 asked for


def test_too_few_looked_at_says_how_to_find_more(art_jax, run):
    code, out, _ = art_jax(
        *("ann", run, "--brute_force_below", 0, "--partitions", 5),
        *("--searched_partitions", 1, "-k", 20),
    )
    assert code == 0
    assert record(run)["measured"]["recall"] < 0.95
    assert "Higher --searched_partitions or --rescored find more" in out


def test_an_index_of_another_table_is_refused(art_jax, run):
    assert art_jax("embed", run, "--dtype", "float32").code == 0
    for verb in (["search", run, "food3"], ["evaluate", run, "--queries", "none"]):
        code, _, err = art_jax(*verb, "--ann")
        assert code == 2
        assert f"build it again with `art-jax ann {run}`" in err
    assert art_jax("search", run, "food3").code == 0
    assert art_jax("ann", run).code == 0
    code, out, _ = art_jax("search", run, "food3", "--ann", "--json")
    assert code == 0
    assert len([json.loads(line) for line in out.splitlines()]) == 5


def test_without_an_index_or_the_package_the_way_out_is_said(art_jax, run, monkeypatch):
    (run / "index").rename(run / "away")
    code, _, err = art_jax("ann", run)
    assert code == 2
    assert f"make one with `art-jax embed {run}`" in err
    for name in [name for name in sys.modules if name.split(".")[0] == "scann"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scann", None)
    code, _, err = art_jax("ann", run)
    assert code == 2
    assert "pip install 'art-jax[scann]'" in err


@pytest.mark.parametrize("flag", [("-k", 0), ("--num_queries", 0), ("--rescored", 0)])
def test_wrong_numbers_end_in_2(art_jax, run, flag):
    code, _, err = art_jax("ann", run, *flag)
    assert code == 2
    assert "at least 1" in err


def test_a_sample_is_in_order_and_repeats_nothing():
    rows = ann._sample(1000, 50)
    assert list(rows) == sorted(set(rows.tolist()))
    assert len(rows) == 50
    assert list(ann._sample(3, 50)) == [0, 1, 2]
    assert list(ann._sample(1000, 50)) == list(rows)


def test_settings_are_checked_before_anything_is_read(art_jax, tmp_path):
    code, _, err = art_jax("ann", tmp_path / "nowhere", "--partitions", -1)
    assert code == ConfigError.exit_code
    assert "partitions is -1" in err
