"""The passages of many rankings, each once, as rows that a teacher can be asked for."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from art_jax.data.examples import RankedQuestion
from art_jax.data.layouts import Layout, TokenTable
from art_jax.data.passages import Passage


@dataclasses.dataclass(frozen=True, eq=False)
class PassagePool:
    """Passages that differ in their text or title, and the rankings of them.

    passages: N passages.
    rows: [n, K] int32, of each question the passages' numbers, best first; -1 behind
        a shorter ranking.
    """

    passages: tuple[Passage, ...]
    rows: np.ndarray


def make_pool(ranked: Sequence[RankedQuestion]) -> PassagePool:
    """Returns the passages of some rankings.

    Args:
        ranked: n questions; a ranking may be empty.
    """
    numbers: dict[tuple[str, str], int] = {}
    passages: list[Passage] = []
    depth = max((len(one.candidates) for one in ranked), default=0)
    rows = np.full((len(ranked), depth), -1, np.int32)
    for place, one in enumerate(ranked):
        for rank, candidate in enumerate(one.candidates):
            passage = candidate.passage
            key = passage.title, passage.text
            number = numbers.setdefault(key, len(passages))
            if number == len(passages):
                passages.append(passage)
            rows[place, rank] = number
    return PassagePool(tuple(passages), rows)


def tokens_digest(tokens: TokenTable, layout: Layout) -> str:
    """Returns a digest of rows as they are laid out, under which scores are kept."""
    digest = hashlib.sha256(repr(dataclasses.astuple(layout)).encode())
    for array, dtype in (
        (tokens.token_ids, "<u4"),
        (tokens.offsets, "<i8"),
        (tokens.title_lengths, "<i4"),
    ):
        digest.update(np.ascontiguousarray(array, dtype).tobytes())
    return digest.hexdigest()
