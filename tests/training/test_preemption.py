"""Signals are noted, acted on at a poll, and given back."""

import os
import signal
import threading

import numpy as np
import pytest

from art_jax.errors import PreemptedError
from art_jax.training import preemption


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, handlers and the note end as they were."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)
    preemption._received.clear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_stops_the_run_at_the_next_poll(number):
    with preemption.watch_signals():
        preemption.poll()
        preemption.poll_together(0)
        send(number)
        for poll in (preemption.poll, lambda: preemption.poll_together(3)):
            with pytest.raises(PreemptedError, match=f"stopped by {number.name}") as e:
                poll()
            assert e.value.exit_code == 75


def test_sigterm_again_does_not_kill():
    with preemption.watch_signals():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(PreemptedError):
            preemption.poll()


def test_a_second_ctrl_c_interrupts_at_once():
    with preemption.watch_signals():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_are_restored_and_old_notes_forgotten(handlers):
    with preemption.watch_signals():
        assert signal.getsignal(signal.SIGTERM) is not handlers[signal.SIGTERM]
        send(signal.SIGINT)
    for number, handler in handlers.items():
        assert signal.getsignal(number) is handler
    with preemption.watch_signals():
        preemption.poll()


def test_in_another_thread_signals_are_left_alone(handlers):
    seen = []

    def work():
        with preemption.watch_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers[signal.SIGTERM]]


def test_one_of_several_processes_leaves_only_together_with_the_others(monkeypatch):
    asked = []

    def gather(flags):
        asked.append(int(flags[0]))
        return [[0], [1]]  # This process had no signal, the other had.

    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils,
        "process_allgather",
        lambda flags: np.array(gather(flags)),
    )
    with preemption.watch_signals():
        for step in range(1, 10):
            preemption.poll_together(step)
        assert asked == []
        with pytest.raises(PreemptedError, match="another process"):
            preemption.poll_together(10)
        assert asked == [0]
        preemption._received.append("SIGTERM")
        preemption.poll()  # Alone it must not leave.
        preemption.poll_together(11)
