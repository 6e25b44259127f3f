import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.cli.data import FORMATS
from art_jax.data import convert
from art_jax.data.convert import Beside
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage, write_passages
from art_jax.data.questions import Question, write_questions

CORPUS = '{"_id": "1", "title": "T", "text": "one"}\n{"_id": "2", "text": "two"}\n'


def test_a_good_file_is_described(art_jax, corpus):
    code, out, err = art_jax("data", "check", corpus / "p.tsv")
    assert (code, err) == (0, "")
    assert "30" in out


def test_a_bad_file_ends_in_3_with_its_problems_listed(art_jax, tmp_path):
    path = tmp_path / "p.tsv"
    path.write_bytes(b"id\ttext\ttitle\n1\tsome text\ta\n1\tmore text\tb\n2\t\tc\n")
    code, out, err = art_jax("data", "check", path)
    assert code == 3
    assert f"{path}:3" in out or "3" in out
    assert f"art-jax: error: {path}: 2 problems would stop a reader" in err


def test_a_file_that_is_not_there_ends_in_3(art_jax, tmp_path):
    code, _, err = art_jax("data", "check", tmp_path / "nowhere.tsv")
    assert code == 3
    assert "nowhere.tsv" in err


def test_a_folder_of_beir_is_checked_file_by_file(art_jax, tmp_path):
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "who?"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\t1\t1\nq\t9\t1\n")
    code, out, err = art_jax("data", "check", tmp_path)
    assert code == 3
    assert "2 passages (beir-corpus)" in out
    assert "line 2: the passage '9' is not in the folder's file" in out
    assert "1 problems would stop a reader" in err


