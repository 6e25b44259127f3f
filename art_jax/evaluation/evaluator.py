"""Evaluation through SeqIO: a task states its measures, an Evaluator runs them.

A metric of retrieval takes, as SeqIO's model output of type SCORE, an object array
[n, K] of `Candidate`s (see `evaluation.candidates`); a metric of texts, of type
PREDICTION, n texts. Each gives every question a value and reports the means.

Imports TensorFlow. `measures.evaluate_questions` gives the numbers of `TopKAccuracy`
without.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import absl.logging
import flax.struct
import numpy as np

from art_jax.data import question_table
from art_jax.data.feature_converters import RetrieverQueryConverter
from art_jax.data.host_tensorflow import seqio, tf
from art_jax.data.question_table import QuestionTable, tasks_with_split
from art_jax.data.questions import Question
from art_jax.data.sources import question_of_example
from art_jax.errors import ArtJaxError, ConfigError, DataError
from art_jax.evaluation import (
    candidates,
    kilt,
    measures,
    multi_answer,
    ranking,
    text_measures,
)

_OutputType = seqio.metrics.ModelOutputType
_QUESTIONS_A_FETCH = 512

# From questions to the candidates found for them, [n, K].
Retrieve = Callable[[QuestionTable], np.ndarray]
# From questions to a text for each.
Predict = Callable[[QuestionTable], Sequence[str]]


def _setting(default):
    """A field that is fixed when a metric is made."""
    return flax.struct.field(pytree_node=False, default=default)


@dataclasses.dataclass
class QuestionMean(seqio.metrics.Scalar):
    """A mean over questions, which SeqIO logs, and what it is the mean of.

    value: the mean.
    values: [n] float64, one a question; NaN for those that do not count.
    """

    values: np.ndarray


def question_mean(values: np.ndarray) -> QuestionMean:
    """The mean of the values that are numbers; 0 where there are none."""
    counted = values[~np.isnan(values)]
    return QuestionMean(float(counted.mean()) if len(counted) else 0.0, values)


@flax.struct.dataclass(kw_only=True)
class RetrievalMetric(seqio.metrics.Metric):
    """What all metrics of retrieval share; each says what a question is worth.

    values: of each measure [n] float64, once there is a model output.
    """

    model_output_type: _OutputType = _setting(_OutputType.SCORE)
    values: Mapping[str, np.ndarray] | None = None

    def question_values(
        self, questions: Sequence[Question], found: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Of each measure, [n] float64 values; NaN where a question does not count.

        Args:
            questions: n questions.
            found: [n, K] candidates.
        """
        raise NotImplementedError

    def from_model_output(
        self,
        inputs: Iterable[Mapping[str, Any]],
        model_output: np.ndarray,
        features: Mapping[str, seqio.Feature],
        target_field_name: str = "targets",
        mask: np.ndarray | None = None,
        indices_2d: np.ndarray | None = None,
    ) -> "RetrievalMetric":
        """The metric of some questions and the passages found for them.

        Args:
            inputs: the n questions, as examples of the task.
            model_output: [n, K] candidates, or None.
            features: not used.
            target_field_name: not used: what is right stands in fields of its own.
            mask: [n] bool, False for questions to leave out; None: all count.
            indices_2d: not used.
        """
        del features, target_field_name, indices_2d
        questions = [question_of_example(example) for example in inputs]
        found = np.asarray(model_output, dtype=object)
        if mask is not None:
            kept = np.flatnonzero(np.asarray(mask, bool))
            questions, found = [questions[place] for place in kept], found[kept]
        return self.replace(values=self.question_values(questions, found))

    def merge(self, other: "RetrievalMetric") -> "RetrievalMetric":
        """The metric of the questions of both."""
        both = {
            name: np.concatenate([values, other.values[name]])
            for name, values in self.values.items()
        }
        return self.replace(values=both)

    def compute(self) -> dict[str, QuestionMean]:
        """The mean of each measure over the questions that count."""
        return {name: question_mean(values) for name, values in self.values.items()}


