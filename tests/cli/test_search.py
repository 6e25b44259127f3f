import json
import shutil

import pytest

from art_jax.data.passages import read_passages
from art_jax.evaluation.runs import read_run


def test_a_question_gives_rank_score_title_and_snippet(art_jax, finished_run):
    code, out, _ = art_jax("search", finished_run, "who eats food3", "-k", 3)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 6
    scores = []
    for rank, (head, snippet) in enumerate(
        zip(lines[::2], lines[1::2], strict=True), start=1
    ):
        number, score, title = head.split(maxsplit=2)
        assert number == str(rank)
        scores.append(float(score))
        assert title.startswith("title ")
        assert f"name{title.split()[1]} here." in snippet
    assert scores == sorted(scores, reverse=True)


def test_json_has_a_passage_a_line(art_jax, finished_run, corpus):
    code, out, _ = art_jax("search", finished_run, "food3", "-k", 2, "--json")
    assert code == 0
    passages = {p.passage_id: p for p in read_passages(corpus / "p.tsv")}
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["rank"] for record in records] == [1, 2]
    for record in records:
        passage = passages[record["id"]]
        assert (record["title"], record["text"]) == (passage.title, passage.text)


def test_ann_finds_what_the_exact_search_finds(art_jax, run_with_ann, tmp_path):
    exact = art_jax("search", run_with_ann, "food3", "-k", 4, "--json")
    found = art_jax("search", run_with_ann, "food3", "-k", 4, "--json", "--ann")
    assert found.code == 0
    for got, want in zip(found.out.splitlines(), exact.out.splitlines(), strict=True):
        got, want = json.loads(got), json.loads(want)
        assert got.pop("score") == pytest.approx(want.pop("score"), rel=1e-5)
        assert got == want
    queries = tmp_path / "q.txt"
    queries.write_text("food3\n")
    run_file = tmp_path / "out.trec"
    code, _, _ = art_jax(
        "search", run_with_ann, "--queries", queries, "--run", run_file, "--ann"
    )
    assert code == 0
    assert len(read_run(run_file)["1"].passage_ids) == 5


def test_a_missing_ann_index_says_how_to_make_one(art_jax, finished_run):
    code, _, err = art_jax("search", finished_run, "food3", "--ann")
    assert code == 2
    assert f"build one with `art-jax ann {finished_run}`" in err


def test_a_file_of_questions_gives_a_trec_run(art_jax, finished_run, corpus, tmp_path):
    run_file = tmp_path / "out.trec"
    queries = corpus / "known.jsonl"
    code, out, _ = art_jax(
        "search", finished_run, "--queries", queries, "--run", run_file, "-k", 4
    )
    assert code == 0
    assert "10 questions, 4 passages each" in out
    run = read_run(run_file)
    assert list(run) == [f"d{n}" for n in range(17, 27)]
    assert all(len(ranking.passage_ids) == 4 for ranking in run.values())
    _, out, _ = art_jax("search", finished_run, "name17", "-k", 4, "--json")
    alone = [json.loads(line)["id"] for line in out.splitlines()]
    assert list(run["d17"].passage_ids) == alone


def test_more_passages_than_there_are_gives_them_all(art_jax, finished_run):
    code, out, _ = art_jax("search", finished_run, "food3", "-k", 40, "--json")
    assert code == 0
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    assert sorted(ids, key=int) == [str(n) for n in range(1, 31)]


@pytest.mark.parametrize("part", ["index", "retriever", "evidence"])
def test_damage_ends_in_4_and_names_the_file(art_jax, finished_run, tmp_path, part):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    files = [path for path in (run / part).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if part == "evidence":  # only its sizes are checked: it may have 20 GB
        del content[-1]
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    code, out, err = art_jax("search", run, "food3")
    assert (code, out) == (4, "")
    assert str(largest) in err


def test_a_missing_index_says_how_to_make_one(art_jax, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "index")
    code, _, err = art_jax("search", run, "food3")
    assert code == 2
    assert f"make one with `art-jax embed {run}`" in err
    assert art_jax("embed", run).code == 0
    assert art_jax("search", run, "food3").code == 0


def test_a_bad_question_file_leaves_the_old_run_file(art_jax, finished_run, tmp_path):
    run_file, queries = tmp_path / "out.trec", tmp_path / "q.jsonl"
    run_file.write_text("the old one")
    queries.write_text('{"id": "1", "question": "a"}\n{"id": "2", "quest')
    code, _, err = art_jax(
        "search", finished_run, "--queries", queries, "--run_file", run_file
    )
    assert code == 3
    assert f"{queries}:2" in err
    assert run_file.read_text() == "the old one"
