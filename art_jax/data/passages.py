"""Passages, and the files that hold them."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text to search for.

    passage_id: its id in the corpus file, unique there.
    text: what is searched and shown.
    title: of the document it was cut from; "" where there is none.
    """

    passage_id: str
    text: str
    title: str = ""