@flax.struct.dataclass(kw_only=True)
class TopKAccuracy(RetrievalMetric):
    """Top-k accuracy: has one of the first k passages the answer, or is the right one?

    A question with `relevant_ids` is judged by them, any other by its answers in the
    passages' texts, without titles.

    ks: the depths to report; those beyond K are left out of the result.
    match: how answers are compared, see `evaluation.answers`.
    """

    ks: tuple[int, ...] = _setting((1, 5, 20, 50, 100))
    match: str = _setting("string")

    def question_values(self, questions, found):
        """Whether there is a hit among the first k, 0 or 1.

        Raises:
            ConfigError: no k is reached.
            DataError: a question has neither relevant_ids nor answers; a passage comes
                twice in a ranking; or answers are to be found and no text is there.
        """
        reached = _reached(self.ks, found)
        hits = candidate_hits(questions, found, self.match)
        return {
            f"top_{k}_accuracy": hits[:, :k].any(axis=1).astype(np.float64)
            for k in reached
        }


@flax.struct.dataclass(kw_only=True)
class RankingMeasures(RetrievalMetric):
    """nDCG, MAP, MRR, recall and their kin by graded relevance, as trec_eval has them.

    Passages stand by score and, where scores are equal, by descending id. See
    `evaluation.ranking`.

    measures: names, see `ranking.evaluate_questions`; those deeper than K are left out.
    ignore_identical_ids: leave out a passage whose id is its question's, as BEIR does.
    """

    measures: tuple[str, ...] = _setting(
        ("ndcg_at_10", "map", "mrr_at_10", "recall_at_100")
    )
    ignore_identical_ids: bool = _setting(False)

    def question_values(self, questions, found):
        """The value of each measure.

        Raises:
            ConfigError: there is no such measure, or no depth is reached.
            DataError: a question has no relevant_ids; or as `candidates.as_run`.
        """
        depths = {name: ranking.depth_of(name) for name in self.measures}
        reached = _reached(tuple(depths.values()), found)
        names = [name for name, depth in depths.items() if depth in reached]
        qrels = {}
        for question in questions:
            ids, grades = question.relevant_ids, question.grades
            if not ids:
                raise DataError(
                    f"question {question.question_id!r} has no relevant_ids, which "
                    f"{', '.join(names)} need: give judgments, or leave it out."
                )
            qrels[question.question_id] = dict(
                zip(ids, grades or [1] * len(ids), strict=True)
            )
        run = candidates.as_run(
            [question.question_id for question in questions],
            found,
            ignore_identical_ids=self.ignore_identical_ids,
        )
        return ranking.evaluate_questions(run, qrels, names)


@flax.struct.dataclass(kw_only=True)
class KiltRetrieval(RetrievalMetric):
    """KILT's R-precision, recall and success, of pages and of passages.

    Ids of passages begin with page and paragraph, see `kilt_files.evidence_id`. The
    level of passages is left out where no evidence names a paragraph.

    ks: depths of recall and success; those beyond K are left out of the result.
    """

    ks: tuple[int, ...] = _setting((1, 5, 10, 20, 100))

    def question_values(self, questions, found):
        """Names begin with page_ and passage_.

        Raises:
            ConfigError: no k is reached.
            DataError: no question has evidence.
        """
        if not any(question.evidence for question in questions):
            raise DataError(
                "no question has evidence, so nothing says which pages are right: "
                "this is a split without outputs, or not a task of KILT."
            )
        reached = _reached(self.ks, found)
        scores = [
            kilt.level_scores(candidates.ids_of(row), question.evidence, reached)
            for question, row in zip(questions, found, strict=True)
        ]
        has_paragraphs = any(
            "+" in one
            for question in questions
            for support in question.evidence
            for one in support
        )
        return {
            name: np.array([each[name] for each in scores])
            for name in scores[0]
            if has_paragraphs or name.startswith("page_")
        }


