"""Questions as DPR, NQ-open and plain text have them; round trips: test_convert.py."""

import ast
import csv

import pytest

from art_jax.data import question_files
from art_jax.data.questions import Question, read_questions
from art_jax.errors import DataError

QUESTIONS = [Question("1", 'who "x"\tand?', ("a's", 'b"', "é")), Question("2", "what?")]


def test_dprs_own_reader_takes_the_rows(tmp_path):
    path = tmp_path / "nq.csv"
    assert question_files.write_dpr_questions(path, QUESTIONS) == 2
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert [(text, ast.literal_eval(answers)) for text, answers in rows] == [
        ('who "x"\tand?', ["a's", 'b"', "é"]),
        ("what?", []),
    ]
    assert list(read_questions(path)) == QUESTIONS


def test_lines_as_published(tmp_path):
    path = tmp_path / "nq.jsonl"
    question_files.write_nq_open(path, QUESTIONS[1:])
    assert path.read_text() == '{"question": "what?", "answer": []}\n'
    path = tmp_path / "q.txt"
    question_files.write_text_questions(path, QUESTIONS[1:])
    assert path.read_text() == "what?\n"


def test_what_a_line_cannot_hold():
    assert question_files.one_line("\ufeff\ufeffa\nb\r\r") == "a b"
    question = Question("x", "a\nb", ("c",), ("p",))
    assert question_files.keep_dpr_question(question, 3) == Question("3", "a b", ("c",))
    assert question_files.keep_nq_open(question, 3) == Question("3", "a\nb", ("c",))
    assert question_files.keep_text_question(question, 3) == Question("3", "a b")


def test_an_empty_question_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="question is empty"):
        question_files.write_nq_open(tmp_path / "q.jsonl", [Question("1", " ")])
    assert not list(tmp_path.iterdir())
