"""Which answers of a question its passages hold, where each comes first, and how."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from art_jax.data.answer_targets import TargetRules, answer_groups
from art_jax.data.examples import RankedQuestion
from art_jax.evaluation.answers import find_answer
from art_jax.evaluation.multi_answer import Groups, answers_held
from art_jax.teacher.passage_pool import make_pool


@dataclasses.dataclass(frozen=True, slots=True)
class Grounding:
    """An answer that a ranking holds.

    group: its number among the question's.
    text: the alias that comes first; of an expression, what it matches there.
    """

    group: int
    text: str


def find_targets(
    ranked: Sequence[RankedQuestion], rules: TargetRules, match: str = "string"
) -> list[list[str]]:
    """The texts of the answers that a reader may say of each question.

    Those that its passages hold, as `ground_answers` has them, and behind them, if
    `rules` allow it, the first alias of each other. A `target` is a question's one
    answer. A question without passages has none.

    Args:
        ranked: questions with the passages that are read.
        rules: of the targets.
        match: how an answer is found in a text, one of `answers.MATCHES`.
    """
    pool = make_pool(ranked)
    groups = [
        ((one.target,),) if one.target else answer_groups(one.question, rules.form)
        for one in ranked
    ]
    found = ground_answers(
        pool.rows, lambda row: pool.passages[row].text, groups, match
    )
    targets = []
    for one, answers, grounded in zip(ranked, groups, found, strict=True):
        texts = [each.text for each in grounded]
        if not rules.grounded and one.candidates:
            held = {each.group for each in grounded}
            texts += [
                group[0] for number, group in enumerate(answers) if number not in held
            ]
        targets.append(texts)
    return targets


def ground_answers(
    rows: np.ndarray,
    text_of_row: Callable[[int], str],
    answers: Sequence[Groups],
    match: str = "string",
) -> list[list[Grounding]]:
    """The answers that each question's passages hold, in order of first appearance.

    That is by passage, then by place in its text. Of answers that begin at the same
    place the first given comes first; of aliases one that the text has letter for
    letter does, then the first given.

    Args:
        rows: [n, K] integers, the passages of each question, best first; -1 for none.
        text_of_row: gives the text of a row, without its title.
        answers: n sequences of answers, each with its aliases; () where none is known.
        match: one of `answers.MATCHES`.
    """
    known = [place for place, groups in enumerate(answers) if any(groups)]
    aliases = [[(one,) for group in answers[place] for one in group] for place in known]
    found: list[list[Grounding]] = [[] for _ in answers]
    held = answers_held(rows[known], text_of_row, aliases, match) if known else []
    for place, held_here in zip(known, held, strict=True):
        found[place] = _in_order(
            held_here,
            answers[place],
            lambda passage, alias, place=place: _find(
                text_of_row(int(rows[place, passage])), alias, match
            ),
        )
    return found


def _find(text: str, alias: str, match: str) -> tuple[tuple[int, bool], str]:
    """Where a text holds an alias, and whether otherwise written; and what is there."""
    offset, found = find_answer(text, alias, match)
    return (offset, found not in text), found


def _in_order(
    held: np.ndarray,
    groups: Groups,
    find: Callable[[int, str], tuple[tuple[int, bool], str]],
) -> list[Grounding]:
    """One question's groundings.

    Args:
        held: [K, number of aliases] bool, which passage holds which.
        groups: the aliases.
        find: (place in the ranking, alias) -> see `_find`.
    """
    if not len(held):
        return []
    firsts = np.where(held.any(axis=0), held.argmax(axis=0), len(held)).tolist()
    earliest = []
    for number, group in enumerate(groups):
        of_aliases, firsts = firsts[: len(group)], firsts[len(group) :]
        passage = min(of_aliases, default=len(held))
        if passage == len(held):
            continue
        begins = [
            find(passage, alias)
            for alias, first in zip(group, of_aliases, strict=True)
            if first == passage
        ]
        (offset, _), text = min(begins, key=lambda begin: begin[0])
        earliest.append(((passage, offset), Grounding(number, text)))
    earliest.sort(key=lambda one: one[0])
    return [grounding for _, grounding in earliest]
