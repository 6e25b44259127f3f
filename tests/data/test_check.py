"""The report on a file: everything wrong with it at once."""

import gzip
import json
import subprocess
import sys

import pytest

from art_jax.data.check import check_file, check_folder, format_report
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_good_file_of_passages(tmp_path):
    path = put(
        tmp_path / "corpus.jsonl",
        '{"_id": "a", "title": "T", "text": "one two three"}\n'
        '{"_id": "b", "text": "one"}\n'
        '{"_id": "c", "text": "one"}\n'
        '{"_id": "d", "text": "\\ufffd two"}\n',
    )
    report = check_file(path)
    assert (report.kind, report.format, report.num_rows) == (
        "passages",
        "beir-corpus",
        4,
    )
    assert report.is_readable
    assert report.problems == ()
    assert report.counts == {
        "without a title": 3,
        "with U+FFFD, left by a wrong conversion": 1,
        "texts that occur again": 1,
    }
    # Of 1, 1, 2, 3 words: half have at most 1.
    words = {0: 1, 10: 1, 50: 1, 90: 3, 99: 3, 100: 3}
    assert report.quantiles == {"words": words}
    assert report.samples[0] == Passage("a", "one two three", "T")
    assert len(report.samples) == 3


def test_all_faults_are_collected_with_their_lines(tmp_path):
    path = put(
        tmp_path / "corpus.tsv",
        b"id\ttext\ttitle\n"
        b"1\tone\tT\n"
        b"2\ttwo\n"
        b"1\tthree\tT\n"
        b"4\t \tT\n"
        b"\tfive\tT\n"
        b"6\tcaf\xe9\tT\n"
        b"7\ta\0b\tT\n"
        b'8\t"stray\tT\n',
    )
    report = check_file(path)
    assert report.num_rows == 5
    assert report.num_problems == {
        "malformed": 1,
        "duplicate id": 1,
        "empty": 2,
        "encoding": 2,
    }
    assert [line for line, _ in report.problems] == [3, 4, 5, 6, 7, 8]
    assert not report.is_readable
    text = format_report(report)
    assert "problems: 6 (1 malformed, 1 duplicate id, 2 empty, 2 encoding)" in text
    assert "    line 3: 2 columns where the first row says 3" in text
    assert "    line 4: the id '1' is given twice" in text
    assert text.count(str(path)) == 1


def test_only_the_first_problems_are_shown(tmp_path):
    path = put(tmp_path / "corpus.jsonl", "[]\n" * 25)
    report = check_file(path, "beir-corpus")
    assert report.num_problems == {"malformed": 25}
    assert len(report.problems) == 20
    assert format_report(report).endswith("\n    and 5 more")


def test_a_good_file_of_questions(tmp_path):
    path = put(tmp_path / "dev.csv", "who is it?\t['a']\nwhere?\t[]\n")
    report = check_file(path)
    assert (report.kind, report.num_rows) == ("questions", 2)
    assert report.counts["with answers"] == 1
    assert report.quantiles["answers"][100] == 1
    assert report.samples == (
        Question("1", "who is it?", ("a",)),
        Question("2", "where?"),
    )
    text = format_report(report)
    assert "2 questions" in text
    assert "with answers: 1" in text
    assert text.endswith("problems: none")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", '{"_id": 1, "title": "", "text": "x"}\n', "passages"),
        ("a.jsonl", '{"_id": 1, "text": "x"}\n', "passages"),
        ("queries.jsonl", '{"_id": 1, "text": "x"}\n', "questions"),
        ("Questions.jsonl", '{"_id": 1, "text": "x"}\n', "questions"),
        ("a.jsonl", 'broken\n{"question": "x", "answer": ["y"]}\n', "questions"),
        ("a.tsv", "1\tx\n", "passages"),
        ("a.tsv", "1\tx\tt\n", "passages"),
        ("a.tsv", 'x\t["y"]\n', "questions"),
        ("a.txt", "x\n", "passages"),
        ("q/a.txt", "x\n", "passages"),
        ("queries.txt", "x\n", "questions"),
        ("a.gz", gzip.compress(b'{"text": "x", "answers": []}', mtime=0), "questions"),
    ],
    ids=range(12),
)
def test_the_kind_is_told_by_content_and_then_by_name(tmp_path, name, content, kind):
    (tmp_path / "q").mkdir()
    assert check_file(put(tmp_path / name, content)).kind == kind


