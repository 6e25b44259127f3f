"""Passages given to `art-jax evaluate`: read, kept, and never of another corpus."""

import json

import pytest

from art_jax.cli import evaluation_corpus
from art_jax.data.passages import Passage
from art_jax.errors import CorruptError, DataError

RECORDS = [
    {"_id": "a", "title": "t", "text": ""},
    {"_id": "b", "title": "", "text": " "},
    {"_id": "c", "title": "", "text": "x"},
]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "toy" / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    return path


def test_empty_passages_are_left_out_of_beir_and_an_error_elsewhere(corpus, capfd):
    got = list(evaluation_corpus.read_corpus(corpus, is_beir=True))
    assert got == [Passage("a", "", "t"), Passage("c", "x")]
    assert (
        "1 passages are empty and cannot be found, such as 'b'" in capfd.readouterr()[1]
    )
    with pytest.raises(DataError, match="has a title but no text"):
        list(evaluation_corpus.read_corpus(corpus, is_beir=False))


def test_a_store_is_of_one_corpus(corpus, tmp_path):
    first = evaluation_corpus.open_evidence(corpus, tmp_path / "o", is_beir=True)
    assert first.directory.parent.name.startswith("toy-")
    assert [passage.passage_id for passage in first.passages()] == ["a", "c"]
    again = evaluation_corpus.open_evidence(corpus, tmp_path / "o", is_beir=True)
    assert again.directory == first.directory
    corpus.write_text(corpus.read_text().replace('"x"', '"y"'))
    other = evaluation_corpus.open_evidence(corpus, tmp_path / "o", is_beir=True)
    assert other.directory != first.directory
    assert other.digest != first.digest


def test_a_damaged_store_is_named(corpus, tmp_path):
    store = evaluation_corpus.open_evidence(corpus, tmp_path / "o", is_beir=True)
    path = store.directory / "text.utf8"
    path.write_bytes(path.read_bytes().replace(b"x", b"y"))
    with pytest.raises(CorruptError, match=r"text\.utf8 is damaged"):
        evaluation_corpus.open_evidence(corpus, tmp_path / "o", is_beir=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.tsv"):
        evaluation_corpus.open_evidence(
            tmp_path / "none.tsv", tmp_path / "o", is_beir=False
        )
