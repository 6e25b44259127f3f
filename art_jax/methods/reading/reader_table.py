"""Ranked questions as a reader needs them: passages' tokens, and what to say."""

import dataclasses
import functools
from collections.abc import Sequence

from art_jax.data.answer_targets import TargetRules
from art_jax.data.examples import RankedQuestion
from art_jax.data.questions import Question
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import DataError
from art_jax.evaluation.grounding import find_targets
from art_jax.methods.ranked_table import (
    RankedSet,
    RankedTable,
    build_ranked_table,
    read_ranked,
    what_is_common,
)


@dataclasses.dataclass(frozen=True, eq=False)
class ReaderTable:
    """Ranked questions to train on, all of which have a target.

    ranked: their passages, as token ids.
    answers: of each question, the ids of the answers that may be in its target.
    num_left_out: other questions, of which there was none.
    """

    ranked: RankedTable
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    num_left_out: int


def build_reader_table(
    ranked: Sequence[RankedQuestion],
    tokenizer: Tokenizer,
    rules: TargetRules,
    match: str = "string",
) -> ReaderTable:
    """Returns questions to train on, without those of which nothing can be said.

    Args:
        ranked: questions with the passages that are read.
        tokenizer: the T5's.
        rules: of the targets.
        match: how an answer is found in a text, one of `answers.MATCHES`.

    Raises:
        DataError: none is left.
    """
    kept, answers = [], []
    for one, texts in zip(ranked, find_targets(ranked, rules, match), strict=True):
        ids = tuple(map(tuple, filter(None, tokenizer.encode_batch(texts))))
        if ids:
            kept.append(one)
            answers.append(ids)
    if not kept:
        raise DataError(
            f"{len(ranked)} questions, and no passage holds an answer of any: there is "
            "nothing to train a reader on."
        )
    table = table_of_passages(kept, tokenizer)
    return ReaderTable(table, tuple(answers), len(ranked) - len(kept))


@functools.lru_cache(maxsize=4)
def read_reader_table(
    sets: tuple[RankedSet, ...], rules: TargetRules, tokenizer: Tokenizer
) -> ReaderTable:
    """Returns the table of some sets, kept for whoever asks again.

    Raises:
        ConfigError: there is no set, or they differ in `match`.
        DataError: a file breaks its format, or nothing can be said of any question.
    """
    ranked, match = _read_sets(sets, tokenizer)
    return build_reader_table(ranked, tokenizer, rules, match)


@functools.lru_cache(maxsize=4)
def read_held_out(
    sets: tuple[RankedSet, ...], count: int | None, tokenizer: Tokenizer
) -> tuple[tuple[Question, ...], RankedTable]:
    """Returns the first `count` questions of some sets, or all, and their passages.

    Raises:
        ConfigError: there is no set, or they differ in `match`.
        DataError: a file breaks its format, or no question has an answer.
    """
    ranked = _read_sets(sets, tokenizer)[0][:count]
    if not any(one.question.answers for one in ranked):
        names = ", ".join(one.label for one in sets)
        raise DataError(
            f"no question of the dev_sets {names} has an answer, by which a reader is "
            "measured."
        )
    questions = tuple(one.question for one in ranked)
    return questions, table_of_passages(ranked, tokenizer)


def table_of_passages(
    ranked: Sequence[RankedQuestion], tokenizer: Tokenizer
) -> RankedTable:
    """Returns the passages of rankings as token ids, whatever answers they hold."""
    bare = [
        dataclasses.replace(
            one, question=Question(one.question.question_id, one.question.text)
        )
        for one in ranked
    ]
    return build_ranked_table(bare, tokenizer)


def _read_sets(
    sets: tuple[RankedSet, ...], tokenizer: Tokenizer
) -> tuple[list[RankedQuestion], str]:
    """Questions of all sets with the passages that are read, and the sets' match."""
    (match,) = what_is_common(sets, "match")
    ranked = [
        dataclasses.replace(each, candidates=each.candidates[: one.depth])
        for one in sets
        for each in read_ranked(one, tokenizer)
    ]
    return ranked, match