def test_the_format_of_a_file_can_be_given(art_jax, tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    code, out, _ = art_jax(
        "data", "check", tmp_path / "a.txt", "--format", "text-questions"
    )
    assert code == 0
    assert "1 questions (text-questions)" in out


def test_a_run_is_checked_up_to_its_first_fault(art_jax, tmp_path):
    path = tmp_path / "bm25.run"
    path.write_text("q Q0 a 1 2 t\nq Q0 b 2 1 t\nr Q0 a 1 2 t\n")
    code, out, _ = art_jax("data", "check", path)
    assert code == 0
    assert "2 ranked passages (trec-run)" in out
    assert "candidates: least 1, 10 % 1, median 1, 90 % 2" in out
    path.write_text("q Q0 a 1 2 t\nq Q0 b 1 1 t\n")
    code, out, _ = art_jax("data", "check", path)
    assert code == 3
    assert "line 2: rank '1' where 2 is due" in out


def test_formats_are_guessed_and_said(art_jax, tmp_path):
    (tmp_path / "c.jsonl").write_text(CORPUS)
    target = tmp_path / "p.tsv"
    code, out, err = art_jax("data", "convert", tmp_path / "c.jsonl", target)
    assert code == 0
    assert out == f"{target}: 2 passages\n"
    assert "c.jsonl as beir-corpus" in err
    assert "p.tsv as dpr-passages" in err
    assert "not kept" not in err
    assert target.read_text() == "id\ttext\ttitle\n1\tone\tT\n2\ttwo\t\n"


def test_losses_are_said_on_stderr(art_jax, tmp_path):
    (tmp_path / "c.jsonl").write_text(CORPUS)
    target = tmp_path / "p.txt"
    code, out, err = art_jax("data", "convert", tmp_path / "c.jsonl", target)
    assert (code, out) == (0, f"{target}: 2 passages\n")
    assert "not kept by text-passages: titles (1 of 2 rows)" in err
    assert target.read_text() == "T one\ntwo\n"


def test_what_is_there_stays_unless_told(art_jax, tmp_path):
    (tmp_path / "c.jsonl").write_text(CORPUS)
    target = tmp_path / "p.tsv"
    target.write_text("mine")
    code, _, err = art_jax("data", "convert", tmp_path / "c.jsonl", target)
    assert code == 2
    assert "p.tsv is there" in err
    assert target.read_text() == "mine"
    arguments = ("data", "convert", tmp_path / "c.jsonl", target, "--overwrite")
    assert art_jax(*arguments).code == 0
    assert "one" in target.read_text()


def test_what_is_not_certain_is_asked_for(art_jax, tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("words\n")
    code, _, err = art_jax("data", "convert", source, tmp_path / "b.tsv")
    assert code == 2
    assert "text-passages or text-questions): give --from" in err
    # The other format says which of them it is.
    target = tmp_path / "b.jsonl"
    code, _, err = art_jax("data", "convert", "--to", "beir-queries", source, target)
    assert code == 0
    assert "a.txt as text-questions" in err
    code, _, err = art_jax(
        "data", "convert", "--from", "nosuch", source, target, "--overwrite"
    )
    assert code == 2
    assert "no format 'nosuch'" in err


def test_a_run_goes_to_results_and_back(art_jax, tmp_path):
    (tmp_path / "c.jsonl").write_text(CORPUS)
    (tmp_path / "q.jsonl").write_text(
        '{"_id": "q", "text": "who?", "answers": ["x"]}\n'
    )
    run = tmp_path / "bm25.trec"
    run.write_text("q Q0 2 1 1.5 bm25\nq Q0 1 2 0.25 bm25\n")
    beside = ("--passages", tmp_path / "c.jsonl", "--queries", tmp_path / "q.jsonl")
    results = tmp_path / "bm25.json"
    code, _, err = art_jax(
        "data", "convert", "--to", "dpr-results", run, results, *beside
    )
    assert code == 0, err
    (record,) = json.loads(results.read_text())
    assert record["answers"] == ["x"]
    assert [c["text"] for c in record["ctxs"]] == ["two", "one"]
    assert [c["score"] for c in record["ctxs"]] == ["1.5", "0.25"]
    for name in ("fid", "pyserini", "dpr-results"):
        other, back = tmp_path / f"{name}.json", tmp_path / f"{name}.trec"
        arguments = ("--to", name, run, other, *beside, "--overwrite")
        assert art_jax("data", "convert", *arguments).code == 0
        code, _, err = art_jax("data", "convert", other, back)
        assert code == 0, err
        assert back.read_text() == run.read_text().replace("bm25", "art_jax")


PASSAGES = [Passage(f"p{n}", f"text {n}", "T" * (n % 2)) for n in range(5)]
QUESTIONS = [Question(f"q{n}", f"question {n}?", ("a",) * n) for n in range(3)]


@st.composite
def rankings(draw, question):
    """Questions with passages as a search finds them: each once, scores falling."""
    found = draw(st.lists(st.sampled_from(PASSAGES), min_size=1, unique=True))
    scores = draw(
        st.lists(st.floats(-1e3, 1e3), min_size=len(found), max_size=len(found))
    )
    has_scores, flag = draw(st.booleans()), draw(st.none() | st.booleans())
    candidates = [
        Candidate(passage, score if has_scores else None, flag)
        for passage, score in zip(found, sorted(scores, reverse=True), strict=True)
    ]
    return RankedQuestion(question, tuple(candidates), draw(st.sampled_from(["", "a"])))


@pytest.mark.parametrize("name", ["dpr-results", "fid", "pyserini", "trec-run"])
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_runs_hold_ids_and_scores(tmp_path_factory, name, data):
    asked = data.draw(st.sampled_from([QUESTIONS, QUESTIONS[1:]]))
    rows = [data.draw(rankings(question)) for question in asked]
    folder = tmp_path_factory.mktemp("run")
    write_passages(folder / "p.tsv", PASSAGES)
    write_questions(folder / "q.jsonl", QUESTIONS)
    beside = Beside(folder / "p.tsv", folder / "q.jsonl")
    other, run = FORMATS[name], FORMATS["trec-run"]
    source = folder / f"source{other.suffixes[0]}"
    between = [other.keep(row, place) for place, row in enumerate(rows, 1)]
    other.write(source, between, beside)
    convert.convert(source, folder / "a.trec", other, run, beside)
    want = [run.keep(row, place) for place, row in enumerate(between, 1)]
    assert list(run.read(folder / "a.trec", beside)) == want
    # And back: a run's scores are those of the ranking.
    back = folder / f"back{other.suffixes[0]}"
    convert.convert(folder / "a.trec", back, run, other, beside)
    assert list(other.read(back, beside)) == want


def test_a_run_without_scores_is_ranked(art_jax, tmp_path):
    contexts = [{"id": "b", "text": "x"}, {"id": "a", "text": "y"}]
    source = tmp_path / "r.json"
    source.write_text(json.dumps([{"id": "q", "question": "who?", "ctxs": contexts}]))
    code, _, err = art_jax("data", "convert", source, tmp_path / "r.trec")
    assert code == 0
    assert "scores (1 of 1 rows)" in err
    assert (tmp_path / "r.trec").read_text() == (
        "q Q0 b 1 -1 art_jax\nq Q0 a 2 -2 art_jax\n"
    )


def test_a_folder_of_beir_and_back(art_jax, tmp_path):
    context = {"title": "T", "text": "x", "passage_id": "1"}
    record = {"id": "q", "question": "who?", "positive_ctxs": [context]}
    source, folder = tmp_path / "train.json", tmp_path / "set"
    source.write_text(json.dumps([record]))
    assert art_jax("data", "convert", source, folder, "--split", "dev").code == 0
    assert (folder / "qrels" / "dev.tsv").is_file()
    code, out, _ = art_jax("data", "convert", folder, tmp_path / "back.json")
    assert (code, out) == (0, f"{tmp_path / 'back.json'}: 1 training examples\n")
    (back,) = json.loads((tmp_path / "back.json").read_text())
    assert back["positive_ctxs"] == [context]


def test_patterns_become_sets_of_answers(art_jax, tmp_path):
    (tmp_path / "q.csv").write_text("who?\t['Ann|Bob']\nwhat?\t['nothing']\n")
    (tmp_path / "p.tsv").write_text("1\tbob and ann\tT\n2\tBOB\tT\n")
    target = tmp_path / "sets.jsonl"
    arguments = ("data", "answer-sets", tmp_path / "q.csv", tmp_path / "p.tsv", target)
    code, out, _ = art_jax(*arguments)
    assert (code, out) == (0, f"{target}: 1 of 2 questions have answers\n")
    record = json.loads(target.read_text())
    assert record["answer_groups"] == [["bob"], ["ann"]]
    assert art_jax(*arguments).code == 2


def test_formats_and_tasks_are_listed(art_jax):
    code, out, _ = art_jax("data", "formats")
    assert (code, "`trec-run`" in out) == (0, True)
    code, out, _ = art_jax("data", "tasks")
    assert (code, "`biencoder_nq`" in out) == (0, True)
