"""The documentation corpus: what is cut where, and who may know the right passage."""

import json

import pytest

from art_jax.data import documentation
from art_jax.data.passages import read_passages
from art_jax.data.questions import read_questions


@pytest.mark.parametrize(
    ("docstring", "summary", "rest"),
    [
        ("Return true.\n\nIt   is\nso.", "Return true.", "It is so."),
        ("One. Two more\nwords here.", "One.", "Two more words here."),
        ("No full stop\n\n  Rest", "No full stop", "Rest"),
        (
            "Use numpy.sum, e.g. here. Then rest.",
            "Use numpy.sum, e.g. here.",
            "Then rest.",
        ),
        ("Only a summary.", "Only a summary.", ""),
    ],
)
def test_summary_and_rest(docstring, summary, rest):
    assert documentation.split_summary(docstring) == (summary, rest)


@pytest.fixture(scope="module")
def corpus():
    return documentation.build_corpus(
        ["json", "logging", "inspect"], standard_library=False, num_dev=10, num_test=20
    )


def test_the_summary_is_not_in_its_passage(corpus):
    passages = {passage.passage_id: passage for passage in corpus.passages}
    assert len(passages) == len(corpus.passages)
    for question in (*corpus.dev, *corpus.test):
        (right,) = question.relevant_ids
        assert right == f"{question.question_id}#0"
        assert not passages[right].text.startswith(question.text)
        assert passages[right].title == question.question_id


def test_training_questions_do_not_say_what_is_right(corpus):
    assert corpus.train
    assert all(question.relevant_ids == () for question in corpus.train)


def test_splits_are_disjoint_and_sized(corpus):
    splits = [
        {q.text for q in split} for split in (corpus.train, corpus.dev, corpus.test)
    ]
    assert len(set.union(*splits)) == sum(map(len, splits))
    assert [len(splits[1]), len(splits[2])] == [10, 20]


def test_pieces_have_at_most_a_hundred_words(corpus):
    assert max(len(passage.text.split()) for passage in corpus.passages) == 100


def test_the_same_packages_give_the_same_corpus(corpus):
    again = documentation.build_corpus(
        ["inspect", "logging", "json"], standard_library=False, num_dev=10, num_test=20
    )
    assert again == corpus


def test_a_package_that_is_not_there_is_left_out(corpus):
    again = documentation.build_corpus(
        ["json", "logging", "inspect", "no_such_package"],
        standard_library=False,
        num_dev=10,
        num_test=20,
    )
    assert again == corpus


def test_importing_prints_and_raises_nothing(capsys):
    assert documentation._import_quietly("this") is not None
    assert documentation._import_quietly("no_such_package") is None
    assert capsys.readouterr().out == ""


def test_files_are_written_once(tmp_path, monkeypatch, corpus):
    calls = []

    def build():
        calls.append(1)
        return corpus

    monkeypatch.setattr(documentation, "build_corpus", build)
    path = documentation.prepare_corpus(str(tmp_path / "quickstart"))
    documentation.prepare_corpus(str(tmp_path / "quickstart"))
    assert len(calls) == 1
    assert tuple(read_passages(path)) == corpus.passages
    folder = tmp_path / "quickstart"
    assert tuple(read_questions(folder / "test.jsonl")) == corpus.test
    assert "numpy" in json.loads((folder / "versions.json").read_text())
    monkeypatch.setattr(documentation, "package_versions", lambda: {"python": "0"})
    documentation.prepare_corpus(str(folder))
    assert len(calls) == 2
