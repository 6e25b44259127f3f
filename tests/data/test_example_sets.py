"""Data sets of examples: settings, choices of several, and how questions are read."""

import pytest

from art_jax.data import example_sets
from art_jax.data.example_files import write_examples
from art_jax.data.example_sets import ExampleSet
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.query_forms import QueryForm
from art_jax.data.questions import Question
from art_jax.data.subsets import sampled
from art_jax.errors import ConfigError

SETS = tuple(ExampleSet(task=f"t_{name}", query_task=name) for name in "abc")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of the two"),
        ({"task": "a", "path": "b"}, "give one of the two"),
        ({"path": "b", "file_format": "fid"}, "training examples are dpr, tevatron"),
        ({"task": "a", "sampling_rate": 0.0}, "of a must be above 0"),
        ({"task": "a", "loss_scale": -1.0}, "of a must be above 0"),
        ({"task": "a", "max_passages": -1}, "max_passages is -1"),
        ({"task": "a", "num_examples": 0}, "num_examples is 0"),
        ({"task": "a", "marker": "[Q]"}, "give it a query_task"),
        ({"task": "a", "tower": "qa"}, "give it a query_task"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExampleSet(**settings)


def test_a_few_examples_are_always_the_same_ones(tmp_path):
    right = (Candidate(Passage("1", "it")),)
    examples = [
        TrainingExample(Question(f"q{n}", "who"), right if n % 3 else ())
        for n in range(30)
    ]
    path = str(tmp_path / "train.json")
    write_examples(path, examples, "dpr")
    some = ExampleSet(path=path, num_examples=5)
    got = list(example_sets.read_set(some, None))
    assert got == sampled([one for one in examples if one.positives], 5)
    every = ExampleSet(path=path, num_examples=1000)
    assert len(list(example_sets.read_set(every, None))) == 20
    assert len(list(example_sets.read_set(ExampleSet(path=path), None))) == 30


def test_sets_are_chosen_by_task():
    assert example_sets.choose_sets(SETS) == SETS
    assert example_sets.choose_sets(SETS, without=["b"]) == (SETS[0], SETS[2])
    (one,) = example_sets.choose_sets(SETS, only=["c"], num_examples=128)
    assert (one.query_task, one.num_examples) == ("c", 128)
    with pytest.raises(ConfigError, match="d: no such task, choose of a, b, c"):
        example_sets.choose_sets(SETS, only=["d"])
    with pytest.raises(ConfigError, match="no data set is left"):
        example_sets.choose_sets(SETS, only=["a"], without=["a"])


def test_forms_by_task():
    asked = {"query_special_suffix": "?", "marker": "[Q]", "special": ["[SEP]"]}
    one = ExampleSet(task="x", query_task="nq", tower="qa", **asked)
    form = QueryForm(marker="[Q]", suffix="?", special=("[SEP]",), tower="qa")
    again = ExampleSet(path="more.json", query_task="nq", tower="qa", **asked)
    plain = ExampleSet(task="y", query_special_suffix="?")
    assert example_sets.query_forms_of([one, plain, again]) == {"nq": form}
    with pytest.raises(ConfigError, match="t_nq reads questions of query_task 'nq' in"):
        example_sets.query_forms_of([one, ExampleSet(task="t_nq", query_task="nq")])
