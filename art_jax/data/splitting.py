"""Documents cut into the short passages that a retriever searches.

Two ways: blocks of so many words, as DPR cuts (`split_into_passages`), and whole
sentences packed up to so many tokens, as KILT cuts (`split_paragraphs`).
"""

import dataclasses
import re
from collections.abc import Hashable, Iterable, Iterator

from art_jax.errors import ConfigError

# Marks that end a sentence, with what closes behind them, before a capital, a digit or
# a mark that opens. Words stand one space apart.
_SENTENCE_END = re.compile(
    r"[.!?…][\"'”’»)\]]* (?=[\"'“‘«(\[]*[^\W_a-z\u00df-\u00f6\u00f8-\u00ff])"
)
_OPENING_MARKS = "\"'“‘«(["
_DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
# Short forms that end no sentence; others ("Inc.", "etc.") well may.
_BEFORE_NAMES = re.compile(
    "mrs?|ms|dr|prof|rev|hon|st|mt|ft|gen|col|lt|maj|sgt|capt|cmdr|adm|gov|sen|rep"
    "|pres|ca|cf|vs|viz|approx",
    re.IGNORECASE,
)
_BEFORE_NUMBERS = re.compile(
    "nos?|vols?|pp|figs?|eds?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
# Kana and ideographs stand one a token: nothing separates words there.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)+"  # 1,000 and 3.14 and 10:30
    r"|(?:[^\W\d_]\.){2,}"  # U.S.
    rf"|['’]?[^\W{_UNSPACED}]+"  # a word, or the 's behind one
    r"|\.{2,}|-{2,}"
    r"|[^\s]"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of a document.

    number: its place in the document.
    section: what the section it stands in is called; passages never cross sections.
    text: white space in it counts as one space.
    """

    number: int
    section: Hashable
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A passage cut from a document, without id and title.

    last_paragraph: the number of the paragraph where it ends.
    section: it stands in.
    text: words one space apart.
    num_tokens: as `count_tokens` counts.
    """

    last_paragraph: int
    section: Hashable
    text: str
    num_tokens: int


def split_into_passages(text: str, max_words: int = 100) -> list[str]:
    """Cuts a text into disjoint pieces of `max_words` words, in order.

    A word is what stands between white space. Every word is in exactly one piece and
    the words of a piece are joined by single spaces. The last piece may be shorter;
    a text without words gives no piece.

    Args:
        text: of one document.
        max_words: words of a piece, at least 1.

    Raises:
        ConfigError: `max_words` is below 1.

    Source: Karpukhin et al., arXiv:2004.04906, section 4.1 (blocks of 100 words).
        Differs in: the last block of a document is kept short; DPR's own dump fills
        it up with the beginning of the document.
    """
    if max_words < 1:
        raise ConfigError(f"max_words is {max_words}; a passage needs at least 1 word")
    words = text.split()
    return [
        " ".join(words[start : start + max_words])
        for start in range(0, len(words), max_words)
    ]


def split_paragraphs(
    paragraphs: Iterable[Paragraph], max_tokens: int = 100
) -> Iterator[Piece]:
    """Yields the passages of a document, whole sentences of at most `max_tokens`.

    A paragraph is filled into passages sentence by sentence. One that fits a single
    passage joins the passage before it where both are of one section and fit
    together. Every word is in exactly one passage, in order.

    Args:
        paragraphs: of one document, in order.
        max_tokens: of a passage, at least 1. Only a sentence that is longer is cut,
            between words where it has any.

    Raises:
        ConfigError: `max_tokens` is below 1.

    Source: the chunks that KILT was built with (Petroni et al., arXiv:2009.02252).
        Differs in: there sentences and tokens are spaCy's, here they are told by
        rules (`split_sentences`, `count_tokens`); there a passage of several
        sentences has fewer than 100 tokens, here at most; there a sentence of more
        tokens is left whole.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}; a passage needs at least 1")
    before: Piece | None = None
    for paragraph in paragraphs:
        pieces = _pack_sentences(split_sentences(paragraph.text), max_tokens)
        for text, num_tokens in pieces:
            piece = Piece(paragraph.number, paragraph.section, text, num_tokens)
            if before is not None:
                if (
                    len(pieces) == 1
                    and before.section == piece.section
                    and before.num_tokens + num_tokens <= max_tokens
                ):
                    before = dataclasses.replace(
                        piece,
                        text=f"{before.text} {text}",
                        num_tokens=before.num_tokens + num_tokens,
                    )
                    continue
                yield before
            before = piece
    if before is not None:
        yield before


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, words one space apart; none where it has no words.

    A sentence ends at ".", "!", "?" or "…", with quotes and brackets that close
    behind it, before white space and a word that begins with a capital or a digit.
    A full stop behind an initial ("J.", "U.S.") or a short form that stands before
    names and numbers ("Dr.", "No.", "Jan.") ends none.

    Differs in: spaCy, which KILT used, lets a trained parser decide. These rules miss
        an end before a lower-case word and at "U.S. He"; they know English.
    """
    text = " ".join(text.split())
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if text[match.start()] == "." and _is_short_form(text, start, match):
            continue
        sentences.append(text[start : match.end() - 1])
        start = match.end()
    if start < len(text):
        sentences.append(text[start:])
    return sentences


def count_tokens(text: str) -> int:
    """How many words, numbers and single marks a text has.

    "John's 1,000 U.S. dollars." has 6: John, 's, 1,000, U.S., dollars and the stop.

    Differs in: spaCy's English tokeniser, which also knows exceptions ("cannot") and
        keeps Web addresses whole.
    """
    return len(_TOKEN.findall(text))


def _is_short_form(text: str, start: int, match: re.Match) -> bool:
    """Whether the word before a full stop only seems to end a sentence."""
    space = text.rfind(" ", start, match.start())
    word = text[max(space + 1, start) : match.start()].lstrip(_OPENING_MARKS)
    if _DOTTED.fullmatch(word) or _BEFORE_NAMES.fullmatch(word):
        return True
    return text[match.end()].isdigit() and bool(_BEFORE_NUMBERS.fullmatch(word))


def _pack_sentences(sentences: list[str], max_tokens: int) -> list[tuple[str, int]]:
    """The texts of a paragraph's passages and how many tokens each has."""
    packed: list[tuple[str, int]] = []
    kept: list[str] = []
    num_kept = 0
    for sentence in sentences:
        num_tokens = count_tokens(sentence)
        if kept and num_kept + num_tokens > max_tokens:
            packed.append((" ".join(kept), num_kept))
            kept, num_kept = [], 0
        if num_tokens > max_tokens:
            *full, (sentence, num_tokens) = _cut_sentence(sentence, max_tokens)
            packed += full
        kept.append(sentence)
        num_kept += num_tokens
    if kept:
        packed.append((" ".join(kept), num_kept))
    return packed


def _cut_sentence(sentence: str, max_tokens: int) -> list[tuple[str, int]]:
    """Parts of at most `max_tokens`, cut at spaces; inside a word only if it must."""
    tokens = [match.span() for match in _TOKEN.finditer(sentence)]
    parts, first = [], 0
    while first < len(tokens):
        last = min(first + max_tokens, len(tokens))
        if last < len(tokens):
            after_space = [
                place
                for place in range(first + 1, last + 1)
                if sentence[tokens[place][0] - 1] == " "
            ]
            last = max(after_space, default=last)
        text = sentence[tokens[first][0] : tokens[last - 1][1]]
        parts.append((text, last - first))
        first = last
    return parts
