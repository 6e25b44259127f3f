"""Mining training examples: right and wrong passages among those a search finds.

Right ones are those known by id, or those that hold an answer (distant supervision);
wrong ones are the best of the others, the hard negatives. Questions are read, searched
for and written a batch at a time.

Source: DPR (arXiv:2004.04906), sections 3.2 and 4.2, and the adversarial confounders of
    Maillard et al. (arXiv:2101.00117), section 3.2. Differs in: both drop only passages
    with an answer; `margin` and `TeacherFilter` are options of ours against those that
    are right without holding it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from art_jax.data.evidence import EvidenceStore
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import answers
from art_jax.teacher.text_scores import ScoreTexts
from art_jax.types import SearchResults

# (texts of B questions) -> SearchResults [B, K], NumPy arrays, best first.
Search = Callable[[Sequence[str]], SearchResults]

_QUESTIONS_AT_ONCE = 256
# Passages drawn for each one that is kept, at most; few questions have so many answers.
_DRAWS_A_PASSAGE = 20


@dataclasses.dataclass(frozen=True)
class MiningSettings:
    """Which of the passages found are kept.

    num_hard_negatives: best wrong passages kept a question.
    num_random_negatives: wrong passages drawn uniformly from all.
    num_positives: right passages kept of a question that comes without.
    margin: a wrong passage is kept only where its score is lower by this than that of
        the best right one found; against passages that are right and nobody said so.
        None: any is.
    match: how answers are compared, see `evaluation.answers`.
    keep_given: wrong passages that a question came with stay, behind those found.
    seed: of what is drawn.
    """

    num_hard_negatives: int = 30
    num_random_negatives: int = 0
    num_positives: int = 1
    margin: float | None = None
    match: str = "string"
    keep_given: bool = False
    seed: int = 0

    def __post_init__(self):
        counts = (self.num_hard_negatives, self.num_random_negatives)
        if min(counts) < 0 or self.num_positives < 1:
            raise ConfigError(
                f"{counts[0]} hard and {counts[1]} random negatives and "
                f"{self.num_positives} right passages were asked for: none or more "
                "of the first two, one or more of the last."
            )


@dataclasses.dataclass(frozen=True)
class TeacherFilter:
    """Drops wrong passages that a teacher finds as good as the right ones.

    score: the teacher's, mean log-likelihoods of a question token, in nats.
    margin: a wrong passage is kept only where its score is lower by this than that of
        the best right passage.
    """

    score: ScoreTexts
    margin: float = 0.0

    def keep(
        self,
        questions: Sequence[str],
        positives: Sequence[Sequence[Candidate]],
        wrong: Sequence[Sequence[Candidate]],
    ) -> list[list[Candidate]]:
        """Returns of each question the wrong passages that are kept, in their order.

        Args:
            questions: n texts.
            positives: right passages of each, one at least.
            wrong: the others.
        """
        scores = self.score(
            questions,
            [
                [one.passage for one in (*right, *others)]
                for right, others in zip(positives, wrong, strict=True)
            ],
        )
        kept = []
        for right, others, values in zip(positives, wrong, scores, strict=True):
            limit = values[: len(right)].max() - self.margin
            is_kept = values[len(right) :] <= limit
            kept.append(
                [one for one, keep in zip(others, is_kept, strict=True) if keep]
            )
        return kept


@dataclasses.dataclass
class MiningStatistics:
    """Counts over all questions; filled while they are mined.

    questions: that were read.
    kept: that have a right passage.
    found: for which the search found a right passage.
    first_ranks: sum of the ranks of the first right passages found, from 1.
    hard_negatives: kept, of all questions.
    too_few: questions with fewer than were asked for.
    right, sources, near, taught: passages found that are no negatives: right ones, the
        one a question was made from, those within the margin, and those a teacher finds
        as good as a right one.
    """

    questions: int = 0
    kept: int = 0
    found: int = 0
    first_ranks: int = 0
    hard_negatives: int = 0
    too_few: int = 0
    right: int = 0
    sources: int = 0
    near: int = 0
    taught: int = 0

    def describe(self) -> str:
        """A few lines for people."""
        no_right = self.questions - self.kept
        mean_rank = self.first_ranks / max(self.found, 1)
        return (
            f"{self.questions:,} questions, {self.kept:,} kept, {no_right:,} dropped "
            "for want of a right passage\n"
            f"a right passage was found for {self.found:,}, at rank {mean_rank:.1f} on "
            "average\n"
            f"{self.hard_negatives:,} hard negatives; {self.too_few:,} questions have "
            "fewer than asked for\n"
            f"found and no negatives: {self.right:,} right, {self.sources:,} sources, "
            f"{self.near:,} within the margin, {self.taught:,} by the teacher"
        )


def mine_examples(
    examples: Iterable[TrainingExample],
    search: Search,
    evidence: EvidenceStore,
    settings: MiningSettings,
    statistics: MiningStatistics,
    teacher: TeacherFilter | None = None,
) -> Iterator[TrainingExample]:
    """Yields the examples that have a right passage, with the negatives found.

    Args:
        examples: read once; a question without right passages gets those that its
            `relevant_ids` name, or else the first found that hold an answer.
        search: finds K passages of `evidence` for each of some questions.
        evidence: the passages.
        settings: which of them are kept.
        statistics: filled in place.
        teacher: looks at all wrong passages found, before they are cut to so many;
            None: none does.

    Raises:
        DataError: a question says nothing of which passages are right.
    """
    examples = iter(examples)
    number = itertools.count()
    while batch := list(itertools.islice(examples, _QUESTIONS_AT_ONCE)):
        found = search([example.question.text for example in batch])
        has_answer = answers.answer_hits(
            found.rows,
            lambda row: evidence.passage(row).text,
            [example.question.answers for example in batch],
            settings.match,
        )
        sorted_out = []
        for example, scores, rows, hits in zip(
            batch, found.scores, found.rows, has_answer, strict=True
        ):
            kept = rows >= 0
            candidates = [
                Candidate(evidence.passage(row), float(score), bool(hit))
                for row, score, hit in zip(
                    rows[kept].tolist(), scores[kept], hits[kept], strict=True
                )
            ]
            sorted_out.append(
                _sort_out(example, candidates, evidence, settings, statistics)
            )
        if teacher is not None:
            sorted_out = _ask(teacher, batch, sorted_out, statistics)
        for example, (positives, wrong) in zip(batch, sorted_out, strict=True):
            statistics.questions += 1
            rng = np.random.Generator(np.random.PCG64([settings.seed, next(number)]))
            if positives:
                statistics.kept += 1
                yield _finish(
                    example, positives, wrong, evidence, settings, statistics, rng
                )


def _sort_out(
    example: TrainingExample,
    found: Sequence[Candidate],
    evidence: EvidenceStore,
    settings: MiningSettings,
    statistics: MiningStatistics,
) -> tuple[Sequence[Candidate], list[Candidate]]:
    """Returns a question's right passages, maybe none, and the wrong ones found."""
    question = example.question
    if not (question.answers or question.relevant_ids or example.positives):
        raise DataError(
            f"question {question.question_id!r} has no answers, relevant_ids or right "
            "passages, so nothing says which passages are wrong: add one of them or "
            "leave it out."
        )
    is_right = _right_passages(example)
    right = [one for one in found if one.has_answer or is_right(one.passage)]
    if right:
        statistics.found += 1
        statistics.first_ranks += 1 + found.index(right[0])
    positives = example.positives or _positives(example, right, evidence, settings)
    if not positives:
        return (), []
    limit = np.inf
    if settings.margin is not None and right:
        limit = right[0].score - settings.margin
    wrong = []
    for one in found:
        if one.has_answer or is_right(one.passage):
            statistics.right += 1
        elif one.passage.passage_id == question.source_id:
            statistics.sources += 1
        elif one.score > limit:
            statistics.near += 1
        else:
            wrong.append(one)
    return positives, wrong


