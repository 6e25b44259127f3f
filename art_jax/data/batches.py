"""Which examples make up a step's batch: a pure function of seed and step."""

import functools

import numpy as np

from art_jax.errors import ConfigError


def batch_rows(num_examples: int, batch_size: int, *, seed: int, step: int):
    """Returns the examples of one step's batch, [batch_size] int64.

    Every epoch goes through a permutation of its own and leaves out the last
    num_examples % batch_size. There is no state, so any process can make any step.

    Raises:
        ConfigError: there are fewer examples than a batch takes.
    """
    check_num_examples(num_examples, batch_size)
    steps_per_epoch = num_examples // batch_size
    epoch, step_in_epoch = divmod(step, steps_per_epoch)
    start = step_in_epoch * batch_size
    return _permutation(num_examples, seed, epoch)[start : start + batch_size]


def check_num_examples(num_examples: int, batch_size: int) -> None:
    """Raises ConfigError where there are fewer examples than a batch takes."""
    if num_examples < batch_size:
        raise ConfigError(
            f"a batch takes {batch_size} examples, but there are {num_examples}: lower "
            "BATCH_SIZE or add examples."
        )


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises the raw stream of a bit generator across versions, and not what
    # Generator.permutation makes of it.
    raw = np.random.PCG64([seed, epoch]).random_raw(num_examples)
    return np.argsort(raw, kind="stable")
