"""From training to reranking through the command line, and its parts."""

import json

import numpy as np
import pytest

from art_jax import partitioning
from art_jax.cli import rerank_trained
from art_jax.cli.rerank_trained import JointReranker, PointwiseReranker
from art_jax.data import example_files
from art_jax.data.tokenizers import load_wordpiece
from art_jax.errors import ConfigError
from art_jax.generation.tree import TreeRules
from art_jax.methods.ranked_table import build_ranked_table


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(nothing_compiled_twice):
    """As in all of tests/cli."""


@pytest.fixture(scope="module")
def jpr_run(tuned_jpr):
    return str(tuned_jpr / "gamma_1")


@pytest.fixture(scope="module")
def ranked(rankings):
    return list(example_files.read_examples(rankings / "t.json", "dpr-results"))


def read_ids(path):
    rows = json.loads(path.read_text())
    return [[one["id"] for one in row["ctxs"]] for row in rows]


def test_jpr_picks_from_the_command_line(art_jax, jpr_run, rankings, ranked, tmp_path):
    output = tmp_path / "jpr.json"
    arguments = ("rerank", rankings / "t.json", output, "--model", jpr_run)
    result = art_jax(*arguments, "--method", "jpr", "--beta", 2, 1, "-k", 3)
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["before", "beta", "2", "beta", "1"]
    table = {line[0]: line[1:] for line in lines[1:6]}
    assert {"mrecall_at_3", "multi_alpha_ndcg_at_3", "top_3_accuracy"} <= set(table)
    best = (
        "beta 2" if table["mrecall_at_3"][1] >= table["mrecall_at_3"][2] else "beta 1"
    )
    assert f"best by mrecall_at_3: {best}" in result.out
    assert result.out.count("depth of the trees:") == 2
    # What was written is what the better reranker gives, from Python too.
    rules = TreeRules(float(best[-1]))
    mesh = partitioning.make_mesh()
    reranker = JointReranker(jpr_run, "jpr", k=3, rules=rules)
    scores = list(reranker.score(ranked, mesh))
    want = [
        [one.candidates[place].passage.passage_id for place in np.argsort(-each)]
        for one, each in zip(ranked, scores, strict=True)
    ]
    assert read_ids(output) == want
    assert len(reranker.depths) == len(ranked)
    assert json.loads(output.read_text())[1]["answer_groups"] == [["apple"], ["pear"]]


def test_indeppr_scores_in_place_for_priors(
    art_jax, jpr_run, rankings, ranked, tmp_path
):
    output = tmp_path / "priors.json"
    result = art_jax(
        *("rerank", rankings / "t.json", output, "--method", "indeppr"),
        *("--model", jpr_run, "--keep_order"),
    )
    assert result.code == 0, result.err
    rows = json.loads(output.read_text())
    assert read_ids(output) == [
        [candidate.passage.passage_id for candidate in one.candidates] for one in ranked
    ]
    scores = np.array([[float(one["score"]) for one in row["ctxs"]] for row in rows])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)


def test_monot5_gives_the_same_however_passages_are_split(
    art_jax, trained_monot5, rankings, ranked, tmp_path
):
    output = tmp_path / "monot5.json"
    result = art_jax(
        *("rerank", rankings / "t.json", output, "--method", "monot5"),
        *("--model", trained_monot5, "-k", 3),
    )
    assert result.code == 0, result.err
    assert all(len(ids) == 3 for ids in read_ids(output))
    model, mesh = str(trained_monot5), partitioning.make_mesh()
    scores = [
        np.stack(list(PointwiseReranker(model, 8, size).score(ranked, mesh)))
        for size in (3, 32)
    ]
    assert scores[0].shape == (8, 4)
    np.testing.assert_allclose(*scores, rtol=1e-5)
    assert (scores[0] < 0).all()


def test_shards_of_a_run_are_the_run(art_jax, trained_monot5, rankings, tmp_path):
    arguments = ("--method", "monot5", "--model", trained_monot5, "--to", "trec-run")
    run, output = rankings / "t.json", tmp_path / "shards.trec"
    result = art_jax("rerank", run, output, *arguments, "--shard", "2/2")
    assert "shard 2 of 2 is done" in result.out
    assert not output.exists()
    result = art_jax("rerank", run, output, *arguments, "--shard", "1/2")
    assert "8 questions reranked" in result.out
    assert "mrecall_at_4" in result.out
    whole = tmp_path / "whole.trec"
    assert art_jax("rerank", run, whole, *arguments).code == 0
    assert output.read_text() == whole.read_text()


def test_a_model_of_another_method_is_refused(art_jax, jpr_run, rankings, tmp_path):
    output = tmp_path / "out.json"
    arguments = ("rerank", rankings / "t.json", output)
    result = art_jax(*arguments, "--method", "monot5", "--model", jpr_run)
    assert result.code == 2
    assert "was trained by Jpr, which --method monot5 cannot use: say" in result.err
    result = art_jax(*arguments, "--method", "jpr")
    assert "--method jpr needs --model" in result.err
    result = art_jax(*arguments, "--method", "jpr", "--model", tmp_path)
    assert "holds no T5 that was trained here" in result.err
    assert not output.exists()


def test_a_part_of_a_table_is_the_table_of_a_part(rankings, ranked):
    tokenizer = load_wordpiece(rankings / "vocab.txt")
    table = build_ranked_table(ranked, tokenizer)
    part = rerank_trained.take_questions(table, 3, 6)
    alone = build_ranked_table(ranked[3:6], tokenizer)
    for name in ("token_ids", "offsets", "title_lengths"):
        got, want = (getattr(one.questions, name) for one in (part, alone))
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(part.priors, alone.priors)
    assert part.rows.shape == (3, 4)
    with pytest.raises(ConfigError, match="holds no T5"):
        rerank_trained.joint_sizes(str(rankings))
