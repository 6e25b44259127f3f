import gzip
import importlib
import json

import pytest

from art_jax.data.host_tensorflow import seqio
from art_jax.data.questions import Question
from art_jax.evaluation import evaluator
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


@pytest.fixture
def beir(tmp_path):
    """Four passages, one of them empty, one of them a question; graded judgments."""
    folder = tmp_path / "toy"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "otter", "text": "an otter swims"},
        {"_id": "d2", "title": "", "text": "otters and badgers swim"},
        {"_id": "d3", "title": "badger", "text": ""},
        {"_id": "d4", "title": "", "text": ""},
    ]
    queries = [
        {"_id": "d1", "text": "otter swims"},
        {"_id": "q2", "text": "badger"},
        {"_id": "q3", "text": "not judged"},
    ]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    rows = ["query-id\tcorpus-id\tscore", "d1\td2\t1", "q2\td3\t2", "q2\td2\t1"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_beir_folder_needs_no_run(art_jax, beir, tmp_path):
    out_dir, run_file = tmp_path / "out", tmp_path / "out.trec"
    arguments = ("--beir", beir, "--bm25", "--output_dir", out_dir)
    code, out, err = art_jax("evaluate", *arguments, "--run_file", run_file)
    assert code == 0, err
    assert "1 passages are empty and cannot be found, such as 'd4'" in err
    record = json.loads((out_dir / "bm25.json").read_text())
    assert (record["task"], record["split"]) == ("toy", "test")
    assert record["search"]["k1"] == 0.9
    graded, accuracy = record["measured_by"]
    assert graded["ignore_identical_ids"] is True
    # Question d1 is a passage too, which is not its own answer. Of "badger", d3 says
    # nothing else, and d2 says it among more.
    assert record["metrics"]["ndcg_at_10"] == 1.0
    assert record["metrics"]["top_1_accuracy"] == 1.0
    assert record["metrics"]["num_questions"] == 2
    assert record["intervals"]["map"] == [1.0, 1.0]
    assert "ndcg@10" in out
    assert read_run(run_file)["d1"].passage_ids == ("d2",)
    # Kept: neither the passages nor their index are made again.
    before = {path: path.stat().st_mtime_ns for path in out_dir.rglob("*.i64")}
    code, out, _ = art_jax("evaluate", *arguments, "--keep_identical_ids", "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["metrics"]["mrr_at_10"] == (1 / 2 + 1) / 2
    assert printed["measured_by"][0]["ignore_identical_ids"] is False
    assert before == {path: path.stat().st_mtime_ns for path in out_dir.rglob("*.i64")}


def test_other_settings_of_bm25_are_recorded(art_jax, beir, tmp_path):
    code, out, err = art_jax(
        "evaluate",
        *("--beir", beir, "--bm25", "--output_dir", tmp_path, "--json"),
        *("--bm25_stemmer", "none", "--bm25_k1", 1.2, "--bm25_b", 0.75),
    )
    assert code == 0, err
    record = json.loads(out)
    search = record["search"]
    assert (search["k1"], search["b"], search["stemmer"]) == (1.2, 0.75, None)
    # "otters" is not "otter" then, nor "badgers" "badger": one of three is found.
    assert record["metrics"]["recall_at_100"] == (0 + 1 / 2) / 2


def test_passages_are_embedded_once_for_a_run(art_jax, finished_run, beir, tmp_path):
    arguments = ("evaluate", finished_run, "--beir", beir, "--output_dir", tmp_path)
    code, out, err = art_jax(*arguments, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["what"] == "retriever"
    assert record["k"] == 3
    assert record["metrics"]["recall_at_100"] == 1.0  # all are found
    (index,) = (tmp_path / "corpora").glob("*/index")
    before = index.stat().st_mtime_ns
    code, out, err = art_jax(*arguments, "--fusion", "rrf", "--json")
    assert code == 0, err
    assert json.loads(out)["search"]["method"] == "fusion_rrf"
    assert index.stat().st_mtime_ns == before
    assert (tmp_path / "fusion.json").exists()


def test_rankings_of_a_file_are_judged_and_passed_on(
    art_jax, finished_run, corpus, tmp_path
):
    queries = ("--queries", corpus / "answers.jsonl", "-k", 5)
    run_file, results = tmp_path / "x.trec", tmp_path / "x.json"
    code, _, err = art_jax(
        *("evaluate", finished_run, *queries, "--output_dir", tmp_path / "a"),
        *("--run_file", run_file, "--dpr_results", results),
    )
    assert code == 0, err
    want = json.loads((tmp_path / "a" / "retriever.json").read_text())["metrics"]
    entries = json.loads(results.read_text())
    right = [any(one["has_answer"] for one in entry["ctxs"]) for entry in entries]
    assert sum(right) / len(right) == pytest.approx(want["top_5_accuracy"])
    passages = ("--passages", corpus / "p.tsv")
    for name, rankings, more in (
        ("b", run_file, passages),
        ("c", results, ()),
        ("d", results, passages),
        ("f", run_file, (finished_run,)),  # whose evidence has the texts
    ):
        code, out, err = art_jax(
            *("evaluate", *more, *queries, "--rankings", rankings, "--json"),
            *("--output_dir", tmp_path / name),
        )
        assert code == 0, err
        assert json.loads(out)["metrics"] == want
    code, _, err = art_jax(
        *("evaluate", *queries, "--rankings", run_file, "--output_dir", tmp_path / "e")
    )
    assert code == 3
    assert "ids alone are known: give the passages too (--passages FILE)" in err


def test_two_systems_are_compared(art_jax, finished_run, corpus, tmp_path):
    code, out, err = art_jax(
        *("evaluate", finished_run, "--queries", corpus / "answers.jsonl"),
        *("--baseline", "bm25", "--output_dir", tmp_path, "--plot"),
    )
    assert code == 0, err
    record = json.loads((tmp_path / "retriever.json").read_text())
    baseline = record["baseline"]
    assert baseline["what"] == "bm25"
    assert baseline["metrics"]["top_1_accuracy"] == 1.0
    assert baseline["p_values"].keys() == record["intervals"].keys()
    # All signs of the questions that differ may as well be the other way round.
    num_lost = round(10 * (1 - record["metrics"]["top_1_accuracy"]))
    want = 2 / 2**num_lost if num_lost else 1.0
    assert baseline["p_values"]["top_1_accuracy"] == want
    assert "p-value" in out
    assert "answers.jsonl: top-k accuracy\n     1  " in out
    assert "answers.jsonl (bm25): top-k accuracy\n     1  " in out


def test_several_tasks_have_a_mean(art_jax, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    (tmp_path / "quickstart").mkdir()
    for name in ("test.jsonl", "quickstart/test.jsonl"):
        (tmp_path / name).write_text((corpus / "answers.jsonl").read_text())
    (tmp_path / "test.jsonl").write_text('{"question": "food2", "answers": ["no"]}\n')
    code, out, err = art_jax(
        *("evaluate", "--task", "art_quickstart", "--task", "local_questions"),
        *("--task_module", "art_jax.tasks.local"),
        *("--task_module", "art_jax.tasks.quickstart"),
        *("--passages", corpus / "p.tsv", "--bm25", "--output_dir", tmp_path / "out"),
        *("--run_file", tmp_path / "x.trec"),
    )
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "bm25.json").read_text())
    assert record["task"] == "art_quickstart, local_questions"
    assert record["metrics"]["top_1_accuracy"] == (1.0 + 0.0) / 2
    assert record["tasks"]["art_quickstart"]["metrics"]["num_questions"] == 10
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == [
        "art_quickstart",
        "local_questions",
        "mean",
    ]
    assert out.splitlines()[-1].endswith("bm25.json")
    assert len(read_run(tmp_path / "x.art_quickstart.trec")) == 10
    assert len(read_run(tmp_path / "x.local_questions.trec")) == 1


def test_predictions_have_kilts_scores(art_jax, tmp_path, monkeypatch):
    registration = importlib.import_module("art_jax.tasks.registration")
    question = Question("k1", "who?", ("Ann Lee", "Ann"), evidence=(("7+2",),))
    other = Question("k2", "where?", ("Rome",), evidence=(("8+0",), ("9+1",)))
    registration.add_task(
        "toy_kilt",
        {"dev": lambda: [question, other]},
        metrics=[evaluator.KiltRetrieval(ks=(1,))],
    )
    lines = [
        {"id": "k1", "output": [_output("ann lee", "7", 2)]},
        {"id": "k2", "output": [_output("Rome", "6", 0)]},
    ]
    path = tmp_path / "guess.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    code, out, err = art_jax(
        *("evaluate", "--task", "toy_kilt", "--split", "dev", "--predictions", path),
        *("--task_module", "art_jax.tasks.local", "--output_dir", tmp_path, "--json"),
        *("--kilt_predictions", tmp_path / "again.jsonl"),
    )
    seqio.TaskRegistry.remove("toy_kilt")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["page_r_precision"] == metrics["passage_r_precision"] == 0.5
    assert (metrics["accuracy"], metrics["em"]) == (0.5, 1.0)
    # Rome is right, but not for the right reason; Ann Lee is, and in lower case.
    assert (metrics["kilt_accuracy"], metrics["kilt_em"]) == (0.0, 0.5)
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").open()]
    assert again[0]["output"] == [
        {"provenance": [{"wikipedia_id": "7", "end_paragraph_id": 2}]}
    ]


def test_texts_that_were_generated_are_judged(art_jax, tmp_path):
    registration = importlib.import_module("art_jax.tasks.registration")
    questions = [Question("a", "claim 1", ("SUPPORTS",)), Question("b", "2", ("NO",))]
    metrics = [evaluator.TextMeasures(measures=("label_accuracy", "bleu_1"))]
    registration.add_task("toy_texts", {"test": lambda: questions}, metrics=metrics)
    path = tmp_path / "guess.jsonl"
    path.write_text('{"id": "b", "output": [{"answer": "NO"}]}\n')
    arguments = ("evaluate", "--task", "toy_texts", "--predictions", path)
    arguments += ("--task_module", "art_jax.tasks.local", "--output_dir", tmp_path)
    code, _, err = art_jax(*arguments)
    assert code == 2
    assert "lacks 1 of 2 questions, the first of them 'a'" in err
    files = (
        "--run_file",
        tmp_path / "no.trec",
        "--plot",
    )  # of passages: there are none
    code, out, err = art_jax(*arguments, "--missing", "zero", *files)
    seqio.TaskRegistry.remove("toy_texts")
    assert code == 0, err
    record = json.loads((tmp_path / "predictions.json").read_text())
    assert record["metrics"]["label_accuracy"] == 0.5
    assert record["intervals"].keys() == {"label_accuracy"}
    assert record["choices"]["missing_questions"] == "zero"
    assert "bleu_1" in out
    assert not (tmp_path / "no.trec").exists()


def _output(answer, page, paragraph):
    place = {"wikipedia_id": page, "end_paragraph_id": paragraph}
    return {"answer": answer, "provenance": [place]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bm25",), "without a RUN, say where to write"),
        (("--bm25", "--output_dir", "o"), "BM25 needs passages"),
        (("--output_dir", "o"), "give a RUN to measure; or --bm25"),
        (("r", "-k", 0), "ask for at least one"),
        (("r", "--ann", "--passages", "p.tsv"), "--ann searches the index"),
        (("r", "--plot", "x.pdf"), "must end in .png"),
        (("r", "--bm25", "--bm25_b", 2), "b between 0 and 1"),
    ],
)
def test_flags_that_do_not_go_together_end_in_2(art_jax, corpus, arguments, message):
    code, _, err = art_jax("evaluate", *arguments, "--queries", corpus / "known.jsonl")
    assert code == 2
    assert message in err


def test_a_beir_folder_without_the_split_says_what_it_has(art_jax, beir, tmp_path):
    code, _, err = art_jax(
        *("evaluate", "--beir", beir, "--split", "dev", "--bm25"),
        *("--output_dir", tmp_path),
    )
    assert code == 2
    assert "test" in err