def test_the_format_can_be_given(tmp_path):
    path = put(tmp_path / "a.txt", "x\n")
    assert check_file(path, "text-questions").kind == "questions"
    for name in ("answers", "beir"):
        with pytest.raises(ConfigError, match=f"no format {name!r}: choose of dpr"):
            check_file(path, name)


def test_a_name_that_says_another_format_is_an_error(tmp_path):
    path = put(tmp_path / "passages.txt", "id\ttext\n1\tx\n")
    with pytest.raises(ConfigError, match="read as .txt, by its name: rename it"):
        check_file(path)


def test_judgments(tmp_path):
    text = "q1 0 a 2\nq1 0 b 0\nq2 0 a 0\nq1 0 a 1\nq2 0 c x\nq2 0\n"
    report = check_file(put(tmp_path / "qrels", text))
    assert (report.kind, report.format, report.num_rows) == (
        "judgments",
        "trec-qrels",
        4,
    )
    assert report.num_problems == {"duplicate id": 1, "malformed": 2}
    assert [line for line, _ in report.problems] == [4, 5, 6]
    assert report.counts == {
        "questions": 2,
        "questions without a relevant passage": 1,
        "passages": 2,
        "grade 0": 2,
        "grade 1": 1,
        "grade 2": 1,
    }
    assert report.quantiles["passages judged for a question"][100] == 3
    assert report.quantiles["passages relevant for a question"][0] == 0
    assert "sample: q1: a is 2" in format_report(report)
    # Three columns may be passages too.
    assert check_file(put(tmp_path / "qrels.tsv", "q\ta\t1\n")).kind == "judgments"
    assert check_file(put(tmp_path / "p.tsv", "q\ta\t1\n")).kind == "passages"


def context(text, **more):
    return {"text": text, "title": "", **more}


def test_training_examples(tmp_path):
    records = [
        {
            "question": "who?",
            "answers": ["x"],
            "positive_ctxs": [context("a", score=1), context("b")],
            "hard_negative_ctxs": [context("a")],
        },
        {
            "question": "what?",
            "positive_ctxs": [],
            "negative_ctxs": [context("c\ufffd")],
        },
        {"question": ""},
        {"question": "x", "positive_ctxs": [{"title": "no text"}]},
        {"question": "where?", "positive_ctxs": [context("d")]},
    ]
    path = put(tmp_path / "train.json", json.dumps(records, indent=0))
    report = check_file(path)
    assert (report.kind, report.format, report.num_rows) == (
        "training examples",
        "dpr",
        3,
    )
    assert report.num_problems == {"malformed": 2}
    assert "'question' is missing" in report.problems[0][1]
    assert report.counts == {
        "with answers": 1,
        "without a positive, so not trained on": 1,
        "with a positive among the negatives": 1,
        "passages": 5,
        "passages without an id": 5,
        "passages without a title": 5,
        "passages without a score": 4,
        "with U+FFFD, left by a wrong conversion": 1,
        "texts that occur again": 0,
    }
    assert report.quantiles["positives"] == {0: 0, 10: 0, 50: 1, 90: 2, 99: 2, 100: 2}
    assert set(report.quantiles) == {
        "words",
        "positives",
        "negatives",
        "hard negatives",
    }
    text = format_report(report)
    assert "sample: 2: who? (x)" in text
    assert "without a positive, so not trained on: 1" in text


def test_ranked_passages(tmp_path):
    rows = [context("a", id="1", score="1"), context("b", id="2", score="2")]
    records = [
        {"id": "q", "question": "who?", "ctxs": rows},
        {"id": "q", "question": "who?", "ctxs": [rows[0], rows[0]]},
    ]
    report = check_file(put(tmp_path / "r.json", json.dumps(records)))
    assert (report.kind, report.format) == ("ranked passages", "dpr-results")
    assert report.num_problems == {"duplicate id": 2}
    assert [message for _, message in report.problems] == [
        "the id 'q' is given twice. Each row needs its own.",
        "question 'q' has a passage twice.",
    ]
    assert report.counts["not in the order of their scores"] == 1
    assert report.quantiles["candidates"][50] == 2


def test_json_is_read_up_to_where_it_breaks(tmp_path):
    path = put(tmp_path / "r.json", '[{"question": "a", "ctxs": []},\n{"question": ')
    report = check_file(path)
    assert report.num_rows == 1
    assert report.num_problems == {"malformed": 1}
    assert report.problems[0][0] == 2


