"""Patterns of CuratedTREC as sets of answers, for measures of several answers."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator

from art_jax.data.questions import Question
from art_jax.errors import require_package

MAX_MATCHES = 100
MAX_WORDS = 5


def find_answer_sets(
    questions: Iterable[Question],
    texts: Iterable[str],
    normalize: Callable[[str], str],
    *,
    max_matches: int = MAX_MATCHES,
    max_words: int = MAX_WORDS,
) -> Iterator[Question]:
    """Yields the questions with what their patterns match in the evidence.

    `answer_groups` are the distinct matches, in lower case and the order they are
    found in; those that are equal once normalised and without spaces are aliases of one
    answer: "New York" and "newyork". `answers` are all of them. A question is left out
    where nothing matches, or too much: its pattern says what an answer looks like, not
    what it is.

    Args:
        questions: whose answers are regular expressions.
        texts: of the passages. Each is searched for every pattern, one after the other:
            for millions, give a share of the questions to each of several processes.
        normalize: of an answer, such as `evaluation.answers.normalize`.
        max_matches: distinct matches of a question.
        max_words: of an answer; longer matches count, but are no answers.

    Source: Min et al., "Joint Passage Ranking for Diverse Multi-Answer Retrieval"
        (2021), appendix. Differs in: it does not say how matches are counted; here in
        lower case.
    """
    asked = list(questions)
    patterns = [_compile(question.answers) for question in asked]
    matches: list[dict[str, None]] = [{} for _ in asked]
    alive = set(range(len(asked)))
    for text in texts:
        text = unicodedata.normalize("NFD", text)
        for place in sorted(alive):
            found = matches[place]
            for pattern in patterns[place]:
                for match in pattern.finditer(text):
                    found.setdefault(" ".join(match.group().lower().split()))
            if len(found) > max_matches:
                alive.discard(place)
    for place in sorted(alive):
        groups = _groups(matches[place], normalize, max_words)
        if groups:
            question = asked[place]
            yield Question(
                question.question_id,
                question.text,
                tuple(alias for group in groups for alias in group),
                answer_groups=groups,
            )


def _groups(
    matches: Iterable[str], normalize: Callable[[str], str], max_words: int
) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for match in matches:
        key = normalize(match).replace(" ", "")
        if key and len(match.split()) <= max_words:
            groups.setdefault(key, []).append(unicodedata.normalize("NFC", match))
    return tuple(map(tuple, groups.values()))


def _compile(patterns: Iterable[str]) -> list:
    """Compiled as answers are matched; what is no pattern matches nothing."""
    regex = require_package("regex", purpose="Matching patterns of answers")
    flags = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(regex.compile(unicodedata.normalize("NFD", pattern), flags))
        except regex.error:
            continue
    return compiled