def _ask(
    teacher: TeacherFilter,
    batch: Sequence[TrainingExample],
    sorted_out: Sequence[tuple[Sequence[Candidate], list[Candidate]]],
    statistics: MiningStatistics,
) -> list[tuple[Sequence[Candidate], list[Candidate]]]:
    """Returns right and wrong passages, without the wrong ones a teacher doubts."""
    places = [place for place, (right, wrong) in enumerate(sorted_out) if right]
    result = list(sorted_out)
    if not places:
        return result
    kept = teacher.keep(
        [batch[place].question.text for place in places],
        *zip(*(sorted_out[place] for place in places), strict=True),
    )
    for place, wrong in zip(places, kept, strict=True):
        right, before = sorted_out[place]
        statistics.taught += len(before) - len(wrong)
        result[place] = (right, wrong)
    return result


def _finish(
    example: TrainingExample,
    positives: Sequence[Candidate],
    wrong: Sequence[Candidate],
    evidence: EvidenceStore,
    settings: MiningSettings,
    statistics: MiningStatistics,
    rng: np.random.Generator,
) -> TrainingExample:
    """Returns a question with its passages, as many wrong ones as are asked for."""
    hard = list(wrong[: settings.num_hard_negatives])
    statistics.hard_negatives += len(hard)
    statistics.too_few += len(hard) < settings.num_hard_negatives
    is_right = _right_passages(example)
    others = _draw(example.question, is_right, evidence, settings, rng)
    if settings.keep_given:
        hard += _missing_from(hard, example.hard_negatives)
        others += _missing_from(others, example.negatives)
    return dataclasses.replace(
        example,
        positives=tuple(positives),
        hard_negatives=tuple(hard),
        negatives=tuple(others),
    )


