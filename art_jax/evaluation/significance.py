"""Is one system better than another, or was it luck of the questions?"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from art_jax.errors import ConfigError, DataError

# Resampled values held at a time.
_MAX_VALUES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and where it would lie with other questions of the same kind.

    mean: over the questions.
    low, high: bounds of the confidence interval.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: np.ndarray,
    *,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a mean over questions.

    Args:
        values: [n] float, one a question; differences of two systems for theirs.
        confidence: between 0 and 1, of the interval.
        num_samples: times the questions are drawn anew, with replacement.
        seed: of the draws.

    Raises:
        DataError: there is no value.
        ConfigError: confidence or num_samples is out of its range.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = _checked(values)
    if not 0 < confidence < 1 or num_samples < 1:
        raise ConfigError(
            f"confidence {confidence} must be between 0 and 1, and num_samples "
            f"{num_samples} at least 1."
        )
    random = np.random.default_rng(seed)
    means = [
        values[random.integers(0, len(values), (size, len(values)))].mean(axis=1)
        for size in _sizes(num_samples, len(values))
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_intervals(
    values: Mapping[str, np.ndarray],
    *,
    confidence: float = 0.95,
    num_samples: int = 1_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap_interval` of several measures, each over the questions that count.

    Args:
        values: of each measure [n] float; NaN for questions that do not count.
        confidence: as there.
        num_samples: as there.
        seed: as there; of each measure's draws.

    Returns:
        Those of the measures that count any question.
    """
    intervals = {}
    for name, each in values.items():
        counted = each[~np.isnan(each)]
        if len(counted):
            intervals[name] = bootstrap_interval(
                counted, confidence=confidence, num_samples=num_samples, seed=seed
            )
    return intervals


def paired_test(
    ours: np.ndarray, theirs: np.ndarray, *, num_samples: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of the difference of two systems' means.

    The paired randomisation test: if the systems were alike, each question's two
    values might as well change places. The p-value is the share of such exchanges,
    the one that was seen among them, whose difference is at least as large.

    Args:
        ours: [n] float, one a question.
        theirs: [n] float, of the same questions in the same order.
        num_samples: random exchanges. Where 2^n is no more, all of them are counted.
        seed: of the draws.

    Raises:
        DataError: there is no value, or the systems have different numbers of them.
        ConfigError: num_samples is below 1.

    Source: Fisher's randomisation test, as Smucker et al., CIKM 2007, advise.
    """
    ours, theirs = _checked(ours), _checked(theirs)
    if ours.shape != theirs.shape:
        raise DataError(
            f"one system has values of {len(ours)} questions, the other of "
            f"{len(theirs)}: a paired test needs the same questions of both."
        )
    if num_samples < 1:
        raise ConfigError(f"num_samples is {num_samples}: it must be at least 1.")
    differences = ours - theirs
    # Sums of the same numbers in another order may differ in the last digits.
    seen = abs(differences.sum()) * (1 - 1e-12)
    if len(differences) < 63 and 2 ** len(differences) <= num_samples:
        bits = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))
        sums = np.where(bits & 1, 1.0, -1.0) @ differences
        return float((np.abs(sums) >= seen).mean())
    random = np.random.default_rng(seed)
    as_large = 0
    for size in _sizes(num_samples, len(differences)):
        signs = random.integers(0, 2, (size, len(differences)), np.int8) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= seen).sum())
    return (as_large + 1) / (num_samples + 1)


def _sizes(num_samples: int, num_values: int) -> list[int]:
    """Numbers of samples to draw at a time."""
    size = max(1, _MAX_VALUES // num_values)
    whole, rest = divmod(num_samples, size)
    return [size] * whole + [rest] * bool(rest)


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values must be [n], one a question, not {values.shape}")
    if not len(values):
        raise DataError("there are no questions to compare.")
    return values
