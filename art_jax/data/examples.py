"""Questions with passages: to train on, to rerank, to read an answer from.

Two shapes serve all methods. A `TrainingExample` says which passages are right and
which are wrong; a `RankedQuestion` has them in the order somebody found them.
"""

import dataclasses

from art_jax.data.passages import Passage
from art_jax.data.questions import Question


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A passage put forward for a question.

    passage: its id is "" where a file does not say.
    score: by what put it forward, higher is better; None where nobody said.
    has_answer: whether it holds an answer; None where nobody looked.
    """

    passage: Passage
    score: float | None = None
    has_answer: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingExample:
    """A question with passages that are right and passages that are wrong.

    question: with its answers, where known.
    positives: at least one is needed to train on; the first is the surest.
    negatives: wrong ones without regard to the question.
    hard_negatives: wrong ones that look right, as from BM25.
    dataset: that it is of, for mixtures; "" for none.
    """

    question: Question
    positives: tuple[Candidate, ...]
    negatives: tuple[Candidate, ...] = ()
    hard_negatives: tuple[Candidate, ...] = ()
    dataset: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RankedQuestion:
    """A question and the passages found for it, best first.

    question: with its answers, where known.
    candidates: best first.
    target: the answer to be generated; "" where none is chosen.
    """

    question: Question
    candidates: tuple[Candidate, ...]
    target: str = ""
