"""A folder of BEIR's, by hand, becomes examples and comes back."""

import gzip

import pytest

from art_jax.data import beir_folders
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

HEADER = "query-id\tcorpus-id\tscore\n"
A, B, C = Passage("a", "one", "T"), Passage("b", "two"), Passage("c", "three")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "set"
    (path / "qrels").mkdir(parents=True)
    rows = [
        f'{{"_id": "{p.passage_id}", "title": "{p.title}", "text": "{p.text}"}}\n'
        for p in (A, B, C, Passage("d", "nobody asks"))
    ]
    (path / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    (path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "who?"}\n{"_id": "q2", "text": "what?"}\n'
        '{"_id": "q3", "text": "of dev"}\n'
    )
    (path / "qrels" / "train.tsv").write_text(
        HEADER + "q2\tb\t0\nq1\ta\t1\nq1\tc\t2\nq1\tb\t0\n"
    )
    return path


def test_examples_by_grade_in_the_order_of_queries(folder):
    assert beir_folders.is_beir_folder(folder)
    assert not beir_folders.is_beir_folder(folder.parent)
    # q2 has no positive, q3 no judgment.
    assert list(beir_folders.read_beir_examples(folder)) == [
        TrainingExample(
            Question("q1", "who?", relevant_ids=("c", "a"), grades=(2, 1)),
            (Candidate(C), Candidate(A)),
            hard_negatives=(Candidate(B),),
        )
    ]


def test_a_split_is_the_only_one_or_named(folder):
    (folder / "qrels" / "dev.tsv.gz").write_bytes(
        gzip.compress(f"{HEADER}q3\td\t1\n".encode())
    )
    assert list(beir_folders.find_splits(folder)) == ["dev", "train"]
    (example,) = beir_folders.read_beir_examples(folder, "dev")
    assert example.question.question_id == "q3"
    for split, message in ((None, "of dev, train: name one"), ("x", "not of 'x'")):
        with pytest.raises(ConfigError, match=message):
            list(beir_folders.read_beir_examples(folder, split))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1\tz\t1\n", "corpus.jsonl.gz: 1 passages of .*train.tsv .* such as 'z'"),
        ("q9\ta\t1\n", "queries.jsonl: 1 questions of .*train.tsv .* such as 'q9'"),
    ],
)
def test_ids_that_dangle_are_named(folder, row, message):
    (folder / "qrels" / "train.tsv").write_text(HEADER + row)
    with pytest.raises(DataError, match=message):
        list(beir_folders.read_beir_examples(folder))


def test_a_missing_file_is_named(folder):
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="set: queries.jsonl is missing"):
        list(beir_folders.read_beir_examples(folder))


def test_written_folders_have_each_passage_once(tmp_path):
    nameless = Passage("", "no id")
    question = Question("q1", "who?", ("Ann",))
    first = TrainingExample(
        question,
        # Of one id twice in a list the first is meant.
        (Candidate(A, 2.0, True), Candidate(Passage("a", "other")), Candidate(A)),
        (Candidate(C),),
        (Candidate(A), Candidate(B), Candidate(nameless)),
        "set",
    )
    second = TrainingExample(Question("q2", "what?"), (Candidate(B),))
    path = tmp_path / "set"
    assert beir_folders.write_beir_folder(path, [first, second], "dev") == 2
    got = list(beir_folders.read_beir_examples(path))
    # The passage without an id is named by what it holds.
    (one,) = [c.passage for c in got[0].hard_negatives if c.passage.text == "no id"]
    assert len(one.passage_id) == 16
    assert got == [
        TrainingExample(
            question, (Candidate(A),), hard_negatives=(Candidate(B), Candidate(one))
        ),
        second,
    ]
    assert got == [beir_folders.keep_beir_example(e, 1) for e in (first, second)]
    assert len((path / "corpus.jsonl").read_text().splitlines()) == 3
    assert (path / "qrels" / "dev.tsv").read_text() == (
        HEADER + f"q1\ta\t1\nq1\tb\t0\nq1\t{one.passage_id}\t0\nq2\tb\t1\n"
    )


def test_grades_come_back(folder, tmp_path):
    path = tmp_path / "copy"
    beir_folders.write_beir_folder(path, beir_folders.read_beir_examples(folder))
    assert (path / "qrels" / "train.tsv").read_text() == (
        HEADER + "q1\tc\t2\nq1\ta\t1\nq1\tb\t0\n"
    )
    before, after = map(beir_folders.read_beir_examples, (folder, path))
    assert list(before) == list(after)


def test_what_no_folder_can_hold_leaves_none(tmp_path):
    question = Question("q", "who?")
    other = Candidate(Passage("a", "another"))
    broken = TrainingExample(question, (Candidate(A),), hard_negatives=())
    clash = TrainingExample(Question("r", "what?"), (other,))
    with pytest.raises(DataError, match="'a' is of two different passages"):
        beir_folders.write_beir_folder(tmp_path / "set", [broken, clash])
    with pytest.raises(DataError, match="'q' has no positive passage"):
        beir_folders.write_beir_folder(
            tmp_path / "set", [TrainingExample(question, ())]
        )
    assert not list(tmp_path.iterdir())
