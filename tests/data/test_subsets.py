"""A few rows of a file, the same ones each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_jax.data.examples import TrainingExample
from art_jax.data.questions import Question
from art_jax.data.subsets import sampled, sampled_readers
from art_jax.errors import ConfigError

ROWS = [Question(f"q{n}", f"text {n}") for n in range(200)]


@given(st.integers(0, 210), st.integers(0, 5))
def test_rows_in_their_order_and_fewer_among_more(count, seed):
    few, more = sampled(ROWS, count, seed), sampled(ROWS, count + 20, seed)
    assert len(few) == min(count, 200)
    assert few == [row for row in ROWS if row in few]
    assert set(few) <= set(more)


def test_the_choice_is_the_rows_own():
    want = ["q12", "q43", "q98", "q119"]
    few = sampled(ROWS, 4, seed=0)
    # Fixed: another choice would be another benchmark.
    assert [row.question_id for row in few] == want
    assert sampled(iter(ROWS), 4, seed=0) == few
    assert sampled(ROWS, 4, seed=1) != few
    # Whatever stands around them, and whatever holds them.
    assert set(sampled(ROWS[::-1], 4)) == set(few)
    examples = [TrainingExample(row, ()) for row in ROWS]
    assert [one.question for one in sampled(examples, 4)] == few


def test_readers_of_which_one_gives_less():
    def missing():
        raise ConfigError("is missing")

    readers = {"train": lambda: iter(ROWS), "dev": lambda: iter(ROWS)}
    few = sampled_readers(readers, 3)
    for _ in range(2):
        assert len(list(few["train"]())) == 3
    assert len(list(few["dev"]())) == 200
    with pytest.raises(ConfigError, match="is missing"):
        sampled_readers({"train": missing}, 3)["train"]()