def _right_passages(example: TrainingExample) -> Callable[[Passage], bool]:
    """Returns whether a passage is known to be right, by its id or by its words."""
    ids = {one.passage.passage_id for one in example.positives}
    ids |= set(example.question.relevant_ids)
    ids.discard("")
    texts = {one.passage.text for one in example.positives}
    return lambda passage: passage.passage_id in ids or passage.text in texts


def _positives(
    example: TrainingExample,
    right: Sequence[Candidate],
    evidence: EvidenceStore,
    settings: MiningSettings,
) -> list[Candidate]:
    """Returns right passages of a question that came without.

    The one a question was made from is known to evaluation alone, and never learnt.
    """
    question = example.question
    if question.relevant_ids:
        rows = map(evidence.row_of, question.relevant_ids)
        return [Candidate(evidence.passage(row)) for row in rows]
    found = [one for one in right if one.passage.passage_id != question.source_id]
    return found[: settings.num_positives]


def _draw(
    question,
    is_right: Callable[[Passage], bool],
    evidence: EvidenceStore,
    settings: MiningSettings,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Returns wrong passages drawn uniformly, as many as are asked for if there are."""
    drawn: dict[int, Candidate] = {}
    for _ in range(_DRAWS_A_PASSAGE * settings.num_random_negatives):
        if len(drawn) == settings.num_random_negatives:
            break
        row = int(rng.integers(evidence.num_passages))
        passage = evidence.passage(row)
        is_wrong = not (
            is_right(passage)
            or passage.passage_id == question.source_id
            or answers.has_answer(passage.text, question.answers, settings.match)
        )
        if is_wrong:
            drawn.setdefault(row, Candidate(passage))
    return list(drawn.values())


def _missing_from(
    kept: Sequence[Candidate], given: Sequence[Candidate]
) -> list[Candidate]:
    """Returns those given whose text is not kept already."""
    texts = {one.passage.text for one in kept}
    return [one for one in given if one.passage.text not in texts]