@flax.struct.dataclass(kw_only=True)
class MultiAnswer(RetrievalMetric):
    """MRecall@k and alpha-nDCG@k of questions with several answers.

    Each over all questions and, as multi_..., over those with several answers. Where a
    question has no `answer_groups`, its answers are aliases of one.

    ks: the depths to report; those beyond K are left out of the result.
    match: how answers are compared, see `evaluation.answers`.
    alpha: how much less an answer gains when it is found again.
    """

    ks: tuple[int, ...] = _setting((5, 10))
    match: str = _setting("string")
    alpha: float = _setting(0.9)

    def question_values(self, questions, found):
        """The ideal ranking of alpha-nDCG is one of the K passages found.

        Raises:
            ConfigError: no k is reached.
            DataError: a question has no answer, or no text is there.
        """
        reached = _reached(self.ks, found)
        _check_texts(found)
        groups = [
            question.answer_groups or (question.answers,) for question in questions
        ]
        for question, each in zip(questions, groups, strict=True):
            if not any(each):
                raise DataError(
                    f"question {question.question_id!r} has no answers to be found."
                )
        rows, passages = candidates.rows_and_passages(found)
        held = multi_answer.answers_held(
            rows, lambda row: passages[row].text, groups, self.match
        )
        is_multi = np.array([len(each) > 1 for each in groups])
        values = {}
        for k in reached:
            values[f"mrecall_at_{k}"] = multi_answer.multi_answer_recall(
                held, k
            ).astype(np.float64)
            values[f"alpha_ndcg_at_{k}"] = np.array(
                [multi_answer.alpha_ndcg(each, k, alpha=self.alpha) for each in held]
            )
        only = {
            f"multi_{name}": np.where(is_multi, each, np.nan)
            for name, each in values.items()
        }
        return {**values, **only}


