"""Passages a question is offered beside those it finds: right, wrong, and any.

They are rows of the evidence, chosen on the host by seed and step, so that a training
step looks them up as it looks up what its search finds.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from art_jax.data.batches import draw_places
from art_jax.data.evidence import EvidenceStore
from art_jax.data.example_sets import ExampleSet, read_set
from art_jax.data.example_table import RaggedRows
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class PassageMix:
    """How many passages of which type a question is offered.

    examples: say which passages are right for a question and which only look right; a
        question is found among them by its text. They name passages by the ids of the
        evidence.
    num_positives: right ones, the surest first.
    num_hard_negatives: wrong ones that look right, drawn anew at each step.
    num_uniform: drawn from the whole evidence at each step.
    in_batch: every question is offered the passages of all questions of the batch.

    Source: Sachan et al. (arXiv:2206.10658), Table 7: P, N, U and IB. Differs in: what
        an example has too few of is left out, and of equal passages one counts; the
        paper does not say.
    """

    examples: Sequence[ExampleSet] = ()
    num_positives: int = 0
    num_hard_negatives: int = 0
    num_uniform: int = 0
    in_batch: bool = False

    def __post_init__(self):
        object.__setattr__(self, "examples", tuple(self.examples))
        counts = (self.num_positives, self.num_hard_negatives, self.num_uniform)
        if min(counts) < 0 or not any(counts):
            raise ConfigError(
                f"a PassageMix of {counts[0]} positives, {counts[1]} hard negatives "
                f"and {counts[2]} uniform passages: none of them is below 0, and one "
                "is above."
            )
        if any(counts[:2]) and not self.examples:
            raise ConfigError(
                "a PassageMix with positives or hard negatives needs examples that "
                "say which passages they are: give one ExampleSet at least."
            )

    @property
    def num_own(self) -> int:
        """Passages chosen for a question itself."""
        return self.num_positives + self.num_hard_negatives + self.num_uniform

    def num_given(self, batch_size: int) -> int:
        """Passages a question is offered: its own, or those of all in the batch."""
        return self.num_own * (batch_size if self.in_batch else 1)


@dataclasses.dataclass(frozen=True, eq=False)
class GivenPassages:
    """What `PassageMix` chooses from, for n questions.

    mix: how many of which.
    positives, hard_negatives: n lists of rows of the evidence.
    num_rows: N, of the evidence.
    """

    mix: PassageMix
    positives: RaggedRows
    hard_negatives: RaggedRows
    num_rows: int

    def describe(self) -> str:
        """One line for people: what is offered, and how many questions have it."""
        mix = self.mix
        words = [f"{mix.num_uniform} uniform"] if mix.num_uniform else []
        for name, count, lists in (
            ("right", mix.num_positives, self.positives),
            ("hard wrong", mix.num_hard_negatives, self.hard_negatives),
        ):
            if count:
                lengths = np.diff(lists.offsets)
                have = f"{np.count_nonzero(lengths):,} of {len(lengths):,} questions"
                words.append(f"{count} {name} ({have} have any)")
        whose = " of all questions of a batch" if mix.in_batch else ""
        return f"{', '.join(words)} passages{whose}"

    def draw(self, questions: np.ndarray, *, seed: int, step: int) -> np.ndarray:
        """Returns what some questions are offered, a pure function of seed and step.

        Args:
            questions: [B] int, numbers of the questions.
            seed: of what is drawn.
            step: likewise.

        Returns:
            [B, num_given] int32 rows: right ones, hard wrong ones, uniform ones, or
            these of all questions; -1 where a question has fewer. A row may be there
            more than once.
        """
        mix, size = self.mix, len(questions)
        # NumPy promises the raw stream of a bit generator across versions.
        raw = np.random.PCG64([seed, step, 3]).random_raw(
            size * (mix.num_hard_negatives + mix.num_uniform)
        )
        of_wrong, of_any = np.split(
            raw.reshape(size, -1), [mix.num_hard_negatives], axis=1
        )
        first = np.arange(mix.num_positives)[None, :]
        right = np.where(first < self.positives.counts(questions)[:, None], first, -1)
        wrong = draw_places(
            self.hard_negatives.counts(questions), mix.num_hard_negatives, of_wrong
        )
        rows = np.concatenate(
            [
                self.positives.pick(questions, right),
                self.hard_negatives.pick(questions, wrong),
                (of_any % np.uint64(self.num_rows)).astype(np.int32),
            ],
            axis=1,
        )
        return np.tile(rows.reshape(1, -1), (size, 1)) if mix.in_batch else rows


@functools.lru_cache(maxsize=2)
def open_mix(
    mix: PassageMix,
    questions: tuple[str, ...],
    evidence: EvidenceStore,
    tokenizer: WordPieceTokenizer,
) -> GivenPassages:
    """Returns what is offered to some questions, read from the examples once.

    Args:
        mix: how many of which.
        questions: n texts.
        evidence: whose rows are offered.
        tokenizer: that SeqIO's tasks of examples ask for.

    Raises:
        DataError: a file breaks its format, or no question has an example.
    """
    examples = (example for one in mix.examples for example in read_set(one, tokenizer))
    return find_given(mix, examples, questions, evidence)


def find_given(
    mix: PassageMix,
    examples: Iterable[TrainingExample],
    questions: Sequence[str],
    evidence: EvidenceStore,
) -> GivenPassages:
    """Returns what is offered to some questions; arguments as of `open_mix`.

    A passage that the evidence does not have is left out.

    Raises:
        DataError: examples are asked for and no question has one with a passage of
            the evidence.
    """
    positives: dict[str, list[int]] = {}
    hard_negatives: dict[str, list[int]] = {}
    wanted = set(questions)
    for example in examples:
        text = example.question.text
        if text in wanted and text not in positives:
            positives[text] = _rows_of(example.positives, evidence)
            hard_negatives[text] = _rows_of(example.hard_negatives, evidence)
    given = GivenPassages(
        mix,
        _ragged(positives, questions),
        _ragged(hard_negatives, questions),
        evidence.num_passages,
    )
    for name, count, lists in (
        ("right", mix.num_positives, given.positives),
        ("hard wrong", mix.num_hard_negatives, given.hard_negatives),
    ):
        if count and not len(lists.values):
            raise DataError(
                f"the examples of a PassageMix have no {name} passage of any training "
                "question: do both hold the same questions, and passages with the ids "
                "of PASSAGES?"
            )
    return given


def _rows_of(candidates: Sequence[Candidate], evidence: EvidenceStore) -> list[int]:
    """The rows of passages, each once, without those that are not of the evidence."""
    rows = []
    for candidate in candidates:
        with contextlib.suppress(DataError):
            rows.append(evidence.row_of(candidate.passage.passage_id))
    return list(dict.fromkeys(rows))


def _ragged(rows: dict[str, list[int]], questions: Sequence[str]) -> RaggedRows:
    lists = [rows.get(text, []) for text in questions]
    lengths = np.array([0, *map(len, lists)], np.int64)
    values = [row for one in lists for row in one]
    return RaggedRows(np.cumsum(lengths), np.array(values, np.int32))
