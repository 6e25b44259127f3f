import json

import pytest

from art_jax.cli import evaluate
from art_jax.evaluation.runs import read_run


def evaluate_run(art_jax, finished_run, output_dir, *more):
    code, out, err = art_jax(
        "evaluate", finished_run, "--output_dir", output_dir, *more
    )
    assert code == 0, err
    (path,) = output_dir.glob("*.json")
    return json.loads(path.read_text()), out


def test_known_passages_are_measured_as_the_ranking_says(
    art_jax, finished_run, corpus, tmp_path
):
    run_file = tmp_path / "out.trec"
    record, out = evaluate_run(
        art_jax,
        finished_run,
        tmp_path / "metrics",
        "--queries",
        corpus / "known.jsonl",
        "--run_file",
        run_file,
    )
    run = read_run(run_file)
    for k in (1, 5, 20):
        hits = sum(name[1:] in run[name].passage_ids[:k] for name in run)
        assert record["metrics"][f"top_{k}_accuracy"] == pytest.approx(hits / 10)
    assert record["k"] == 30  # of the 100 asked for
    assert "top-20" in out
    assert "retriever" in out


def test_answers_are_looked_for_in_the_text(art_jax, finished_run, corpus, tmp_path):
    known, _ = evaluate_run(
        art_jax, finished_run, tmp_path / "a", "--queries", corpus / "answers.jsonl"
    )
    # 30 passages, of which one holds the answer: found among 30, or 20, or not.
    assert 0 <= known["metrics"]["top_20_accuracy"] <= 1
    queries = tmp_path / "sure.jsonl"
    queries.write_text('{"question": "food2", "answers": ["winter"]}\n')
    sure, _ = evaluate_run(
        art_jax, finished_run, tmp_path / "b", "--queries", queries, "-k", 5
    )
    assert sure["metrics"]["top_1_accuracy"] == 1.0
    queries.write_text('{"question": "food2", "answers": ["w.nter"]}\n')
    for match, value in (("string", 0.0), ("regex", 1.0)):
        record, _ = evaluate_run(
            art_jax,
            finished_run,
            tmp_path / match,
            "--queries",
            queries,
            "--match",
            match,
        )
        assert record["metrics"]["top_5_accuracy"] == value
        assert record["match"] == match


def test_bm25_finds_the_words_of_a_question(art_jax, finished_run, corpus, tmp_path):
    run_file = tmp_path / "bm25.trec"
    record, out = evaluate_run(
        art_jax,
        finished_run,
        tmp_path / "m",
        "--queries",
        corpus / "answers.jsonl",
        "--bm25",
        "--run_file",
        run_file,
    )
    assert record["what"] == "bm25"
    assert record["metrics"]["top_1_accuracy"] == 1.0  # "food17" is in passage 17
    assert read_run(run_file)["d17"].passage_ids[0] == "17"
    assert "bm25" in out


def test_an_approximate_search_is_recorded_as_such(
    art_jax, run_with_ann, corpus, tmp_path
):
    queries = ("--queries", corpus / "known.jsonl", "-k", 5)
    exact, _ = evaluate_run(art_jax, run_with_ann, tmp_path / "exact", *queries)
    assert exact["what"] == "retriever"
    assert exact["search"] == {"method": "dot_product", "exact": True}
    record, out = evaluate_run(
        art_jax, run_with_ann, tmp_path / "ann", *queries, "--ann"
    )
    # Under a name of its own: a model card states what the retriever itself does.
    assert [path.name for path in (tmp_path / "ann").glob("*.json")] == ["ann.json"]
    assert record["what"] == "ann"
    assert record["search"]["method"] == "scann"
    assert record["search"]["exact"] is False
    assert record["search"]["rescored"] == 4
    assert record["metrics"] == exact["metrics"]
    assert "ScaNN scores codes of all rows, then 4 rows exactly" in out
    # SeqIO's lines do not say how was searched, so they lie apart.
    assert not list((tmp_path / "ann").glob("*.jsonl"))
    assert list((tmp_path / "ann" / "ann").glob("*.jsonl"))


def test_bm25_is_never_approximate(art_jax, finished_run, corpus):
    code, _, err = art_jax(
        "evaluate", finished_run, "--queries", corpus / "known.jsonl", "--bm25", "--ann"
    )
    assert code == 2
    assert "not allowed with" in err


def test_questions_that_nothing_can_judge_end_in_3(art_jax, finished_run, corpus):
    code, _, err = art_jax(
        "evaluate", finished_run, "--queries", corpus / "train.txt", "--bm25"
    )
    assert code == 3
    assert "answers" in err


def test_an_unknown_task_or_module_ends_in_2(art_jax, finished_run):
    code, _, err = art_jax("evaluate", finished_run, "--task", "nq")
    assert code == 2
    assert "no SeqIO task or mixture is called 'nq'" in err
    assert "art_quickstart" in err
    code, _, err = art_jax(
        "evaluate", finished_run, "--task", "nq", "--task_module", "no_such_module"
    )
    assert code == 2
    assert "--task_module no_such_module cannot be imported" in err


def test_a_table_shows_the_depths_that_were_measured():
    text = evaluate.format_table(
        {
            "bm25": {"top_1_accuracy": 0.5, "top_5_accuracy": 0.75},
            "art": {"top_1_accuracy": 0.625, "top_5_accuracy": 1.0},
        }
    )
    assert text.splitlines() == [
        "          top-1    top-5",
        "bm25      0.500    0.750",
        "art       0.625    1.000",
    ]