@flax.struct.dataclass(kw_only=True)
class TextMeasures(seqio.metrics.Metric):
    """Measures of texts that were generated, against a question's answers.

    Its model output, of type PREDICTION, is n texts, or n rows of token ids that the
    vocabulary of the target feature decodes. A question without answers is held
    against its targets.

    measures: names of `text_measures.MEASURES`.
    predictions: n texts, once there is a model output.
    references: of each, the answers it should be, each with its aliases.
    """

    model_output_type: _OutputType = _setting(_OutputType.PREDICTION)
    measures: tuple[str, ...] = _setting(("exact_match", "token_f1"))
    predictions: tuple[str, ...] = _setting(())
    references: tuple[tuple[tuple[str, ...], ...], ...] = _setting(())

    def from_model_output(
        self,
        inputs: Iterable[Mapping[str, Any]],
        model_output: np.ndarray,
        features: Mapping[str, seqio.Feature],
        target_field_name: str = "targets",
        mask: np.ndarray | None = None,
        indices_2d: np.ndarray | None = None,
    ) -> "TextMeasures":
        """The metric of some questions and the texts made for them.

        Args:
            inputs: the n questions, as examples of the task.
            model_output: n texts, or rows of token ids.
            features: of the task; the vocabulary of its targets decodes ids.
            target_field_name: the feature that the texts should be.
            mask: [n] bool, False for questions to leave out; None: all count.
            indices_2d: not used.

        Raises:
            DataError: a question has neither answers nor targets.
        """
        del indices_2d
        texts = [
            _text_of_output(output, features, target_field_name)
            for output in model_output
        ]
        golds = [_golds_of_example(one, target_field_name) for one in inputs]
        kept = range(len(texts)) if mask is None else np.flatnonzero(mask)
        return self.replace(
            predictions=tuple(texts[place] for place in kept),
            references=tuple(golds[place] for place in kept),
        )

    def merge(self, other: "TextMeasures") -> "TextMeasures":
        """The metric of the texts of both."""
        return self.replace(
            predictions=self.predictions + other.predictions,
            references=self.references + other.references,
        )

    def compute(self) -> dict[str, QuestionMean | float]:
        """Each measure: a mean over texts or, as BLEU is, a number of all of them."""
        values = text_measures.evaluate_texts(
            self.predictions, self.references, self.measures
        )
        return {
            name: question_mean(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class TaskResult:
    """What was measured of a task's split.

    metrics: {measure: its mean over questions}, such as {"top_20_accuracy": 0.5,
        "num_questions": 800}.
    values: of each measure that is such a mean [n] float64, one a question; NaN for
        those that do not count.
    questions: the n questions.
    found: [n, K] candidates; None where none were asked for.
    """

    metrics: dict[str, float]
    values: dict[str, np.ndarray]
    questions: QuestionTable
    found: np.ndarray | None


def evaluate_task(
    task_name: str,
    split: str,
    retrieve: Retrieve | None = None,
    *,
    predict: Predict | None = None,
    max_tokens: int,
    output_dir: str | os.PathLike | None = None,
    step: int | None = None,
) -> TaskResult:
    """What the measures that a SeqIO task states give for one of its splits.

    Args:
        task_name: of a registered task.
        split: of the task.
        retrieve: from the n questions to candidates [n, K], for metrics of retrieval.
        predict: from the n questions to n texts, for `TextMeasures`.
        max_tokens: Q, to which questions are cut.
        output_dir: where the metrics are appended, as a line of
            `<output_dir>/<task_name>-metrics.jsonl`, as T5X does in `inference_eval`.
            None: nowhere, as on all processes but the first.
        step: training step to write in that line.

    Raises:
        ConfigError: the task is not registered, or is a mixture, or has no such split
            or no metrics; or it has metrics of what neither function gives; or too
            few passages were retrieved for its ks.
        DataError: a question has nothing to be judged by, or a passage comes twice in
            its ranking.
    """
    given = {_OutputType.SCORE: retrieve, _OutputType.PREDICTION: predict}
    _check_task(task_name, split, [kind for kind in given if given[kind] is not None])
    evaluator = _make_evaluator(task_name, split, max_tokens, output_dir)
    table = _read_questions(evaluator, task_name)
    outputs = {}

    def run_on_all(kind: _OutputType):
        def run(dataset: tf.data.Dataset) -> list[tuple[int, Any]]:
            del dataset  # The same questions, in the same order, as `table`.
            outputs[kind] = given[kind](table)
            return list(enumerate(outputs[kind]))

        return run

    try:
        with _without_warnings():
            future, _ = evaluator.evaluate(
                compute_metrics=True,
                step=step,
                model_fns={kind: run_on_all(kind) for kind in given},
            )
    except ValueError as error:
        # SeqIO wraps whatever a metric raises.
        if isinstance(error.__cause__, ArtJaxError):
            raise error.__cause__ from None
        raise
    means = future.result()[task_name]
    is_mean = {name: isinstance(mean, QuestionMean) for name, mean in means.items()}
    return TaskResult(
        metrics={
            **{
                name: float(mean.value if is_mean[name] else mean)
                for name, mean in means.items()
            },
            "num_questions": table.num_questions,
        },
        values={name: mean.values for name, mean in means.items() if is_mean[name]},
        questions=table,
        found=outputs.get(_OutputType.SCORE),
    )


def candidate_hits(
    questions: Sequence[Question], found: np.ndarray, match: str = "string"
) -> np.ndarray:
    """Which candidates are right, [n, K] bool; see `measures.question_hits`.

    Raises:
        DataError: as there; or answers are to be found and no candidate has a text.
    """
    if not all(question.relevant_ids for question in questions):
        _check_texts(found)
    rows, passages = candidates.rows_and_passages(found)
    return measures.question_hits(
        rows,
        passages.__getitem__,
        question_ids=[question.question_id for question in questions],
        answers=[question.answers for question in questions],
        relevant_ids=[question.relevant_ids for question in questions],
        match=match,
    )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps SeqIO from advising against a fixed length, no logger and no step."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _make_evaluator(
    task_name: str, split: str, max_tokens: int, output_dir: str | os.PathLike | None
) -> seqio.Evaluator:
    """SeqIO's evaluator of one task; it has read the questions."""
    loggers = ()
    if output_dir is not None:
        os.makedirs(output_dir, exist_ok=True)
        loggers = (seqio.JSONLogger,)
    with _without_warnings():
        return seqio.Evaluator(
            task_name,
            RetrieverQueryConverter(),
            eval_split=split,
            sequence_length={"query": max_tokens},
            logger_cls=loggers,
            log_dir=None if output_dir is None else os.fspath(output_dir),
            async_compute_metrics=False,
        )


def _check_task(task_name: str, split: str, given: Sequence[_OutputType]) -> None:
    """Raises ConfigError where outputs of these kinds do not do for a task."""
    tasks = tasks_with_split(task_name, split)
    if [task.name for task in tasks] != [task_name]:
        raise ConfigError(
            f"{task_name!r} is a mixture: evaluate its tasks one by one, "
            f"{', '.join(task.name for task in tasks)}"
        )
    if not tasks[0].metric_objs:
        raise ConfigError(
            f"the task {task_name!r} states no metric: register it with "
            "metric_objs=[art_jax.evaluation.evaluator.TopKAccuracy()]"
        )
    for metric in tasks[0].metric_objs:
        kind = metric.model_output_type
        if kind not in given:
            way_out = (
                "give texts that were generated (--predictions FILE)"
                if kind == _OutputType.PREDICTION
                else "give something that finds passages"
            )
            raise ConfigError(
                f"the task {task_name!r} is measured by {type(metric).__name__}, which "
                f"needs a model output of kind {_OutputType.to_str(kind)!r}: {way_out}."
            )


def _read_questions(evaluator: seqio.Evaluator, task_name: str) -> QuestionTable:
    """The questions that an evaluator holds, in its order, and their tokens."""
    rows = evaluator.cached_model_datasets[task_name].batch(_QUESTIONS_A_FETCH)
    tokens = [features["query_tokens"] for _, features in rows.as_numpy_iterator()]
    examples = evaluator.cached_task_datasets[task_name].as_numpy_iterator()
    return question_table.make_question_table(
        [question_of_example(example) for example in examples],
        np.concatenate(tokens) if tokens else np.zeros((0, 0), np.int32),
    )


def _reached(ks: tuple[int, ...], found: np.ndarray) -> list[int]:
    """The depths that were reached.

    Raises:
        ConfigError: none was.
    """
    num_found = found.shape[1]
    reached = [k for k in ks if k <= num_found]
    if not reached:
        raise ConfigError(
            f"{num_found} passages were found for each question, fewer than the "
            f"smallest k of {ks}: retrieve more, or give the task smaller ks"
        )
    return reached


def _check_texts(found: np.ndarray) -> None:
    """Raises DataError where there are passages and none of them has a text."""
    some = [candidate for candidate in found.flat if candidate is not None]
    if some and not any(candidate.passage.text for candidate in some):
        raise DataError(
            "answers are to be found in passages, of which ids alone are known: give "
            "the passages too (--passages FILE)."
        )


def _text_of_output(
    output: Any, features: Mapping[str, seqio.Feature], target_field_name: str
) -> str:
    """A text as it is; of token ids, what the vocabulary of the targets says."""
    if isinstance(output, bytes):
        return output.decode()
    if isinstance(output, str):
        return str(output)
    vocabulary = features[target_field_name].vocabulary
    return vocabulary.decode([int(token) for token in output])


def _golds_of_example(
    example: Mapping[str, Any], target_field_name: str
) -> tuple[tuple[str, ...], ...]:
    """The answers of an example, each with its aliases; else its target text."""
    if "query_pretokenized" in example:
        question = question_of_example(example)
        if question.answer_groups or question.answers:
            return question.answer_groups or (question.answers,)
    text = example.get(f"{target_field_name}_pretokenized")
    if not text:
        raise DataError(
            f"question {example.get('question_id', b'?').decode()!r} has neither "
            "answers nor a target, so nothing says what its text should be."
        )
    return ((text.decode(),),)
