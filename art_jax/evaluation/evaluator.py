"""Retrieval evaluated through SeqIO: a task states its measure, an Evaluator runs it.

Imports TensorFlow. `measures.evaluate_questions` gives the same numbers without.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import absl.logging
import flax.struct
import numpy as np

from art_jax.data.feature_converters import RetrieverQueryConverter
from art_jax.data.host_tensorflow import seqio, tf
from art_jax.data.passages import Passage
from art_jax.data.question_table import tasks_with_split
from art_jax.data.sources import question_of_example
from art_jax.errors import ArtJaxError, ConfigError
from art_jax.evaluation import measures


@flax.struct.dataclass
class TopKAccuracy(seqio.metrics.Metric):
    """Top-k accuracy as a SeqIO metric; a task gives one in its `metric_objs`.

    Its model output is of type SCORE, which SeqIO hands over untouched: an object array
    [n, K] of the passages found for each question, best first, None for none. A
    question with `relevant_ids` is judged by them, any other by its answers in the
    passages' text.

    ks: the depths to report; those beyond K are left out of the result.
    match: how answers are compared, see `evaluation.answers`.
    hits: [n, K] bool, once there is a model output.
    """

    model_output_type: seqio.metrics.ModelOutputType = flax.struct.field(
        pytree_node=False, default=seqio.metrics.ModelOutputType.SCORE
    )
    ks: tuple[int, ...] = flax.struct.field(
        pytree_node=False, default=(1, 5, 20, 50, 100)
    )
    match: str = flax.struct.field(pytree_node=False, default="string")
    hits: np.ndarray | None = None

    def from_model_output(
        self,
        inputs: Iterable[Mapping[str, Any]],
        model_output: np.ndarray,
        features: Mapping[str, seqio.Feature],
        target_field_name: str = "targets",
        mask: np.ndarray | None = None,
        indices_2d: np.ndarray | None = None,
    ) -> "TopKAccuracy":
        """The metric of some questions and the passages found for them.

        Args:
            inputs: the n questions, as examples of the task.
            model_output: [n, K] objects, passages or None.
            features: not used.
            target_field_name: not used: the answers are fields of their own.
            mask: [n] bool, False for questions to leave out; None: all count.
            indices_2d: not used.
        """
        del features, target_field_name, indices_2d
        questions = [question_of_example(example) for example in inputs]
        rows, passages = _rows_of_passages(np.asarray(model_output, dtype=object))
        hits = measures.question_hits(
            rows,
            passages.__getitem__,
            question_ids=[question.question_id for question in questions],
            answers=[question.answers for question in questions],
            relevant_ids=[question.relevant_ids for question in questions],
            match=self.match,
        )
        return self.replace(hits=hits if mask is None else hits[np.asarray(mask, bool)])

    def merge(self, other: "TopKAccuracy") -> "TopKAccuracy":
        """The metric of the questions of both."""
        return self.replace(hits=np.concatenate([self.hits, other.hits]))

    def compute(self) -> dict[str, float]:
        """`measures.accuracy_metrics` at the depths that were reached.

        Raises:
            ConfigError: none was.
        """
        num_found = self.hits.shape[1]
        reached = [k for k in self.ks if k <= num_found]
        if not reached:
            raise ConfigError(
                f"{num_found} passages were found for each question, fewer than the "
                f"smallest k of {self.ks}: retrieve more, or give the task smaller ks"
            )
        return measures.accuracy_metrics(self.hits, reached)


def evaluate_task(
    task_name: str,
    split: str,
    retrieve: Callable[[np.ndarray], np.ndarray],
    passage_of_row: Callable[[int], Passage],
    *,
    max_tokens: int,
    batch_size: int = 128,
    output_dir: str | os.PathLike | None = None,
    step: int | None = None,
) -> dict[str, float]:
    """The metrics of a split of a SeqIO task, by the measures that the task states.

    Args:
        task_name: of a registered task, whose metrics take passages (`TopKAccuracy`).
        split: of the task.
        retrieve: from query tokens [B, Q] int32 to rows [B, K] of the evidence, best
            first, -1 for none. B is always `batch_size` and K always the same; the last
            batch is filled up with its last question.
        passage_of_row: the passage of a row, such as `EvidenceStore.passage`.
        max_tokens: Q.
        batch_size: B.
        output_dir: where the metrics are appended, as a line of
            `<output_dir>/<task_name>-metrics.jsonl`, as T5X does in `inference_eval`.
            None: nowhere, as on all processes but the first.
        step: training step to write in that line.

    Returns:
        {metric: value}, such as {"top_20_accuracy": 0.5, "num_questions": 800}.

    Raises:
        ConfigError: the task is not registered, or is a mixture, or has no such split
            or no metrics; or too few passages were retrieved for its ks.
        DataError: a question has neither relevant_ids nor answers, or a passage comes
            twice in its ranking.
    """
    _check_task(task_name, split)
    loggers = ()
    if output_dir is not None:
        os.makedirs(output_dir, exist_ok=True)
        loggers = (seqio.JSONLogger,)
    with _without_warnings():
        evaluator = seqio.Evaluator(
            task_name,
            RetrieverQueryConverter(),
            eval_split=split,
            sequence_length={"query": max_tokens},
            logger_cls=loggers,
            log_dir=None if output_dir is None else os.fspath(output_dir),
            async_compute_metrics=False,
        )
    passage_of_row = functools.cache(passage_of_row)

    def retrieve_all(dataset: tf.data.Dataset) -> list[tuple[int, np.ndarray]]:
        found = []
        for places, features in dataset.batch(batch_size).as_numpy_iterator():
            rows = _retrieve_batch(retrieve, features["query_tokens"], batch_size)
            found.extend(
                zip(places, _passages_of_rows(rows, passage_of_row), strict=True)
            )
        return found

    try:
        metrics, _ = evaluator.evaluate(
            compute_metrics=True, step=step, score_fn=retrieve_all
        )
    except ValueError as error:
        # SeqIO wraps whatever a metric raises.
        if isinstance(error.__cause__, ArtJaxError):
            raise error.__cause__ from None
        raise
    return dict(metrics.result()[task_name])


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps SeqIO from advising against a fixed length and a missing logger."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _check_task(task_name: str, split: str) -> None:
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


def _retrieve_batch(
    retrieve: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, batch_size: int
) -> np.ndarray:
    """The rows of [b, Q] questions, from a retriever of `batch_size` at a time."""
    missing = batch_size - len(tokens)
    filled = np.concatenate([tokens, np.repeat(tokens[-1:], missing, axis=0)])
    return np.asarray(retrieve(filled))[: len(tokens)]


def _passages_of_rows(
    rows: np.ndarray, passage_of_row: Callable[[int], Passage]
) -> np.ndarray:
    """The passages of rows [b, K], as objects; None for -1."""
    passages = np.empty(rows.shape, dtype=object)
    for place, row in np.ndenumerate(rows):
        if row >= 0:
            passages[place] = passage_of_row(int(row))
    return passages


def _rows_of_passages(passages: np.ndarray) -> tuple[np.ndarray, Sequence[Passage]]:
    """Numbers of passages [n, K], equal where their ids are, and -1 for None."""
    numbers: dict[str, int] = {}
    distinct: list[Passage] = []
    rows = np.full(passages.shape, -1, np.int64)
    for place, passage in np.ndenumerate(passages):
        if passage is None:
            continue
        number = numbers.setdefault(passage.passage_id, len(distinct))
        if number == len(distinct):
            distinct.append(passage)
        rows[place] = number
    return rows, distinct
