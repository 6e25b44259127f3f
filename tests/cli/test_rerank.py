import argparse
import dataclasses
import json

import numpy as np
import pytest

from art_jax.cli import ranked_files, rerank
from art_jax.cli.main import build_parser, main
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError

PASSAGES = {
    "p1": Passage("p1", "The heron wades in the marsh.", "Heron"),
    "p2": Passage("p2", "The otter swims in the river.", "Otter"),
    "p3": Passage("p3", "Granite is hard.", ""),
}


def ranked(name, text, ids, answers=(), marks=None):
    marks = marks or [None] * len(ids)
    candidates = tuple(
        Candidate(PASSAGES[one], float(9 - rank), mark)
        for rank, (one, mark) in enumerate(zip(ids, marks, strict=True))
    )
    return RankedQuestion(Question(name, text, answers), candidates)


RANKED = [
    ranked("a", "who swims in the river", ["p1", "p3", "p2"], ("otter",)),
    ranked("b", "what is hard", ["p2", "p3"], ("granite",)),
]


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "bm25.json"
    ranked_files.write_rankings(path, RANKED, "dpr-results", tag="x")
    return path


def rerank_file(run_file, output, *options):
    arguments = ["rerank", str(run_file), str(output), "--mu", "10", *options]
    return main(arguments)


def test_the_passages_that_make_the_question_come_first(run_file, tmp_path, capsys):
    output = tmp_path / "upr.json"
    assert rerank_file(run_file, output) == 0
    found = json.loads(output.read_text())
    assert [[one["id"] for one in row["ctxs"]] for row in found] == [
        ["p2", "p1", "p3"],
        ["p3", "p2"],
    ]
    # Answers were looked for, and what was found is kept.
    assert [one["has_answer"] for one in found[0]["ctxs"]] == [True, False, False]
    assert found[0]["answers"] == ["otter"]
    scores = [float(one["score"]) for one in found[0]["ctxs"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 > scores[0] > scores[1]
    lines = capsys.readouterr()
    table = [line.split() for line in lines.out.splitlines()[:3]]
    assert table == [["top-1"], ["before", "0.000"], ["upr", "1.000"]]
    assert "2 questions reranked" in lines.out
    assert "reranked 2 questions in" in lines.err


def test_a_run_may_leave_in_another_format_and_be_shorter(run_file, tmp_path):
    output = tmp_path / "upr.trec"
    options = ("--to", "trec-run", "-k", "2", "--aggregate", "mean")
    assert rerank_file(run_file, output, *options) == 0
    lines = [line.split() for line in output.read_text().splitlines()]
    assert [(line[0], line[2], line[3], line[5]) for line in lines] == [
        ("a", "p1", "1", "art_jax_upr"),
        ("a", "p3", "2", "art_jax_upr"),
        ("b", "p3", "1", "art_jax_upr"),
        ("b", "p2", "2", "art_jax_upr"),
    ]


def test_a_trec_run_is_reranked_with_texts_and_judgments(run_file, tmp_path, capsys):
    trec = tmp_path / "r.trec"
    ranked_files.write_rankings(trec, RANKED, "trec-run", tag="x")
    questions = [
        {"_id": one.question.question_id, "text": one.question.text} for one in RANKED
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    rows = [
        "\t".join((one.passage_id, one.text, one.title)) for one in PASSAGES.values()
    ]
    (tmp_path / "p.tsv").write_text("\n".join(rows))
    (tmp_path / "qrels").write_text("a 0 p2 1\nb 0 p2 1\n")
    output = tmp_path / "out.trec"
    texts = [
        "--queries",
        str(tmp_path / "q.jsonl"),
        "--passages",
        str(tmp_path / "p.tsv"),
    ]
    assert rerank_file(trec, output, *texts, "--qrels", str(tmp_path / "qrels")) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[:3]]
    assert table == [["top-1"], ["before", "0.500"], ["upr", "0.500"]]
    first = output.read_text().splitlines()[0].split()
    assert first[:4] == ["a", "Q0", "p2", "1"]
    # Without judgments or answers nothing is measured.
    assert rerank_file(trec, output, *texts) == 0
    assert "top-1" not in capsys.readouterr().out


def test_scores_are_kept_for_a_run_that_goes_on(run_file, tmp_path):
    cache = tmp_path / "scores"
    for name in ("first", "second"):
        assert rerank_file(run_file, tmp_path / name, "--cache_dir", str(cache)) == 0
    assert len(list(cache.glob("scores_*.bin"))) == 1
    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "0"], "-k is 0"),
        (["--teacher", "nowhere"], "nowhere does not exist"),
        (["--from", "trec-run"], "fields where a run has six"),
    ],
)
def test_mistakes_are_told_before_any_work(
    options, message, run_file, tmp_path, capsys
):
    texts = ["--queries", str(run_file), "--passages", str(run_file)]
    code = rerank_file(run_file, tmp_path / "out", *options, *texts)
    assert code in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_told_before_any_work(run_file, capsys):
    assert rerank_file(run_file, run_file.parent / "nowhere" / "out") == 2
    assert "no folder to write" in capsys.readouterr().err


