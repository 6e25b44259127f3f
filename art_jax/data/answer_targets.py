"""What a reader is to say of a question: one of its answers, or all in a row."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from art_jax.data.questions import Question
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError

FORMS = ("one", "sequence")
ORDERS = ("appearance", "shuffled")

Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class TargetRules:
    """How targets are made of a question's answers.

    Attributes:
        form: "one", any of the accepted answers, drawn each time, as in FiD;
            "sequence", all of them, each once, whatever its aliases.
        grounded: only answers that the passages hold are said, and questions without
            any are left out, as Min et al. do; FiD's code says any.
        order: of a sequence: "appearance", as the passages hold them, and behind them
            those that no passage holds; "shuffled", anew each time, which Min et al.
            found better on WebQSP.
        separator: between two answers of a sequence.
        max_tokens: T, of a target, its end-of-sequence token included: 20 for one
            answer and 40 for several in Min et al. A sequence ends before the first
            answer that does not fit, so that none is cut in two; a first one is cut.

    Raises:
        ConfigError: a field is out of range.

    Source: Izacard & Grave, arXiv:2007.01282; Min et al., arXiv:2104.08445, B.3.
        Differs in: these do not say what happens to answers that do not fit.
    """

    form: str = "one"
    grounded: bool = True
    order: str = "appearance"
    separator: str = "[SEP]"
    max_tokens: int = 20

    def __post_init__(self):
        for name, known in (("form", FORMS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"TargetRules.{name} is {getattr(self, name)!r}: it must be one of "
                    f"{', '.join(known)}."
                )
        if self.max_tokens < 2:
            raise ConfigError(
                f"TargetRules.max_tokens is {self.max_tokens}: an answer and its end "
                "take 2 or more."
            )


def answer_groups(question: Question, form: str) -> tuple[tuple[str, ...], ...]:
    """The answers of a question, each with its aliases; in the form "one" without.

    Without `question.answer_groups` all its answers are aliases of one.
    """
    groups = question.answer_groups or (question.answers,)
    groups = tuple(group for group in groups if group)
    if form == "sequence":
        return groups
    return tuple(dict.fromkeys((alias,) for group in groups for alias in group))


@dataclasses.dataclass(frozen=True)
class AnswerCodec:
    """Answers as a reader says them, in a tokeniser's ids and back.

    tokenizer: one that gives texts: T5's, of SentencePiece.
    rules: of targets.

    Raises:
        ConfigError: the tokeniser cannot do it, or its separator has no ids.
    """

    tokenizer: Tokenizer
    rules: TargetRules

    def __post_init__(self):
        for name in ("eos_id", "decode_batch"):
            if not hasattr(self.tokenizer, name):
                raise ConfigError(
                    f"a tokeniser of {type(self.tokenizer).__name__} has no {name}, so "
                    "a reader cannot say anything with it: give a SentencePiece model."
                )
        if self.rules.form == "sequence" and not self.separator:
            raise ConfigError(
                f"the separator {self.rules.separator!r} has no token: choose another."
            )

    @property
    def eos_id(self) -> int:
        """The id of the end of a sequence."""
        return self.tokenizer.eos_id

    @functools.cached_property
    def separator(self) -> tuple[int, ...]:
        """Ids between two answers; () where there is one alone."""
        if self.rules.form == "one":
            return ()
        return tuple(self.tokenizer.encode_batch([self.rules.separator])[0])

    def draw(self, answers: Sequence[Ids], seed: Sequence[int]) -> list[int]:
        """See `draw_target`."""
        return draw_target(
            answers, self.rules, seed, separator=self.separator, eos_id=self.eos_id
        )

    def texts(self, ids: Ids) -> tuple[str, ...]:
        """The answers that a model said, without those that are no text."""
        parts = split_answers(ids, separator=self.separator, eos_id=self.eos_id)
        return tuple(filter(None, map(str.strip, self.tokenizer.decode_batch(parts))))


def draw_target(
    answers: Sequence[Ids],
    rules: TargetRules,
    seed: Sequence[int],
    *,
    separator: Ids,
    eos_id: int,
) -> list[int]:
    """The ids that are to be said this time; the same for the same seed.

    Args:
        answers: token ids of a question's answers, in their order; one at least.
        rules: how to make one of them.
        seed: of what is drawn, numbers of 0 or more.
        separator: token ids.
        eos_id: at the end.
    """
    # NumPy promises the raw stream across versions, not what Generator makes of it.
    raw = np.random.PCG64(list(seed)).random_raw(len(answers))
    if rules.form == "one":
        chosen = answers[int(raw[0] % np.uint64(len(answers)))]
        return [*chosen[: rules.max_tokens - 1], eos_id]
    order = range(len(answers))
    if rules.order == "shuffled":
        order = np.argsort(raw, kind="stable").tolist()
    target: list[int] = []
    for place in order:
        longer = [*target, *separator, *answers[place]] if target else answers[place]
        if target and len(longer) >= rules.max_tokens:
            break
        target = list(longer[: rules.max_tokens - 1])
    return [*target, eos_id]


def split_answers(ids: Ids, *, separator: Ids, eos_id: int) -> list[list[int]]:
    """The answers that a model said, each as its ids; those that are empty left out.

    Args:
        ids: up to the first end-of-sequence token, or all.
        separator: token ids between two answers; () where there is one alone.
        eos_id: ends it.
    """
    left, size = list(ids), len(separator)
    if eos_id in left:
        left = left[: left.index(eos_id)]
    answers: list[list[int]] = [[]]
    while left:
        if size and left[:size] == list(separator):
            answers.append([])
            left = left[size:]
        else:
            answers[-1].append(left.pop(0))
    return [one for one in answers if one]
