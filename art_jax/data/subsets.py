"""Fewer rows of a file, always the same ones: few-shot training, down-sampling.

A row is drawn by a digest of its id and the seed, so the choice depends neither on the
rows around it nor on any library's random numbers, and fewer rows of the same seed are
among more of them.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from art_jax.data.examples import RankedQuestion, TrainingExample
from art_jax.data.questions import Question

Row = Question | TrainingExample | RankedQuestion


def sampled(rows: Iterable[Row], count: int, seed: int = 0) -> list[Row]:
    """Some of the rows, in their order; all of them where there are fewer.

    Args:
        rows: read once; `count` of them are held.
        count: how many are kept.
        seed: which of them.
    """
    drawn = heapq.nsmallest(
        count,
        ((_digest(row, seed), place, row) for place, row in enumerate(rows)),
        key=lambda one: one[:2],
    )
    return [row for _, _, row in sorted(drawn, key=lambda one: one[1])]


def sampled_readers(
    readers: Mapping[str, Callable[[], Iterable[Row]]], count: int, seed: int = 0
) -> dict[str, Callable[[], Iterable[Row]]]:
    """The readers, of which "train" gives `count` rows of its own."""
    read_all = readers["train"]

    def read() -> Iterator[Row]:
        rows = read_all()  # A file that is missing is missed now.
        return _lazily(lambda: sampled(rows, count, seed))

    return {**readers, "train": read}


def _lazily(rows: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    yield from rows()


def _digest(row: Row, seed: int) -> bytes:
    question = row if isinstance(row, Question) else row.question
    text = f"{seed}\0{question.question_id}".encode()
    return hashlib.blake2b(text, digest_size=8).digest()
