"""Intervals and p-values by hand, by symmetry and by simulation."""

import numpy as np
import pytest

from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import significance


def test_few_questions_are_exchanged_in_all_ways():
    # Differences 1, 1, 1, -1: of 16 sign patterns, sums of 2 or more in size: 4, 2 and
    # their negatives: 1 + 4 + 4 + 1.
    p = significance.paired_test([2, 2, 2, 1], [1, 1, 1, 2])
    assert p == 10 / 16
    assert significance.paired_test(np.ones(8), np.zeros(8)) == 2 / 2**8


def test_many_questions_are_sampled_and_agree_with_all_ways():
    random = np.random.default_rng(3)
    ours, theirs = random.random(12), random.random(12) - 0.2
    exact = significance.paired_test(ours, theirs, num_samples=2**12)
    sampled = significance.paired_test(ours, theirs, num_samples=4_000)
    # Three standard deviations of a share of 4,000 samples.
    assert abs(exact - sampled) < 3 * (exact * (1 - exact) / 4_000) ** 0.5 + 1 / 4_001
    assert sampled == significance.paired_test(theirs, ours, num_samples=4_000)


def test_alike_systems_are_no_different():
    values = np.linspace(0, 1, 100)
    assert significance.paired_test(values, values) == 1


def test_the_smallest_p_value_is_that_of_the_exchange_seen():
    assert significance.paired_test(np.ones(50), np.zeros(50), num_samples=99) == 0.01


def test_the_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(0).normal(5, 2, 2_000)
    got = significance.bootstrap_interval(values)
    error = values.std() / len(values) ** 0.5
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert got.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    narrow = significance.bootstrap_interval(values, confidence=0.5)
    assert got.low < narrow.low < narrow.high < got.high
    assert got == significance.bootstrap_interval(values)
    assert got != significance.bootstrap_interval(values, seed=1)


def test_samples_come_in_parts_that_fit_memory(monkeypatch):
    values = np.arange(10.0)
    monkeypatch.setattr(significance, "_MAX_VALUES", 35)
    assert significance._sizes(10, 10) == [3, 3, 3, 1]
    got = significance.bootstrap_interval(values, num_samples=1_001)
    assert got.low < 4.5 < got.high


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="no questions"):
        significance.bootstrap_interval([])
    with pytest.raises(DataError, match="of 2 questions, the other of 3"):
        significance.paired_test([1, 2], [1, 2, 3])
    with pytest.raises(ConfigError, match="confidence"):
        significance.bootstrap_interval([1.0], confidence=1)
    with pytest.raises(ConfigError, match="num_samples"):
        significance.paired_test([1.0], [1.0], num_samples=0)
    with pytest.raises(ValueError, match="one a question"):
        significance.bootstrap_interval(np.zeros((2, 2)))


def test_intervals_of_several_measures_leave_out_what_does_not_count():
    values = {
        "a": np.array([0.0, 1.0, 1.0]),
        "b": np.array([np.nan, 1.0, 0.0]),
        "c": np.full(3, np.nan),
    }
    got = significance.bootstrap_intervals(values, num_samples=200)
    assert got.keys() == {"a", "b"}
    assert got["b"].mean == 0.5
    one = significance.bootstrap_interval(np.array([1.0, 0.0]), num_samples=200)
    assert got["b"] == one
