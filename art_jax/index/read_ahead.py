"""Reading in a thread what a device needs next, while it computes."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def read_ahead(
    reads: Iterable[Callable[[], T]], *, depth: int = 2
) -> Iterator[Iterator[T]]:
    """An iterator over what functions return, called ahead in one thread.

    What a function raises surfaces at its turn, with its own traceback. However the
    block is left, no further function is called and the thread has ended after it.

    Args:
        reads: called one after the other, in order.
        depth: results that wait, at most, beside the one in use.
    """
    reads = iter(reads)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="art_jax_read_ahead")
    waiting = collections.deque()

    def submit(number: int) -> None:
        waiting.extend(pool.submit(read) for read in itertools.islice(reads, number))

    def results() -> Iterator[T]:
        while waiting:
            result = waiting.popleft().result()
            submit(1)
            yield result

    try:
        submit(depth)
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
