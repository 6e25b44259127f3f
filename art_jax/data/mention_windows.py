"""The part of a long document that a query about a mention in it is made of.

KILT's AIDA-YAGO2 asks which page the mention between [START_ENT] and [END_ENT] is of,
and gives the whole document, of which an encoder reads 256 tokens.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

MENTION = "[START_ENT]"


def mention_window(
    ids: np.ndarray, marker: Sequence[int], max_tokens: int, draw: float
) -> np.ndarray:
    """The ids that are read: from the start, where the mention is among them.

    Otherwise those from half a row before it on, and up to a quarter of that half more
    or less. Where there is no mention, the ids as they are.

    Args:
        ids: [t] int, of the document, without [CLS] and [SEP].
        marker: the ids that a mention begins with.
        max_tokens: of a row, [CLS] and [SEP] included.
        draw: in [0, 1): how much more or less.

    Returns:
        [u] int, the ids from some place on; what is too long is left to the layout.

    Source: Maillard et al., arXiv:2101.00117, and its official code. Differs in: the
        draw is the question's own and not the next of one generator, so it does not
        depend on the order of questions; a marker may be of several pieces; [SEP]
        follows the last token where the document ends within the window, and does not
        stand behind the padding.
    """
    start = _first_place(ids, marker)
    room = max_tokens - 2
    if start is None or start + len(marker) <= room:
        return ids
    half = max_tokens // 2
    before = half + int((draw - 0.5) * half / 2)
    return ids[max(start - before, 0) :]


def window_draw(question_id: str, seed: int = 0) -> float:
    """A number in [0, 1) that is the question's own."""
    text = f"{seed}\0{question_id}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _first_place(ids: np.ndarray, marker: Sequence[int]) -> int | None:
    if not len(marker) or len(ids) < len(marker):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(marker))
    places = np.flatnonzero((windows == np.asarray(marker)).all(axis=1))
    return int(places[0]) if len(places) else None
