"""The report on a file: everything wrong with it at once."""

import gzip
import subprocess
import sys

import pytest

from art_jax.data.check import check_file, format_report
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
    assert (report.kind, report.format, report.num_rows) == ("passages", ".jsonl", 4)
    assert report.is_readable
    assert report.problems == ()
    assert report.num_duplicate_texts == 1
    assert report.num_without_title == 3
    assert report.num_replaced == 1
    # Of 1, 1, 2, 3 words: half have at most 1.
    assert report.word_quantiles == {0: 1, 10: 1, 50: 1, 90: 3, 99: 3, 100: 3}
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
    report = check_file(path, "passages")
    assert report.num_problems == {"malformed": 25}
    assert len(report.problems) == 20
    assert format_report(report).endswith("\n    and 5 more")


def test_a_good_file_of_questions(tmp_path):
    path = put(tmp_path / "dev.csv", "who is it?\t['a']\nwhere?\t[]\n")
    report = check_file(path)
    assert (report.kind, report.num_rows, report.num_with_answers) == (
        "questions",
        2,
        1,
    )
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
        ("a.gz", gzip.compress(b'{"text": "x", "answers": []}'), "questions"),
    ],
    ids=range(12),
)
def test_the_kind_is_told_by_content_and_then_by_name(tmp_path, name, content, kind):
    (tmp_path / "q").mkdir()
    assert check_file(put(tmp_path / name, content)).kind == kind


def test_the_kind_can_be_given(tmp_path):
    path = put(tmp_path / "a.txt", "x\n")
    assert check_file(path, "questions").kind == "questions"
    with pytest.raises(ConfigError, match="must be 'passages' or 'questions'"):
        check_file(path, "answers")


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
    with pytest.raises(DataError, match="does not say the format"):
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
