"""KILT's knowledge source: pages of Wikipedia, cut into passages that its tasks name.

A line is a page: `wikipedia_id`, `wikipedia_title` and `text`, a list of paragraphs.
The first is the title again, "Section::::NAME." begins a section, and "BULLET::::" an
item of a list. A passage's id is `PAGE+PARAGRAPH+PIECE`: the page, the paragraph where
the passage ends, counted from 0 as KILT's provenance counts, and which of the passages
that end there it is. So the place that a task asks for is read off the id.

Source: Petroni et al., arXiv:2009.02252, and its published files.
"""

import collections
import os
from collections.abc import Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.data.passages import Passage
from art_jax.data.splitting import Paragraph, split_paragraphs
from art_jax.errors import DataError

_SECTION = "Section::::"


def is_page(record: dict[str, Any]) -> bool:
    """Whether a JSON object looks like a page of the knowledge source."""
    return "wikipedia_id" in record and isinstance(record.get("text"), list)


def page_passages(
    record: dict[str, Any],
    path: str | os.PathLike,
    number: int,
    *,
    max_tokens: int = 100,
) -> Iterator[Passage]:
    """Yields the passages of a page, whole sentences of at most `max_tokens`.

    A page that is a title alone has none. Names of sections are not in the text: a
    passage never holds more than one section. Marks of lists stay.

    Args:
        record: the page.
        path: of its file, for messages.
        number: of its line.
        max_tokens: see `splitting.split_paragraphs`.

    Raises:
        DataError: the page has no id, no title, or no list of strings for its text.
    """
    page = (text_files.json_id(record, ("wikipedia_id",), path, number) or "").strip()
    if not page or "+" in page:
        raise DataError(
            f"'wikipedia_id' is {record.get('wikipedia_id')!r}; it must be there, "
            "without '+'.",
            path,
            number,
        )
    title = text_files.json_text(record, "wikipedia_title", path, number)
    pieces_ending_in = collections.Counter()
    paragraphs = _paragraphs(record, path, number)
    for piece in split_paragraphs(paragraphs, max_tokens):
        place = piece.last_paragraph
        passage_id = f"{page}+{place}+{pieces_ending_in[place]}"
        pieces_ending_in[place] += 1
        yield Passage(passage_id, piece.text, title)


def _paragraphs(
    record: dict[str, Any], path: str | os.PathLike, number: int
) -> Iterator[Paragraph]:
    """Yields what is neither the title nor the name of a section."""
    texts = record.get("text")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            "'text' is no list of paragraphs. Is this KILT's knowledge source?",
            path,
            number,
        )
    section = 0  # sections of one name are different ones
    for place, text in enumerate(texts):
        text_files.checked_text(text, "text", path, number)
        if place and text.lstrip().startswith(_SECTION):
            section += 1
        elif place and text_files.is_visible(text):
            yield Paragraph(place, section, text)
