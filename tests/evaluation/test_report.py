import sys

import numpy as np
import pytest

from art_jax.errors import ConfigError
from art_jax.evaluation import report


def test_a_table_shows_the_depths_that_were_measured():
    text = report.format_table(
        {
            "bm25": {"top_1_accuracy": 0.5, "top_2_accuracy": 0.6, "num_questions": 4},
            "  p": {"top_1_accuracy": 0.25},
            "art": {"top_1_accuracy": 0.625, "ndcg_at_10": 1.0},
        }
    )
    assert text.splitlines() == [
        "          top-1  ndcg@10",
        "bm25      0.500",
        "  p       0.250",
        "art       0.625    1.000",
    ]


def test_a_table_keeps_to_its_width():
    metrics = {f"a_long_measure_at_{k}": 0.5 for k in range(20)}
    lines = report.format_table({"x": metrics}).splitlines()
    assert max(map(len, lines)) <= 100
    assert "a_long_measure@0" in lines[0]


def test_the_mean_is_over_tasks_not_questions():
    metrics = {
        "a": {"map": 0.2, "mrr": 1.0, "num_questions": 10},
        "b": {"map": 0.4, "num_questions": 30},
    }
    got = report.mean_metrics(metrics)
    assert got == {"map": pytest.approx(0.3), "num_questions": 40}


def test_a_curve_by_hand_and_as_text():
    hits = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    curve = report.accuracy_curve(hits)
    assert curve.tolist() == [1 / 4, 2 / 4, 3 / 4]
    lines = report.format_curves({"nq": curve}).splitlines()
    assert lines[0] == "nq: top-k accuracy"
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert lines[2].endswith(" 0.500")
    assert lines[2].count("#") == 25


def test_a_picture_needs_its_package_and_its_name(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"must end in \.png"):
        report.check_plot(tmp_path / "x.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'art-jax\[plot\]'"):
        report.plot_curves({}, tmp_path / "x.png")


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "x.png"
    report.plot_curves({"nq": np.array([0.25, 0.5])}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(path.parent.iterdir())) == 1
