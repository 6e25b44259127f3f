"""`art-jax tune`: one table of noise and length penalties, and the best of them."""

import json

import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(nothing_compiled_twice):
    """As in all of tests/cli."""


def arguments(rankings, model_dir, *more, gin_file="small_jpr.gin"):
    flags = {
        "MODEL_DIR": model_dir,
        "TRAIN_RANKINGS": rankings / "t.json",
        "VOCABULARY": rankings / "vocab.txt",
    }
    given = [f"--gin.{name}='{value}'" for name, value in flags.items()]
    return ["tune", f"--gin_file=tests/cli/{gin_file}", *given, *more]


def test_each_pair_is_measured_and_the_best_is_named(tuned_jpr):
    record = json.loads((tuned_jpr / "tuning.json").read_text())
    assert record["measure"] == "mrecall_at_2"
    pairs = [(one["gamma"], one["beta"]) for one in record["results"]]
    assert pairs == [(0, 2), (0, 1), (1, 2), (1, 1)]
    recalls = [one["mrecall_at_2"] for one in record["results"]]
    best = pairs[recalls.index(max(recalls))]
    assert record["best"] == {"gamma": best[0], "beta": best[1]}
    settings = json.loads((tuned_jpr / "gamma_1/t5/config.json").read_text())
    assert settings["settings"]["rules"]["gamma"] == 1


def test_what_is_done_is_not_done_again(art_jax, tuned_jpr, rankings):
    def written():
        return {
            path: path.stat().st_mtime_ns
            for path in tuned_jpr.rglob("*")
            if path.is_file() and "checkpoints" in path.parts or "dev_beta" in path.name
        }

    before = written()
    assert sum("dev_beta" in path.name for path in before) == 4
    flags = ["--gamma", 1, "--beta", 1, 2, "--gin.GAMMA=0"]
    result = art_jax(*arguments(rankings, tuned_jpr, *flags))
    assert result.code == 0, result.err
    assert "finished before, at step 1" in result.err
    assert "reranked" not in result.err
    assert written() == before
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][:3] == ["gamma", "beta", "mrecall_at_2"]
    assert [line[:2] for line in lines[2:4]] == [["1", "1"], ["1", "2"]]
    assert lines[1][0] == "before"
    assert f"--model {tuned_jpr}/gamma_1" in result.out


@pytest.mark.parametrize(
    ("more", "gin_file", "message"),
    [
        (["--beta", "-1"], "small_jpr.gin", "--beta is [-1.0]: 0 or more each"),
        ([], "small_t5.gin", "nothing reads the macro GAMMA"),
        ([], "small_run.gin", "macro"),
    ],
)
def test_what_cannot_be_tuned_is_told(
    art_jax, rankings, tmp_path, more, gin_file, message
):
    flags = [*more, "--gin.GAMMA=0"]
    result = art_jax(*arguments(rankings, tmp_path / "run", *flags, gin_file=gin_file))
    assert result.code == 2
    assert message in result.err