def test_a_benchmarks_own_file_is_read_by_its_reader(tmp_path):
    record = {"id": "1", "question": "q?", "annotations": []}
    several = [{"question": "", "answer": [one]} for one in "ab"]
    annotation = {"type": "multipleQAs", "qaPairs": several}
    records = [record | {"id": "2", "annotations": [annotation]}, record, {"id": "3"}]
    report = check_file(
        put(tmp_path / "dev_light.json", json.dumps(records)), "ambigqa"
    )
    assert report.num_rows == 2
    assert report.counts["with several answers, each with its aliases"] == 1
    assert report.num_problems == {"malformed": 1}
    line = '{"docid": "1", "text": "x"}\n'
    report = check_file(put(tmp_path / "corpus.jsonl", line * 2))
    assert (report.format, report.num_rows) == ("tevatron-corpus", 1)
    assert report.num_problems == {"malformed": 1}


def test_more_that_is_known_of_questions(tmp_path):
    lines = [
        {"_id": "1", "text": "q?", "relevant_ids": ["a"], "answers": [""]},
        {"_id": "2", "text": "q?", "evidence": [["1+2"]]},
    ]
    path = put(tmp_path / "q.jsonl", "\n".join(map(json.dumps, lines)))
    assert check_file(path).counts == {
        "with answers": 1,
        "with an answer that is empty": 1,
        "with relevant passages": 1,
        "with evidence": 1,
        "texts that occur again": 1,
    }


def test_a_folder_of_beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    put(tmp_path / "corpus.jsonl", '{"_id": "a", "title": "", "text": "x"}\n')
    put(tmp_path / "queries.jsonl", '{"_id": "q", "text": "x"}\n')
    header = "query-id\tcorpus-id\tscore\n"
    put(tmp_path / "qrels" / "test.tsv", header + "q\ta\t1\n")
    put(tmp_path / "qrels" / "dev.tsv", header + "q\tz\t1\nr\ta\tx\nr\ta\t1\n")
    corpus, queries, dev, test = check_folder(tmp_path)
    assert [one.is_readable for one in (corpus, queries, dev, test)] == [
        True,
        True,
        False,
        True,
    ]
    assert dev.num_problems == {"dangling id": 2, "malformed": 1}
    assert [line for line, _ in dev.problems] == [2, 3, 4]
    assert "the passage 'z' is not in the folder's file" in dev.problems[0][1]
    assert "the question 'r'" in dev.problems[2][1]
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match="corpus.jsonl is missing"):
        check_folder(tmp_path)


def test_an_empty_file_is_a_problem(tmp_path):
    report = check_file(put(tmp_path / "a.txt", ""))
    assert report.num_problems == {"empty": 1}
    assert "the file holds no passages" in format_report(report)


def test_a_damaged_file_is_reported_up_to_the_damage(tmp_path):
    rows = b"".join(b"%d\ttext number %d\n" % (n, n * n) for n in range(20_000))
    path = put(tmp_path / "a.tsv.gz", gzip.compress(rows)[:-20_000])
    report = check_file(path)
    assert 0 < report.num_rows < 20_000
    assert report.num_problems == {"encoding": 1}
    ((line, message),) = report.problems
    assert line == report.num_rows
    assert "cut off" in message


def test_what_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        check_file(tmp_path / "gone.tsv")
    with pytest.raises(DataError, match="neither its first line nor its name"):
        check_file(put(tmp_path / "a", "text\n"))


def test_a_sample_cannot_play_with_the_terminal(tmp_path):
    path = put(tmp_path / "a.txt", "red \x1b[31m text " + "x" * 200 + "\n")
    line = next(
        line
        for line in format_report(check_file(path)).splitlines()
        if line.startswith("  sample: ")
    )
    assert line.startswith("  sample: 1: red ?[31m text xxx")
    assert len(line) == len("  sample: ") + 100
    assert line.endswith("...")


def test_the_data_modules_start_without_jax_and_tensorflow():
    modules = (
        "check evidence layouts passages questions splitting text_files tokenizers"
    )
    code = (
        "import importlib, sys\n"
        f"for name in {modules.split()!r}:\n"
        "    importlib.import_module('art_jax.data.' + name)\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'sentencepiece'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
