"""KILT's measures of retrieval and of answers that are grounded in it.

A gold item has one or more outputs, each with a set of evidence (ids of pages, or of
pages with a paragraph) and maybe an answer. A guess is one ranking of ids and maybe an
answer. What looks odd here is what the official evaluation computes, and its numbers
are those that papers print.

Source: Petroni et al., arXiv:2009.02252, and the behaviour of its official evaluation.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from art_jax.data.kilt_files import evidence_id as evidence_id
from art_jax.data.kilt_files import page_of, paragraph_of
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import text_measures


@dataclasses.dataclass(frozen=True)
class Gold:
    """What is right for one question.

    evidence: of each output, the ids that support it; empty where it has none.
    answers: of all outputs that have one.
    """

    evidence: tuple[frozenset[str], ...]
    answers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Guess:
    """What a system says of one question.

    ids: of pages or passages, best first.
    answer: None where it gives none.
    """

    ids: tuple[str, ...]
    answer: str | None = None


def r_precision(ids: Sequence[str], evidence: Sequence[frozenset[str]]) -> float:
    """The share of an evidence set among the first R ids, R being its size; the best.

    Ids that come twice count once, at their first place. 0 where there is no evidence.
    """
    distinct = list(dict.fromkeys(ids))
    shares = [
        len(support.intersection(distinct[: len(support)])) / len(support)
        for support in evidence
        if support
    ]
    return max(shares, default=0.0)


def rank_evidence(
    ids: Sequence[str], evidence: Sequence[frozenset[str]]
) -> tuple[list[bool], int]:
    """Where in a ranking each evidence set is complete, and how many sets there are.

    A set is a hit at the place where its last id comes. Its earlier ids leave no
    place behind once the next one is found, so the places after them move up; those
    of a set never completed stay as misses.

    Args:
        ids: best first; those that come twice count once.
        evidence: sets of ids; equal ones count once, empty ones not at all.
    """
    distinct = [set(support) for support in dict.fromkeys(evidence) if support]
    num_sets = len(distinct)
    rank: list[bool | int] = []  # an int: the number of a set found in part
    for one in dict.fromkeys(ids):
        was_found = False
        for number, rest in enumerate(distinct):
            if one not in rest:
                continue
            was_found = True
            rest.remove(one)
            rank = [place for place in rank if type(place) is bool or place != number]
            rank.append(number if rest else True)
        if not was_found:
            rank.append(False)
    return [place is True for place in rank], num_sets


def retrieval_scores(
    ids: Sequence[str], evidence: Sequence[frozenset[str]], ks: Sequence[int]
) -> dict[str, float]:
    """R-precision, and precision, recall and success at each k, of one ranking.

    Args:
        ids: best first.
        evidence: as in `Gold`.
        ks: each 1 or more. A ranking shorter than k has misses at its end.

    Returns:
        {"r_precision": ..., "precision_at_k", "recall_at_k", "success_at_k" of each k}.

    Raises:
        ConfigError: a k is below 1.
    """
    if min(ks, default=1) < 1:
        raise ConfigError(f"the depths {tuple(ks)} must each be 1 or more.")
    hits, num_sets = rank_evidence(ids, evidence)
    scores = {"r_precision": r_precision(ids, evidence)}
    for k in ks:
        found = sum(hits[:k])
        scores[f"precision_at_{k}"] = found / k
        scores[f"recall_at_{k}"] = found / num_sets if num_sets else 0.0
        scores[f"success_at_{k}"] = float(found > 0)
    return scores


def level_scores(
    ids: Sequence[str], evidence: Sequence[Sequence[str]], ks: Sequence[int]
) -> dict[str, float]:
    """R-precision, recall and success of one ranking, of pages and of passages.

    At the level of pages, each id stands for its page. At that of passages, for its
    paragraph, as KILT compares "passages" by the paragraph they end in; ids of mere
    pages do not take part.

    Args:
        ids: of passages, paragraphs or pages, best first, see `kilt_files`.
        evidence: of each output, the ids of paragraphs or pages that support it.
        ks: each 1 or more.

    Returns:
        {"page_r_precision": ..., "page_recall_at_k", "page_success_at_k" of each k,
        and the same of "passage_..."}.

    Raises:
        ConfigError: a k is below 1.
    """
    scores = {}
    for level, of in (("page", page_of), ("passage", paragraph_of)):
        golds = [frozenset(filter(None, map(of, support))) for support in evidence]
        found = [one for one in map(of, ids) if one]
        for name, score in retrieval_scores(found, golds, ks).items():
            if not name.startswith("precision"):  # success where k is 1
                scores[f"{level}_{name}"] = score
    return scores


def answer_scores(answer: str | None, golds: Sequence[str]) -> dict[str, float]:
    """Accuracy, exact match, token F1 and ROUGE-L of an answer, the best of its golds.

    Accuracy asks for the very string, spaces around it aside. No answer scores 0.
    """
    if not answer or not golds:
        return dict.fromkeys(("accuracy", "em", "f1", "rouge_l"), 0.0)
    return {
        "accuracy": float(answer.strip() in {gold.strip() for gold in golds}),
        "em": float(text_measures.exact_match(answer, golds)),
        "f1": max(text_measures.token_f1(answer, gold) for gold in golds),
        "rouge_l": max(rouge_l(answer, gold) for gold in golds),
    }


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L as KILT reports it, over distinct words, by case, sentence by sentence.

    Sentences end at full stops, words at spaces. Each word of any common subsequence
    of two sentences counts once; so does each word of either text below the line.

    Source: the package `rouge` 1.0, which KILT's evaluation calls. Textbook ROUGE-L
        counts a word as often as it stands; see `text_measures.rouge_l`.
    """
    found, right = _sentences(hypothesis), _sentences(reference)
    shared = {
        word
        for gold in right
        for sentence in found
        for word in text_measures.longest_common_subsequence(gold, sentence)
    }
    if not shared:
        return 0.0
    precision = len(shared) / len({word for sentence in found for word in sentence})
    recall = len(shared) / len({word for sentence in right for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def evaluate(
    golds: Mapping[str, Gold],
    guesses: Mapping[str, Guess],
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 100),
) -> dict[str, float]:
    """KILT's numbers of a whole set of questions: means of `evaluate_questions`.

    "num_questions" is their number.
    """
    values = evaluate_questions(golds, guesses, ks=ks)
    means = {name: float(each.mean()) for name, each in values.items()}
    return {**means, "num_questions": len(golds)}


def evaluate_questions(
    golds: Mapping[str, Gold],
    guesses: Mapping[str, Guess],
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 100),
) -> dict[str, np.ndarray]:
    """KILT's numbers of each question.

    An answer counts for `kilt_em` and its like only where the question's R-precision,
    page by page, is 1: right, and for the right reason.

    Args:
        golds: by question id.
        guesses: by question id; each question needs one.
        ks: depths of precision, recall and success.

    Returns:
        [n] float64 each, questions in the order of `golds`: those of
        `retrieval_scores`, of `answer_scores` and, as "kilt_<name>", of the latter
        where grounded; the answers' only where a gold has any.

    Raises:
        DataError: there is no question, or one has no guess.
    """
    if not golds:
        raise DataError("there are no questions to evaluate.")
    missing = [name for name in golds if name not in guesses]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(golds)} questions have no guess, the first of "
            f"them {missing[0]!r}: every question needs one, if need be an empty one."
        )
    has_answers = any(gold.answers for gold in golds.values())
    every = []
    for name, gold in golds.items():
        guess = guesses[name]
        scores = retrieval_scores(guess.ids, gold.evidence, ks)
        if has_answers:
            support = [frozenset(map(page_of, ids)) for ids in gold.evidence]
            is_grounded = r_precision([*map(page_of, guess.ids)], support) == 1
            answers = answer_scores(guess.answer, gold.answers)
            scores |= answers
            scores |= {f"kilt_{key}": v * is_grounded for key, v in answers.items()}
        every.append(scores)
    return {key: np.array([scores[key] for scores in every]) for key in every[0]}


def _sentences(text: str) -> list[list[str]]:
    return [part.split() for part in text.split(".") if part.split()]
