import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from art_jax.index.read_ahead import read_ahead


def test_results_come_in_order():
    reads = (functools.partial(pow, 2, n) for n in range(7))
    with read_ahead(reads) as results:
        assert list(results) == [1, 2, 4, 8, 16, 32, 64]


def test_no_reads_are_no_results():
    with read_ahead([]) as results:
        assert list(results) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_reads_ahead_and_no_further_than_asked(depth):
    has_started = [threading.Event() for _ in range(10)]
    with read_ahead([event.set for event in has_started], depth=depth) as results:
        for number, _ in enumerate(results):
            # Those that may be are read while the caller is busy with this one.
            last = min(number + depth, 9)
            assert has_started[last].wait(timeout=30)
            assert not any(event.is_set() for event in has_started[last + 1 :])


def test_an_error_surfaces_at_its_turn_with_its_traceback():
    def broken():
        raise OSError("gone")

    got = []
    with (
        pytest.raises(OSError, match="gone") as caught,
        read_ahead([lambda: 1, lambda: 2, broken, lambda: 3]) as results,
    ):
        got.extend(result for result in results)
    assert any(entry.name == "broken" for entry in caught.traceback)


def test_leaving_ends_the_thread_and_what_waits_is_not_read(monkeypatch):
    read, has_left, in_read = [], threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        """Lets the read under way go on once the block was left."""

        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            has_left.set()
            super().shutdown(wait=wait)

    def read_one(number):
        read.append(number)
        if number == 1:
            in_read.set()
            assert has_left.wait(timeout=30)

    def stop_during_the_second():
        with read_ahead(functools.partial(read_one, n) for n in range(100)) as results:
            next(results)
            assert in_read.wait(timeout=30)
            raise KeyboardInterrupt

    monkeypatch.setattr("art_jax.index.read_ahead.ThreadPoolExecutor", Pool)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        stop_during_the_second()
    assert threading.active_count() == before
    assert read == [0, 1]
