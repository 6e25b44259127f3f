"""What all trainings do with their folder."""

import json

import numpy as np
import pytest

from art_jax import partitioning
from art_jax.cli import run_folder
from art_jax.errors import ConfigError


def test_a_folder_of_something_else_is_no_model_dir(tmp_path):
    run_folder.check_model_dir(tmp_path / "new")
    run_folder.check_model_dir(tmp_path)
    (tmp_path / "evidence").mkdir()
    (tmp_path / ".hidden").touch()
    run_folder.check_model_dir(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds 'thesis\.tex' and no run"):
        run_folder.check_model_dir(tmp_path)
    with pytest.raises(ConfigError, match="is a file: give a folder"):
        run_folder.check_model_dir(tmp_path / "thesis.tex")
    (tmp_path / "env.json").touch()
    run_folder.check_model_dir(tmp_path)


def test_a_clock_adds_up_parts():
    clock = run_folder.Clock()
    for name in ("a", "b", "a"):
        clock.lap(name)
    assert sorted(clock.seconds) == ["a", "b"]
    assert all(seconds >= 0 for seconds in clock.seconds.values())


def test_settings_that_changed_are_told():
    before = "# Of x:\nx.learning_rate = 0.001\nx.name = \\\n    'a'\n\nSEED = 0\n"
    after = "# Of y:\nx.learning_rate = 0.002\nx.name = \\\n    'a'\nSEED = 0\n"
    found = run_folder.changed_settings(before, after)
    assert found == ["- x.learning_rate = 0.001", "+ x.learning_rate = 0.002"]
    assert run_folder.changed_settings(before, before) == []


def test_facts_name_every_parameter(tmp_path):
    whole = partitioning.replicated(partitioning.make_mesh(2))
    kernel = partitioning.put_global(np.ones((2, 3), np.float32), whole)
    run_folder.write_facts(tmp_path / "run", {"layer": {"kernel": kernel}})
    lines = (tmp_path / "run" / "model-info.txt").read_text().splitlines()
    assert lines[0].startswith("Variable layer/kernel size 6 shape (2, 3) ")
    assert lines[1] == "Total number of parameters: 6"
    assert "jax" in json.loads((tmp_path / "run" / "env.json").read_text())["packages"]
