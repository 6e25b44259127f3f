"""Ranked questions as arrays on the host, and which passage holds which answer."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from art_jax.data import example_files
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.layouts import TokenTable, make_token_table
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation.multi_answer import answers_held
from art_jax.teacher.passage_pool import make_pool

# In place of a way to find answers in texts: what is right is told by the file.
GIVEN = "given"


@dataclasses.dataclass(frozen=True)
class RankedSet:
    """Where ranked questions are read.

    task: a SeqIO task or mixture of them.
    path: a file, in place of a task.
    file_format: of the file, one of `example_files.FORMATS`. Of training examples,
        as of MS MARCO, a ranking is what `as_ranking` says.
    split: of the task.
    depth: passages of each ranking that are kept, B in the paper; None: all.
    match: how an answer is found in a text, one of `answers.MATCHES`; or `GIVEN`: right
        are the positives of a training example, and what `has_answer` says of others,
        as if they held the one answer of their question.

    Raises:
        ConfigError: there is not one source, or a number is not positive.
    """

    task: str | None = None
    path: str | None = None
    file_format: str = "dpr-results"
    split: str = "train"
    depth: int | None = 100
    match: str = "string"

    def __post_init__(self):
        if (self.task is None) == (self.path is None):
            raise ConfigError(
                f"a RankedSet has task {self.task!r} and path {self.path!r}: give one "
                "of the two."
            )
        known = example_files.FORMATS
        if self.path is not None and self.file_format not in known:
            raise ConfigError(
                f"{self.path} is of format {self.file_format!r}: choose of "
                f"{', '.join(known)}."
            )
        if self.depth is not None and self.depth < 1:
            raise ConfigError(f"depth of {self.label} is {self.depth}: 1 or more.")

    @property
    def label(self) -> str:
        """What reports and errors call it."""
        return self.task or pathlib.Path(self.path).name


@dataclasses.dataclass(frozen=True, eq=False)
class RankedTable:
    """n ranked questions and their passages.

    questions: n rows of token ids.
    passages: M rows of token ids, all different.
    rows: [n, K] int32, of each question the passages, best first; -1 behind a shorter
        ranking.
    priors: [n, K] float32, how good each seemed: what put it there says so, or, where
        it does not, minus its rank.
    held: of each question [passages, answers] bool; no answers where none is known.
    """

    questions: TokenTable
    passages: TokenTable
    rows: np.ndarray
    priors: np.ndarray
    held: tuple[np.ndarray, ...]

    @property
    def num_questions(self) -> int:
        """The number of questions, n."""
        return len(self.rows)

    def with_priors(self, priors: np.ndarray) -> "RankedTable":
        """The table with other priors, [n, K] float, such as IndepPR's logits."""
        if np.shape(priors) != self.rows.shape:
            raise ValueError(
                f"priors {np.shape(priors)} for rankings {self.rows.shape}"
            )
        return dataclasses.replace(self, priors=np.asarray(priors, np.float32))

    def answerable(self) -> np.ndarray:
        """The questions of which some passage holds an answer, [m] int64."""
        return np.flatnonzero([held.any() for held in self.held])


def read_ranked(one: RankedSet, tokenizer: Tokenizer) -> Iterator[RankedQuestion]:
    """Yields the ranked questions of a set.

    Raises:
        ConfigError: a task is not registered, or has no such split.
        DataError: a file breaks its format.
    """
    if one.path is not None:
        for example in example_files.read_examples(one.path, one.file_format):
            is_ranked = isinstance(example, RankedQuestion)
            yield example if is_ranked else as_ranking(example, one.depth)
        return
    from art_jax.data import vocabularies
    from art_jax.data.example_sources import example_of_fields
    from art_jax.data.question_table import read_task, tasks_with_split

    vocabularies.use(tokenizer)
    make_row = functools.partial(example_of_fields, kind=RankedQuestion)
    for task in tasks_with_split(one.task, one.split):
        # Questions are tokenised later, with the rest; two tokens are the fewest.
        for _, ranked in read_task(task, one.split, 3, make_row):
            yield from ranked


