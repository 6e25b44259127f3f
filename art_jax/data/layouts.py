"""Rows of token ids as a model reads them: `prefix title separator text suffix`.

The evidence store holds the bare ids of every title and text; a layout adds the
special tokens or the prompt around them when a batch is made, so one store serves
every sequence length and every prompt.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from art_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """The token ids of every row of the evidence, one after the other.

    token_ids: [T] uint16 or uint32, title ids then text ids of row 0, of row 1, ...;
        no special tokens. May be a memory map.
    offsets: [N + 1] int64, where each row starts in `token_ids`; the last is T.
    title_lengths: [N] int32, how many of a row's ids belong to its title.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    title_lengths: np.ndarray

    @property
    def num_rows(self) -> int:
        """The number of rows, N."""
        return len(self.title_lengths)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What stands around a passage's or a question's ids in a row of fixed length.

    A row is `prefix + title + separator + text + suffix`, then `pad_id` up to
    `max_tokens`. A row that is too long loses ids from the right end of
    `prefix + title + separator + text`, so the suffix (a final [SEP], the teacher's
    instruction) is always whole. Without a title there is no separator.

        BERT: prefix=(cls,), separator=(sep,), suffix=(sep,)
        T5 teacher: prefix=ids("Passage: "), separator=(),
            suffix=ids(" . Please write a question based on this passage.") + (eos,)

    Source: ART's official code, as described in arXiv:2206.10658. Differs in: there a
        row that fits exactly is emptied by an off-by-one; here it is kept whole.

    Raises:
        ConfigError: prefix and suffix leave no room for a single id.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]
    max_tokens: int
    pad_id: int = 0

    def __post_init__(self):
        fixed_tokens = len(self.prefix) + len(self.suffix)
        if fixed_tokens >= self.max_tokens:
            raise ConfigError(
                f"a row of {self.max_tokens} tokens has no room for text: its prefix "
                f"and suffix take {fixed_tokens}. Raise max_tokens or shorten them."
            )

    @property
    def max_head_tokens(self) -> int:
        """The most ids that can stand before the suffix."""
        return self.max_tokens - len(self.suffix)


def make_token_table(
    titles: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], dtype=np.uint32
) -> TokenTable:
    """A table in memory, one row for each pair of title ids and text ids.

    Args:
        titles: N sequences of ids; an empty one where a row has no title.
        texts: N sequences of ids.
        dtype: of the ids.

    Raises:
        ValueError: `titles` and `texts` differ in length.
    """
    title_lengths = np.fromiter(map(len, titles), np.int32, len(titles))
    text_lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if len(titles) != len(texts):
        raise ValueError(f"{len(titles)} titles for {len(texts)} texts: give one each")
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(title_lengths + text_lengths, out=offsets[1:])
    flat = (
        token
        for title, text in zip(titles, texts, strict=True)
        for part in (title, text)
        for token in part
    )
    return TokenTable(np.fromiter(flat, dtype, offsets[-1]), offsets, title_lengths)


def layout_rows(layout: Layout, tokens: TokenTable, rows: np.ndarray) -> np.ndarray:
    """The laid-out token ids of some rows.

    Args:
        layout: what to put around the ids, and how many tokens a row has.
        tokens: the table the rows are of.
        rows: [...] integers in [0, N); a row may occur more than once.

    Returns:
        [..., max_tokens] int32.

    Raises:
        ValueError: a row is outside the table; -1, which search gives where it found
            no passage, has no tokens either.
    """
    shape = np.shape(rows)
    rows = _checked_rows(tokens, rows)
    title_lengths, separators, heads = _part_lengths(layout, tokens, rows)
    kept_heads = np.minimum(heads, layout.max_head_tokens)
    out = np.full((len(rows), layout.max_tokens), layout.pad_id, np.int32)
    num_prefix = len(layout.prefix)
    out[:, :num_prefix] = layout.prefix

    # Title and text stand side by side in the table, so one copy moves both; behind
    # the title it lands further right by the separator.
    kept_titles = np.minimum(title_lengths, kept_heads - num_prefix)
    kept_texts = np.maximum(kept_heads - num_prefix - title_lengths - separators, 0)
    counts = kept_titles + kept_texts
    copied_rows = np.repeat(np.arange(len(rows)), counts)
    places = np.arange(len(copied_rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    behind_title = places >= title_lengths[copied_rows]
    columns = num_prefix + places + behind_title * separators[copied_rows]
    out[copied_rows, columns] = tokens.token_ids[
        tokens.offsets[rows][copied_rows] + places
    ]

    every_row = np.arange(len(rows))
    for place, token in enumerate(layout.separator):
        columns = num_prefix + title_lengths + place
        here = (separators > 0) & (columns < kept_heads)
        out[every_row[here], columns[here]] = token
    for place, token in enumerate(layout.suffix):
        out[every_row, kept_heads + place] = token
    return out.reshape(*shape, layout.max_tokens)


def layout_lengths(layout: Layout, tokens: TokenTable, rows: np.ndarray) -> np.ndarray:
    """How many tokens of each laid-out row are in use, the rest being padding.

    Args:
        layout: as for `layout_rows`.
        tokens: as for `layout_rows`.
        rows: [...] integers in [0, N).

    Returns:
        [...] int32, between the length of prefix and suffix and `max_tokens`.
    """
    shape = np.shape(rows)
    *_, heads = _part_lengths(layout, tokens, _checked_rows(tokens, rows))
    lengths = np.minimum(heads, layout.max_head_tokens) + len(layout.suffix)
    return lengths.astype(np.int32).reshape(shape)


def layout_token_lists(layout: Layout, lists: Sequence[Sequence[int]]) -> np.ndarray:
    """The laid-out token ids of texts without titles, such as questions.

    Args:
        layout: what to put around the ids; its separator is not used.
        lists: n sequences of token ids.

    Returns:
        [n, max_tokens] int32.
    """
    table = make_token_table([()] * len(lists), lists)
    return layout_rows(layout, table, np.arange(len(lists)))


def _checked_rows(tokens: TokenTable, rows: np.ndarray) -> np.ndarray:
    """The rows as [n] int64, all inside the table."""
    rows = np.asarray(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows must be integers, not {rows.dtype}")
    rows = rows.astype(np.int64).reshape(-1)
    outside = (rows < 0) | (rows >= tokens.num_rows)
    if outside.any():
        raise ValueError(
            f"row {rows[outside][0]} is not in the table, whose rows are 0 to "
            f"{tokens.num_rows - 1}: mask the slots that hold no passage first."
        )
    return rows


def _part_lengths(
    layout: Layout, tokens: TokenTable, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of title, of separator, and of all before the suffix, each [n] int64."""
    body_lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
    title_lengths = tokens.title_lengths[rows].astype(np.int64)
    separators = np.where(title_lengths > 0, len(layout.separator), 0)
    return title_lengths, separators, len(layout.prefix) + body_lengths + separators
