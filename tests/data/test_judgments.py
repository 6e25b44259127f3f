"""Judgments go through TREC's and BEIR's files and come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import judgments
from art_jax.errors import ConfigError, DataError

IDS = st.text("ab1-_:é", min_size=1, max_size=4)
QRELS = st.dictionaries(
    IDS,
    st.dictionaries(IDS, st.integers(-1, 4), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("file_format", judgments.FORMATS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@settings(deadline=None, max_examples=20)
@given(qrels=QRELS)
def test_what_is_written_reads_back(tmp_path_factory, file_format, suffix, qrels):
    path = tmp_path_factory.mktemp("qrels") / f"qrels.tsv{suffix}"
    count = judgments.write_judgments(path, qrels, file_format)
    got = judgments.read_judgments(path)
    assert got == qrels
    assert list(got) == list(qrels)
    assert count == sum(map(len, qrels.values()))


def test_files_of_both_kinds(tmp_path):
    trec = tmp_path / "qrels.txt"
    trec.write_text("q1 0 d1 2\nq1  0\td2 0\nq2 Q0 d1 -1\n")
    assert judgments.read_judgments(trec) == {
        "q1": {"d1": 2, "d2": 0},
        "q2": {"d1": -1},
    }
    beir = tmp_path / "test.tsv"
    beir.write_text("query-id\tcorpus-id\tscore\nq 1\td\t1\n")
    assert judgments.read_judgments(beir) == {"q 1": {"d": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q d\n", ":1: a judgment is"),
        ("query-id\tcorpus-id\tscore\nq\td\t1\textra\tmore\n", ":2: a judgment is"),
        ("q\t\t1\n", ":1: a judgment is"),
        ("q 0 d 1\nq 0 d 0\n", ":2: passage 'd' is judged twice"),
        ("q 0 d 0.5\n", ":1: the grade '0.5'"),
        ("query-id\tcorpus-id\tscore\n", "no judgment"),
        ("", "no judgment"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "qrels"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        judgments.read_judgments(path)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    path = tmp_path / "qrels"
    with pytest.raises(ConfigError, match="trec, beir"):
        judgments.write_judgments(path, {}, "csv")
    for file_format, name in (("trec", "a b"), ("beir", "a\tb"), ("beir", "")):
        with pytest.raises(DataError, match="separates"):
            judgments.write_judgments(path, {"q": {name: 1}}, file_format)
    assert not list(tmp_path.iterdir())
