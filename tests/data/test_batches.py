"""The order of training is a function of seed and step."""

import numpy as np
import pytest

from art_jax.data.batches import batch_rows
from art_jax.errors import ConfigError


def rows(step, seed=0, n=10, size=3):
    return batch_rows(n, size, seed=seed, step=step).tolist()


def test_an_epoch_holds_each_example_once_but_the_rest():
    epoch = [row for step in range(3) for row in rows(step)]
    assert len(epoch) == len(set(epoch)) == 9


def test_epochs_and_seeds_differ():
    assert rows(0) != rows(3)
    assert rows(0) != rows(0, seed=1)
    assert [rows(step) for step in range(6)] == [rows(step) for step in range(6)]


def test_the_order_is_pinned():
    # What seed 0 gives today must be what it gives tomorrow, or no run resumes.
    raw = np.random.PCG64([0, 1]).random_raw(10)
    assert rows(3) == sorted(range(10), key=lambda row: raw[row])[:3]
    assert rows(0) == PINNED


PINNED = [3, 2, 1]


def test_too_few_examples():
    with pytest.raises(ConfigError, match="takes 3 examples, but there are 2"):
        batch_rows(2, 3, seed=0, step=0)