def test_of_equal_scores_the_first_stays_first():
    scores = np.array([1.0, 3.0, 1.0, 3.0, -np.inf], np.float32)
    np.testing.assert_array_equal(rerank.best_first(scores), [1, 3, 0, 2, 4])


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(ConfigError, match="--dtype float32"):
        rerank.best_first(np.array([1.0, np.nan]))


def test_options_choose_prompts_and_their_texts(monkeypatch):
    parse = build_parser().parse_args
    opened = argparse.Namespace(config=None)
    monkeypatch.setattr(rerank.formats, "open_t5", lambda path, dtype: opened)
    arguments = ["rerank", "in", "out", "--teacher", "t0", "--instruction", " Ask."]
    method = rerank.make_upr(parse([*arguments, "--question_mark", "add"]))["upr"]
    assert method.whole_prompt.text(PASSAGES["p3"]) == (
        "Passage:   Granite is hard..  Ask."
    )
    assert method.add_question_mark
    assert (method.aggregate, method.cache_dir) == ("sum", None)
    art = rerank.make_upr(parse([*arguments, "--prompt", "art"]))["upr"]
    assert art.whole_prompt is None
    assert art.teacher.prompt.instruction == " Ask."
    assert art.teacher.prompt.head == "Passage: "
    assert not art.add_question_mark


def test_monot5_needs_a_model(run_file, tmp_path, capsys):
    assert rerank_file(run_file, tmp_path / "out", "--method", "monot5") == 2
    assert "monot5 needs --teacher FOLDER" in capsys.readouterr().err


def test_every_method_of_the_command_line_is_there():
    parser = build_parser()
    for name in rerank.METHODS:
        parser.parse_args(["rerank", "in", "out", "--method", name])
    with pytest.raises(SystemExit):
        parser.parse_args(["rerank", "in", "out", "--method", "none"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depth", "0"], "--depth is 0"),
        (["--beta", "2"], "--beta is of TreeDecode"),
        (["--shard", "1/2"], "--shard is for methods that score each passage alone"),
        (["--method", "indeppr"], "--method indeppr needs --model"),
        (["--method", "mmr", "--cache_dir", "x"], "--cache_dir keeps the scores of a"),
        (["--keep_order", "--to", "trec-run"], "--keep_order leaves scores out of"),
    ],
)
def test_options_that_do_not_fit_are_told(options, message, run_file, tmp_path, capsys):
    assert rerank_file(run_file, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_questions_with_several_answers_are_measured_by_seqio(tmp_path, capsys):
    groups = (("otter",), ("heron",))
    (one, _) = RANKED
    question = dataclasses.replace(
        one.question, answers=("otter", "heron"), answer_groups=groups
    )
    path = tmp_path / "several.json"
    several = [dataclasses.replace(one, question=question)]
    ranked_files.write_rankings(path, several, "dpr-results", tag="x")
    assert rerank_file(path, tmp_path / "mmr.json", "--method", "mmr") == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["before", "mmr"]
    assert table[1][0] == "mrecall_at_3"
    found = json.loads((tmp_path / "mmr.json").read_text())
    assert found[0]["answer_groups"] == [["otter"], ["heron"]]


def test_passages_may_stay_where_they_are_with_new_scores(run_file, tmp_path):
    for name, options in (("turned", ()), ("kept", ("--keep_order",))):
        assert rerank_file(run_file, tmp_path / name, *options) == 0
    turned, kept = (
        json.loads((tmp_path / name).read_text())[0]["ctxs"]
        for name in ("turned", "kept")
    )
    assert [one["id"] for one in kept] == ["p1", "p3", "p2"]
    assert {one["id"]: one["score"] for one in kept} == {
        one["id"]: one["score"] for one in turned
    }