def as_ranking(example: TrainingExample, depth: int | None = None) -> RankedQuestion:
    """The passages of an example, of which `has_answer` says which are right.

    Right ones come last, so that what judges all alike has found nothing.

    Args:
        example: its scores, of lists that are not one, are left out.
        depth: the most passages; wrong ones give way, `negatives` first. None: all.
    """

    def judged(candidates: Iterable[Candidate], is_right: bool) -> list[Candidate]:
        return [
            Candidate(candidate.passage, has_answer=is_right)
            for candidate in candidates
        ]

    right = judged(example.positives, is_right=True)[:depth]
    wrong = judged((*example.hard_negatives, *example.negatives), is_right=False)
    room = len(wrong) if depth is None else depth - len(right)
    return RankedQuestion(example.question, (*wrong[:room], *right))


def build_ranked_table(
    ranked: Iterable[RankedQuestion],
    tokenizer: Tokenizer,
    *,
    depth: int | None = None,
    match: str = "string",
) -> RankedTable:
    """The table of ranked questions that are at hand.

    Args:
        ranked: questions, each with its ranking.
        tokenizer: the T5's.
        depth: passages of each ranking that are kept; None: all.
        match: see `RankedSet`.

    Raises:
        DataError: `match` is `GIVEN`, and of a passage it is not told.
    """
    ranked = [
        dataclasses.replace(one, candidates=one.candidates[:depth]) for one in ranked
    ]
    pool = make_pool(ranked)
    titles, texts = (
        tokenizer.encode_batch([getattr(one, part) for one in pool.passages])
        for part in ("title", "text")
    )
    questions = tokenizer.encode_batch([one.question.text for one in ranked])
    priors = np.full(pool.rows.shape, -np.inf, np.float32)
    for line, one in zip(priors, ranked, strict=True):
        scores = [candidate.score for candidate in one.candidates]
        if None in scores:
            scores = -np.arange(len(scores))
        line[: len(scores)] = scores
    return RankedTable(
        questions=make_token_table([()] * len(questions), questions),
        passages=make_token_table(titles, texts),
        rows=pool.rows,
        priors=priors,
        held=tuple(
            map(_given_answers, ranked)
            if match == GIVEN
            else _find_answers(ranked, pool.rows, pool.passages, match)
        ),
    )


def what_is_common(sets: Sequence[RankedSet], *names: str) -> tuple:
    """The values that sets of one table have under some names.

    Raises:
        ConfigError: there is no set, or they differ.
    """
    if not sets:
        raise ConfigError("there are no train_sets: give one at least.")
    ways = {tuple(getattr(one, name) for name in names) for one in sets}
    if len(ways) > 1:
        raise ConfigError(
            f"sets of one table have the same {' and '.join(names)}, not "
            f"{sorted(ways, key=str)}."
        )
    return ways.pop()


@functools.lru_cache(maxsize=4)
def read_ranked_table(sets: tuple[RankedSet, ...], tokenizer: Tokenizer) -> RankedTable:
    """The table of some sets, in their order, kept for whoever asks again.

    Raises:
        ConfigError: there is none, or they differ in `match` or `depth`.
        DataError: a file breaks its format.
    """
    depth, match = what_is_common(sets, "depth", "match")
    ranked = [one for each in sets for one in read_ranked(each, tokenizer)]
    return build_ranked_table(ranked, tokenizer, depth=depth, match=match)


def _find_answers(ranked, rows, passages, match: str) -> Iterator[np.ndarray]:
    """Yields of each question which of its passages holds which answer."""
    groups = [
        one.question.answer_groups
        or ((one.question.answers,) if one.question.answers else ())
        for one in ranked
    ]
    known = [place for place, answers in enumerate(groups) if answers]
    held = iter(())
    if known:
        held = iter(
            answers_held(
                rows[known],
                lambda row: passages[row].text,
                [groups[place] for place in known],
                match,
            )
        )
    for one, answers in zip(ranked, groups, strict=True):
        depth = len(one.candidates)
        yield next(held)[:depth] if answers else np.zeros((depth, 0), bool)


def _given_answers(ranked: RankedQuestion) -> np.ndarray:
    """What a file tells of one question's passages, [passages, 1] bool."""
    told = [candidate.has_answer for candidate in ranked.candidates]
    if None in told:
        raise DataError(
            f"question {ranked.question.question_id!r} has passages of which no "
            f"'has_answer' tells whether they are right, as match {GIVEN!r} needs: "
            "give training examples, or another match, by which answers are looked for."
        )
    return np.array(told, bool)[:, None]
