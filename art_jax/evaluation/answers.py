"""Whether a passage holds one of a question's answers.

Only the passage's text counts, never its title. Text and answers are compared in NFD,
so composed and decomposed accents are equal, and accents still matter.

    string: the answer's tokens occur in the text one after the other, whatever the
        case. A token is a run of letters, digits and marks, or any other character
        that is neither a space nor a control character. Articles count as tokens.
    regex: the answer is a regular expression of the module `regex`, searched for
        anywhere in the text, whatever the case; ^ and $ match at line ends.
    kilt: both are normalised as for exact match (lower case, no punctuation, no
        articles, single spaces), then the answer is a substring of the text.

An answer with nothing to compare (empty, no token left, not a valid expression) never
matches. The official code lets an empty answer match every passage.

Source: DPR (arXiv:2004.04906), ART (arXiv:2206.10658) and KILT (arXiv:2009.02252), the
    protocol of their official evaluators.
"""

import dataclasses
import functools
import logging
import string
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import regex

from art_jax.errors import ConfigError

MATCHES = ("string", "regex", "kilt")

_FLAGS = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", _FLAGS)
_ARTICLE = regex.compile(r"\b(a|an|the)\b", regex.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

_logger = logging.getLogger(__name__)


def tokenize(text: str) -> list[str]:
    """The tokens that string matching compares, in NFD and lower case."""
    return [token.lower() for token in _TOKEN.findall(_nfd(text))]


def normalize(text: str) -> str:
    """The text as exact match compares it.

    Lower case, then without ASCII punctuation, then without a, an and the, then with
    single spaces. Punctuation goes first, so "the-man" becomes "theman".
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def has_answer(text: str, answers: Sequence[str], match: str = "string") -> bool:
    """True if the text holds one of the answers; how they are compared: see above.

    Args:
        text: of one passage, without its title.
        answers: of one question; those that cannot match are passed over.
        match: one of `MATCHES`.

    Raises:
        ConfigError: `match` is none of `MATCHES`.
    """
    prepare_text, prepare_answer = _matcher(match)
    tests = filter(None, map(prepare_answer, answers))
    prepared = prepare_text(text)
    return any(test(prepared) for test in tests)


def find_answer(
    text: str, answer: str, match: str = "string"
) -> tuple[int, str] | None:
    """Where a text holds an answer first, and what stands there; None where nowhere.

    The place is a number to compare with those of other answers in the same text. What
    stands there is the answer itself or, of an expression, what it matches.

    Raises:
        ConfigError: `match` is none of `MATCHES`.
    """
    if not has_answer(text, (answer,), match):
        return None
    if match == "regex":
        found = regex.compile(_nfd(answer), _FLAGS).search(_nfd(text))
        return found.start(), unicodedata.normalize("NFC", found.group())
    form = normalize if match == "kilt" else _spaced_tokens
    return form(text).index(form(answer)), answer


def answer_hits(
    rows: np.ndarray,
    text_of_row: Callable[[int], str],
    answers: Sequence[Sequence[str]],
    match: str = "string",
) -> np.ndarray:
    """`has_answer` of each question and each of its passages.

    The text of a row is prepared once, however many questions found it.

    Args:
        rows: [n, K] integers, the passages found for each question; -1 for none.
        text_of_row: gives the text of a row, without its title.
        answers: n sequences of answers.
        match: one of `MATCHES`.

    Returns:
        [n, K] bool; False where `rows` is -1.

    Raises:
        ConfigError: `match` is none of `MATCHES`.
        ValueError: `rows` and `answers` are of different lengths.
    """
    prepare_text, prepare_answer = _matcher(match)
    if len(rows) != len(answers):
        raise ValueError(
            f"rankings of {len(rows)} questions, answers of {len(answers)}"
        )
    prepared = {
        row: prepare_text(text_of_row(row))
        for row in np.unique(rows).tolist()
        if row >= 0
    }
    tests = [[prepare_answer(answer) for answer in each] for each in answers]
    _warn_of_unusable(tests, answers, match)
    hits = np.zeros(np.shape(rows), bool)
    for place, (found, maybe_tests) in enumerate(
        zip(np.asarray(rows).tolist(), tests, strict=True)
    ):
        usable = [test for test in maybe_tests if test is not None]
        hits[place] = [
            row >= 0 and any(test(prepared[row]) for test in usable) for row in found
        ]
    return hits


def count_unusable_answers(
    answers: Sequence[Sequence[str]], match: str = "string"
) -> int:
    """How many of the answers can never match, being empty or no valid expression."""
    _, prepare_answer = _matcher(match)
    return sum(prepare_answer(answer) is None for each in answers for answer in each)


def _warn_of_unusable(tests, answers, match: str) -> None:
    unusable = [
        answer
        for some_tests, each in zip(tests, answers, strict=True)
        for test, answer in zip(some_tests, each, strict=True)
        if test is None
    ]
    if unusable:
        _logger.warning(
            "%d answers never match (%s matching), being empty or no valid "
            "expression; the first is %r",
            len(unusable),
            match,
            unusable[0],
        )


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _spaced_tokens(text: str) -> str:
    """The tokens with one space before, between and after them.

    No token holds a space, so a sub-list of tokens is a substring of this; and no
    letter's lower case depends on what stands beyond a space.
    """
    return f" {' '.join(_TOKEN.findall(_nfd(text)))} ".lower()


@dataclasses.dataclass(frozen=True)
class _TokenText:
    """A text whose tokens are looked for, but only where an answer may be in it.

    nfd: the text in NFD.
    """

    nfd: str

    @functools.cached_property
    def folded(self) -> str:
        return self.nfd.casefold()

    @functools.cached_property
    def spaced(self) -> str:
        return _spaced_tokens(self.nfd)


def _contains_tokens(answer: str) -> Callable[[_TokenText], bool] | None:
    """A test for an answer's tokens.

    Cutting a text into tokens costs more than all else, and few passages need it:
    letters equal in lower case are equal when folded, so a text that does not hold
    the answer's longest token, both folded, does not hold the answer.
    """
    needle = _spaced_tokens(answer)
    if not needle.strip():
        return None
    longest = max(needle.split(), key=len).casefold()
    return lambda text: longest in text.folded and needle in text.spaced


def _contains(needle: str) -> Callable[[str], bool] | None:
    return (lambda text: needle in text) if needle.strip() else None


def _search(pattern: str) -> Callable[[str], bool] | None:
    if not pattern:
        return None
    try:
        search = regex.compile(_nfd(pattern), _FLAGS).search
    except regex.error:
        return None
    return lambda text: search(text) is not None


def _matcher(match: str):
    """How `match` prepares a text, and what it makes of an answer: a test or None."""
    if match == "string":
        return lambda text: _TokenText(_nfd(text)), _contains_tokens
    if match == "regex":
        return _nfd, _search
    if match == "kilt":
        return normalize, lambda answer: _contains(normalize(answer))
    raise ConfigError(f"match={match!r} is none of {', '.join(MATCHES)}")
