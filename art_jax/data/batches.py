"""Which examples make up a batch: of a step, a pure function of seed and step."""

import functools
from collections.abc import Iterator, Sequence

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


def filled_batches(
    num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields all examples in their order, [batch_size] int64, and how many count.

    Each batch has the same size, so that one compiled program serves all: the last is
    filled up with the last example, which does not count again.
    """
    for start in range(0, num_examples, batch_size):
        places = np.arange(start, start + batch_size)
        count = min(batch_size, num_examples - start)
        yield np.minimum(places, num_examples - 1), count


def choose_set(
    batches_per_epoch: Sequence[int], *, seed: int, step: int
) -> tuple[int, int]:
    """Returns of which data set a step's batch is, and which of that set's it is.

    An epoch holds so many batches of each set, in an order of its own; a set's batches
    are counted over all epochs, so they go on where the last epoch's ended. Of one set
    alone every step's batch is the batch of that number.

    Args:
        batches_per_epoch: of each set, at least 1 in all.
        seed: of the order.
        step: from 0.
    """
    epoch, place = divmod(step, sum(batches_per_epoch))
    sets = np.repeat(np.arange(len(batches_per_epoch)), batches_per_epoch)
    sets = sets[_permutation(len(sets), seed, epoch)]
    chosen = int(sets[place])
    before = int(np.count_nonzero(sets[:place] == chosen))
    return chosen, epoch * batches_per_epoch[chosen] + before


def draw_places(counts: np.ndarray, num_drawn: int, raw: np.ndarray) -> np.ndarray:
    """Returns places drawn from each of several lists, none of them twice.

    Args:
        counts: [n] int, the lists' lengths.
        num_drawn: places a list; a shorter list gives all of its places.
        raw: [n, num_drawn] uint64, drawn uniformly; decides which.

    Returns:
        [n, num_drawn] int64, in the order drawn; -1 where a list has no more.
    """
    counts = np.asarray(counts, np.int64)
    drawn = np.full((len(counts), num_drawn), -1, np.int64)
    taken = np.zeros((len(counts), 0), np.int64)  # in ascending order
    for column in range(num_drawn):
        left = counts - column
        place = (raw[:, column] % np.maximum(left, 1).astype(np.uint64)).astype(
            np.int64
        )
        # The place among those that are left becomes a place in the list.
        for earlier in taken.T:
            place += place >= earlier
        drawn[:, column] = np.where(left > 0, place, -1)
        taken = np.sort(np.concatenate([taken, place[:, None]], axis=1), axis=1)
    return drawn


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises the raw stream of a bit generator across versions, and not what
    # Generator.permutation makes of it.
    raw = np.random.PCG64([seed, epoch]).random_raw(num_examples)
    return np.argsort(raw, kind="stable")
