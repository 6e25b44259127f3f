"""How far a verb is that goes through the questions of a file."""

import time
from collections.abc import Callable


def make_progress(
    done_what: str,
    total: int,
    report: Callable[[str], None],
    *,
    every_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int], None]:
    """Returns what is told how many questions are done, and reports now and then.

    Args:
        done_what: to questions, such as "reranked".
        total: questions.
        report: given a line.
        every_seconds: between lines, at least.
        clock: gives seconds.
    """
    first: tuple[float, int] | None = None
    started = shown = clock()

    def progress(done: int) -> None:
        nonlocal first, shown
        now = clock()
        if done == total:
            report(f"{done_what} {total:,} questions in {now - started:.1f} s")
            return
        if first is None:
            # The first took the compilation, or was in the cache: no speed of this run.
            first = now, done
        if now - shown < every_seconds:
            return
        shown = now
        seconds, questions = now - first[0], done - first[1]
        left = ""
        if questions and seconds > 0:
            rest = int((total - done) * seconds / questions)
            left = f"  ETA {rest // 60}:{rest % 60:02d}"
        report(f"{done_what} {done:,}/{total:,} questions{left}")

    return progress
