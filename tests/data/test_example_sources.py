"""Whatever examples go into a SeqIO source come out of it equal and in order."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import example_sources, sources
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
TUPLES = st.lists(TEXTS, max_size=2).map(tuple)
QUESTIONS = st.builds(
    Question,
    TEXTS,
    TEXTS,
    TUPLES,
    TUPLES,
    TEXTS,
    st.lists(TUPLES, max_size=2).map(tuple),
    st.lists(st.integers(1, 9), max_size=2).map(tuple),
    st.lists(TUPLES, max_size=2).map(tuple),
)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.builds(Passage, TEXTS, TEXTS, TEXTS),
        st.none() | st.floats(allow_nan=False, allow_subnormal=False),
        st.none() | st.booleans(),
    ),
    max_size=3,
).map(tuple)
EXAMPLES = {
    TrainingExample: st.builds(
        TrainingExample, QUESTIONS, CANDIDATES, CANDIDATES, CANDIDATES, TEXTS
    ),
    RankedQuestion: st.builds(RankedQuestion, QUESTIONS, CANDIDATES, TEXTS),
}
EXAMPLE = TrainingExample(
    Question(
        "q1", "who?", ("Ann",), ("p7",), "p7", (("Ann", "A."),), (2,), (("1+2",),)
    ),
    (Candidate(Passage("7", "one\ttwo", "T"), 1.5, True), Candidate(Passage("", "x"))),
    hard_negatives=(Candidate(Passage("8", "Ána"), None, False),),
    dataset="nq",
)


def read_back(dataset, kind):
    for fields in sources.iterate_dataset(dataset):
        fields["query_pretokenized"] = fields.pop("question")
        yield example_sources.example_of_fields(fields, kind)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_any_examples_come_back_equal(kind, data):
    examples = data.draw(st.lists(EXAMPLES[kind], max_size=3))
    dataset = example_sources.example_dataset(lambda: examples, kind)
    assert list(read_back(dataset, kind)) == examples
    # Batches of lists are padded, and the padding goes away again.
    padding = dict.fromkeys(dataset.element_spec, sources.NO_TEXT)
    batches = dataset.padded_batch(3, padding_values=padding)
    for batch in batches.as_numpy_iterator():
        batch["query_pretokenized"] = batch.pop("question")
        rows = [
            dict(zip(batch, row, strict=True))
            for row in zip(*batch.values(), strict=True)
        ]
        assert [
            example_sources.example_of_fields(row, kind) for row in rows
        ] == examples


def test_the_documented_fields():
    fields = example_sources.example_fields(EXAMPLE)
    assert fields["question"] == "who?"
    assert fields["positives_ids"] == ["7", ""]
    assert fields["positives_titles"] == ["T", ""]
    assert fields["positives_texts"] == ["one\ttwo", "x"]
    assert fields["positives_scores"] == "[1.5, null]"
    assert fields["positives_has_answer"] == "[true, null]"
    assert fields["negatives_texts"] == []
    assert fields["hard_negatives_has_answer"] == "[false]"
    assert fields["dataset"] == "nq"
    ranked = RankedQuestion(EXAMPLE.question, EXAMPLE.positives, "Ann")
    fields = example_sources.example_fields(ranked)
    assert (fields["candidates_ids"], fields["target"]) == (["7", ""], "Ann")


def test_a_source_reads_in_order_and_as_often_as_asked():
    source = example_sources.example_source({"dev": lambda: [EXAMPLE, EXAMPLE]})
    assert tuple(source.splits) == ("dev",)
    dataset = source.get_dataset("dev", shuffle=False, seed=7)
    for _ in range(2):
        assert list(read_back(dataset, TrainingExample)) == [EXAMPLE, EXAMPLE]


def test_a_missing_file_is_missed_when_a_dataset_is_built():
    def read():
        raise ConfigError("train.json is missing")

    source = example_sources.example_source({"train": read})
    with pytest.raises(ConfigError, match="train.json is missing"):
        source.get_dataset("train", shuffle=False, seed=7)


def test_a_broken_row_is_told_as_it_was_raised():
    def read():
        yield EXAMPLE
        raise DataError("a broken row", "file", 2)

    dataset = example_sources.example_dataset(read, TrainingExample)
    got = read_back(dataset, TrainingExample)
    assert next(got) == EXAMPLE
    with pytest.raises(DataError, match="file:2: a broken row"):
        next(got)


def test_importing_needs_no_tensorflow():
    code = (
        "import sys; from art_jax.data import benchmarks, example_sources\n"
        "found = {'tensorflow', 'seqio', 'gin'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
