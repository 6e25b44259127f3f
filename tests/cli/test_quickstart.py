"""The quickstart on a small corpus and few steps: its report, and what it leaves."""

import json

import pytest

from art_jax.cli import main
from art_jax.data import documentation


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("quickstart")
    corpus = documentation.build_corpus(
        ["json", "logging", "inspect", "unittest", "argparse", "email"],
        standard_library=False,
        num_dev=10,
        num_test=20,
    )
    patch.setattr(documentation, "build_corpus", lambda: corpus)
    patch.delenv("ART_JAX_DATA_DIR", raising=False)
    # The quickstart sets it where it is not set; take that back afterwards.
    patch.setenv("ART_JAX_DATA_DIR", str(folder / "data"))
    code = main.main(
        [
            "quickstart",
            f"--model_dir={folder}",
            "--gin.WARM_UP_STEPS=2",
            "--gin.TRAIN_STEPS=2",
            "--gin_bindings=warm_up/stage.Stage.batch_size = 16",
            "--gin_bindings=art/stage.Stage.batch_size = 8",
            "--gin_bindings=bert.BertConfig.hidden_size = 32",
        ]
    )
    patch.undo()
    assert code == 0
    return folder, corpus, json.loads((folder / "results.json").read_text())


def test_results_have_what_the_readme_says(results):
    _, corpus, report = results
    assert report["corpus"]["passages"] == len(corpus.passages)
    assert report["queries"] == {"train": len(corpus.train), "dev": 10, "test": 20}
    assert set(report["top_k_accuracy"]) == {"bm25", "untrained", "art"}
    for accuracies in report["top_k_accuracy"].values():
        values = [accuracies[k] for k in ("1", "5", "20", "100")]
        assert values == sorted(values)
        assert 0 <= values[0] <= values[-1] <= 1
    assert report["top_k_accuracy"]["bm25"]["100"] > 0.5
    assert {"corpus", "warm_up", "art"} <= set(report["seconds"])
    assert "numpy" in report["versions"]


def test_what_is_left_can_be_searched(results, capsys):
    folder, _, _ = results
    assert main.main(["search", str(folder), "read a JSON document", "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["1", "2", "3"]


def test_it_leaves_for_sentence_transformers_with_what_it_scored(results):
    folder, _, report = results
    assert main.main(["export", str(folder), "--to", "sentence-transformers"]) == 0
    card = (folder / "exports" / "sentence-transformers" / "README.md").read_text()
    score = report["top_k_accuracy"]["art"]["20"]
    assert f"| top_20_accuracy (art_quickstart, test) | {score:.4g} |" in card
    assert main.main(["verify", str(folder)]) == 0
