"""Tevatron's corpora, and what each format holds; round trips: test_convert.py."""

import json

import pytest

from art_jax.data import passage_files
from art_jax.data.passages import Passage
from art_jax.errors import DataError


def test_tevatrons_own_files(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '{"docid": 1, "title": "T", "text": "x", "url": "u"}\n'
        '{"docid": "b", "document_text": "y"}\n'
    )
    got = list(passage_files.read_tevatron_corpus(path))
    assert got == [Passage("1", "x", "T"), Passage("b", "y")]
    copy = tmp_path / "copy.jsonl"
    assert passage_files.write_tevatron_corpus(copy, got) == 2
    lines = [json.loads(line) for line in copy.read_text().splitlines()]
    assert lines[1] == {"docid": "b", "title": "", "text": "y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "x"}', ":1: the key 'docid' is missing"),
        ('{"docid": "x"}', ":1: the key 'text' is missing"),
        ('{"docid": "x", "text": ""}', ":1: the passage 'x' is empty"),
        (
            '{"docid": "x", "text": "a"}\n{"docid": "x", "text": "b"}',
            ":2: the id 'x' is given twice, first on line 1",
        ),
        ("", "holds no passages"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "corpus.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(passage_files.read_tevatron_corpus(path))


def test_what_is_written_has_ids_of_its_own(tmp_path):
    twice = [Passage("1", "x"), Passage("1", "y")]
    with pytest.raises(DataError, match="'1' is given twice"):
        passage_files.write_tevatron_corpus(tmp_path / "c.jsonl", twice)
    assert not list(tmp_path.iterdir())


def test_what_lines_hold():
    passage = Passage("a", "one\ntwo", "T\nU")
    assert passage_files.keep_dpr_passage(passage, 7) == Passage("a", "one two", "T U")
    assert passage_files.keep_text_passage(passage, 7) == Passage("7", "T U one two")
    assert passage_files.titled_text(Passage("a", "one")) == "one"
