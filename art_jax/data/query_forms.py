"""How a retriever reads the questions of each task it was trained on.

A retriever of several tasks may put a marker before each question, know some texts as
single pieces, or read the part of a long document that a question is about. The same
form serves training, evaluation and search, and is saved with the retriever.

Markers are words of no text, so they take rows that BERT's vocabulary leaves unused.

Source: Maillard et al., arXiv:2101.00117, and its official code, as described in
    reference/systems.md, section 4.1.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from art_jax.data.mention_windows import MENTION, mention_window, window_draw
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError

# By their place, each has a row: the first that of "[unused0]".
MARKERS = (MENTION, "[END_ENT]", "[Q]", "[R]", "[F]", "[D]")


@dataclasses.dataclass(frozen=True)
class QueryForm:
    """How the questions of one task are read.

    marker: put before the question as a piece of its own, such as "[Q]"; "": none.
    suffix: put behind a question that does not end in it, such as "?".
    special: texts that are one piece wherever they stand in a question: those of
        `MARKERS`, or pieces of the vocabulary such as "[SEP]", which KILT's slot
        filling has between subject and relation.
    keep_mention: of a document too long to be read, read the part around its mention,
        see `mention_windows`.
    tower: the question tower that reads it, of `DualEncoder.query_towers`; "" where
        there is but one.
    """

    marker: str = ""
    suffix: str = ""
    special: tuple[str, ...] = ()
    keep_mention: bool = False
    tower: str = ""

    def __post_init__(self):
        object.__setattr__(self, "special", tuple(self.special))

    @property
    def pieces(self) -> tuple[str, ...]:
        """All texts that are one piece."""
        return (*filter(None, [self.marker]), *self.special)


PLAIN = QueryForm()


def find_special_ids(
    forms: Iterable[QueryForm], tokenizer: WordPieceTokenizer
) -> dict[str, int]:
    """The ids of all texts that are one piece, by text.

    A piece of the vocabulary has its own id, a marker that of an unused one.

    Raises:
        ConfigError: a text is neither, or the vocabulary has no row for a marker.
    """
    ids = {}
    for text in dict.fromkeys(text for form in forms for text in form.pieces):
        if text in tokenizer.pieces:
            ids[text] = tokenizer.pieces.index(text)
            continue
        if text not in MARKERS:
            raise ConfigError(
                f"{text!r} is neither a piece of the vocabulary nor one of the markers "
                f"{', '.join(MARKERS)}: choose one, or name an unused piece of the "
                "vocabulary, such as [unused9]."
            )
        row = unused_piece(text)
        if row not in tokenizer.pieces:
            raise ConfigError(
                f"the marker {text!r} has the row of {row!r}, which the vocabulary "
                "lacks: BERT's have it; a vocab.txt of your own needs that line."
            )
        ids[text] = tokenizer.pieces.index(row)
    return ids


def unused_piece(marker: str) -> str:
    """The piece of BERT's vocabulary whose row a marker of `MARKERS` takes."""
    return f"[unused{MARKERS.index(marker)}]"


def with_unused_pieces(
    tokenizer: WordPieceTokenizer, forms: Iterable[QueryForm]
) -> WordPieceTokenizer:
    """The tokeniser with rows for all `MARKERS` behind its pieces, if any is used."""
    if not {text for form in forms for text in form.pieces}.intersection(MARKERS):
        return tokenizer
    added = [piece for piece in map(unused_piece, MARKERS)]
    missing = [piece for piece in added if piece not in tokenizer.pieces]
    return dataclasses.replace(tokenizer, pieces=(*tokenizer.pieces, *missing))


def find_task(name: str, forms: Mapping[str, QueryForm]) -> str | None:
    """The task that a SeqIO task is of, such as "nq" of "multikilt_nq_1024"; or None.

    Its name is the task's, maybe behind a family's and before a number of examples.
    """
    found = [
        task
        for task in forms
        if re.fullmatch(rf"(.*_)?{re.escape(task)}(_\d+k?)?", name)
    ]
    return max(found, key=len, default=None)


def query_text(text: str, suffix: str) -> str:
    """A question with plain apostrophes and the suffix, where it does not end in it."""
    text = text.replace("’", "'")
    return text if not suffix or text.endswith(suffix) else text + suffix


def encode_queries(
    questions: Sequence[Question],
    form: QueryForm,
    *,
    tokenizer: WordPieceTokenizer,
    special_ids: Mapping[str, int],
    max_tokens: int,
) -> list[list[int]]:
    """The ids of some questions of one task, without [CLS] and [SEP] around them.

    Args:
        questions: n of them.
        form: how they are read.
        tokenizer: of the question tower.
        special_ids: from `find_special_ids`.
        max_tokens: Q, [CLS] and [SEP] included; what does not fit is left to the
            layout, but for mentions.

    Returns:
        n lists.
    """
    texts = [query_text(question.text, form.suffix) for question in questions]
    encoded = _encode(texts, form.special, tokenizer, special_ids)
    marker = [special_ids[form.marker]] if form.marker else []
    if form.keep_mention:
        (mention,) = _encode([MENTION], form.special, tokenizer, special_ids)
        encoded = [
            mention_window(
                np.asarray(ids, np.int64),
                mention,
                max_tokens - len(marker),
                window_draw(question.question_id),
            ).tolist()
            for ids, question in zip(encoded, questions, strict=True)
        ]
    return [marker + ids for ids in encoded]


def _encode(
    texts: Sequence[str],
    special: Sequence[str],
    tokenizer: WordPieceTokenizer,
    special_ids: Mapping[str, int],
) -> list[list[int]]:
    """The ids of texts in which some words are one piece each."""
    if not special:
        return tokenizer.encode_batch(texts)
    pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")")
    # Every other part is what stands between two special words, and may be empty.
    split = [pattern.split(text) for text in texts]
    between = iter(
        tokenizer.encode_batch([part for parts in split for part in parts[::2]])
    )
    return [
        [
            token
            for place, part in enumerate(parts)
            for token in ([special_ids[part]] if place % 2 else next(between))
        ]
        for parts in split
    ]
