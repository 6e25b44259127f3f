"""SIGTERM and Ctrl-C: noted at once, acted on where a save is possible."""

import contextlib
import signal
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from art_jax.errors import PreemptedError

_received: list[str] = []


@contextlib.contextmanager
def watch_signals() -> Iterator[None]:
    """Within it SIGTERM and the first SIGINT are noted instead of killing.

    A second SIGINT interrupts as usual. Outside the main thread it does nothing.
    """
    _received.clear()

    def note(number, _):
        _received.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {
            number: signal.signal(number, note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # Not the main thread: signals are somebody else's.
        yield
        return
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def poll() -> None:
    """Raises PreemptedError if a signal came; for long loops of one process.

    With several processes only `poll_together` may stop a run: one process that left
    a collective computation would leave the others waiting.
    """
    if _received and jax.process_count() == 1:
        raise PreemptedError(f"stopped by {_received[0]}")


def poll_together(step: int, *, every_steps: int = 10) -> None:
    """Raises PreemptedError on every process if a signal came to any. Collective.

    Args:
        step: equal on every process.
        every_steps: how often processes ask each other, where there are several.
    """
    if jax.process_count() > 1:
        if step % every_steps:
            return
        flags = multihost_utils.process_allgather(np.array([len(_received)]))
        if flags.any() and not _received:
            _received.append("a signal to another process")
    if _received:
        raise PreemptedError(f"stopped by {_received[0]}")
