"""All questions of a split as arrays on the host, so that any batch is a few rows.

500,000 questions of 64 tokens are 128 MB. A batch is a choice of rows, so the order of
training needs no iterator state and no shuffle buffer. Neither this module nor
`question_table` needs TensorFlow; `read_question_table` imports it when called.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from art_jax.data import sources
from art_jax.data.layouts import Layout, layout_token_lists
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError

_EXAMPLES_A_FETCH = 512


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionTable:
    """n questions, in the order of their file.

    tokens: [n, Q] int32, `[CLS] question [SEP]`, then padding.
    questions: the n questions with all that is known of them.
    """

    tokens: np.ndarray
    questions: tuple[Question, ...]

    @property
    def num_questions(self) -> int:
        """The number of questions, n."""
        return len(self.questions)

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The n questions as texts."""
        return tuple(question.text for question in self.questions)

    @functools.cached_property
    def question_ids(self) -> tuple[str, ...]:
        """Ids, unique in their file; a mixture of files may repeat them."""
        return tuple(question.question_id for question in self.questions)

    @functools.cached_property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """For each question, those it counts as right; evaluation only."""
        return tuple(question.answers for question in self.questions)

    @functools.cached_property
    def relevant_ids(self) -> tuple[tuple[str, ...], ...]:
        """For each question, passage ids known to be right; evaluation only."""
        return tuple(question.relevant_ids for question in self.questions)

    @functools.cached_property
    def source_ids(self) -> tuple[str, ...]:
        """For each question, id of the passage it was made from, or ""."""
        return tuple(question.source_id for question in self.questions)


def query_layout(tokenizer: WordPieceTokenizer, max_tokens: int) -> Layout:
    """How a question is laid out for a BERT encoder: `[CLS] question [SEP]`.

    Args:
        tokenizer: gives the ids of [CLS], [SEP] and padding.
        max_tokens: Q; a longer question loses its end, never its [SEP].
    """
    return Layout(
        prefix=(tokenizer.cls_id,),
        separator=(tokenizer.sep_id,),
        suffix=(tokenizer.sep_id,),
        max_tokens=max_tokens,
        pad_id=tokenizer.pad_id,
    )


def question_table(
    questions: Iterable[Question], tokenizer: WordPieceTokenizer, max_tokens: int
) -> QuestionTable:
    """The table of some questions, without SeqIO; equal to `read_question_table`'s.

    Args:
        questions: read once, in order.
        tokenizer: of the query encoder.
        max_tokens: Q, [CLS] and [SEP] included.

    Raises:
        DataError: there are no questions.
    """
    questions = tuple(questions)
    texts = [question.text for question in questions]
    tokens = layout_token_lists(
        query_layout(tokenizer, max_tokens), tokenizer.encode_batch(texts)
    )
    return make_question_table(questions, tokens)


def read_question_table(
    task_or_mixture: str, split: str, max_tokens: int
) -> QuestionTable:
    """The table of one split of a SeqIO task or mixture, in deterministic order.

    A task's questions come in the order of its file. A mixture's come task by task, in
    the order of their names, each once: its rates are not applied.

    Args:
        task_or_mixture: a registered name; importing its module of tasks registers it.
        split: of every task of the mixture that has it.
        max_tokens: Q, [CLS] and [SEP] included.

    Raises:
        ConfigError: the name is not registered, or no task has the split, or no
            vocabulary was chosen (`vocabularies.use`).
        DataError: there are no questions.
    """
    questions, rows = [], []
    for task in tasks_with_split(task_or_mixture, split):
        for tokens, some_questions in read_task(task, split, max_tokens):
            rows.append(tokens)
            questions.extend(some_questions)
    return make_question_table(questions, np.concatenate(rows) if rows else ())


def has_split(task_or_mixture: str, split: str) -> bool:
    """Whether some SeqIO task of that name has the split.

    Raises:
        ConfigError: the name is not registered.
    """
    return any(split in task.splits for task in _tasks(task_or_mixture))


def tasks_with_split(task_or_mixture: str, split: str) -> list:
    """The SeqIO tasks of that name that have the split.

    Raises:
        ConfigError: the name is not registered, or none of its tasks has the split.
    """
    tasks = _tasks(task_or_mixture)
    with_split = [task for task in tasks if split in task.splits]
    if not with_split:
        splits = sorted({name for task in tasks for name in task.splits})
        raise ConfigError(
            f"{task_or_mixture!r} has no split {split!r}: it has {', '.join(splits)}"
        )
    return with_split


def _tasks(task_or_mixture: str) -> list:
    """The SeqIO tasks of that name; a mixture has several."""
    from art_jax.data.host_tensorflow import seqio

    registered = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if task_or_mixture not in registered:
        raise ConfigError(
            f"no SeqIO task or mixture is called {task_or_mixture!r}: import the "
            "module that registers it (such as art_jax.tasks.quickstart). Registered: "
            f"{', '.join(sorted(registered)) or 'none'}"
        )
    return seqio.get_subtasks(seqio.get_mixture_or_task(task_or_mixture))


def read_task(
    task,
    split: str,
    max_tokens: int,
    make_row: Callable[[Mapping], Any] = sources.question_of_example,
) -> Iterator[tuple[np.ndarray, list]]:
    """Yields tokens [b, Q] and b questions of a SeqIO task, some at a time.

    Args:
        task: of SeqIO, as `tasks_with_split` gives them.
        split: of the task.
        max_tokens: Q, [CLS] and [SEP] included.
        make_row: from an example's fields to what is yielded in place of a question,
            such as `example_sources.example_of_fields`.

    Raises:
        DataError: the task's file breaks its format.
    """
    from art_jax.data import feature_converters
    from art_jax.data.host_tensorflow import tf

    dataset = task.get_dataset({"query": max_tokens}, split, shuffle=False)
    spec = feature_converters.RetrieverQueryConverter.FeatureSpec
    fields = {
        name: spec(dtype=tf.string, rank=len(element.shape))
        for name, element in dataset.element_spec.items()
        if element.dtype == tf.string
    }
    converter = feature_converters.RetrieverQueryConverter(
        apply_length_check=False, passthrough_features=fields
    )
    dataset = converter(dataset, {"query": max_tokens, **dict.fromkeys(fields)})
    # Lists of strings become rows of equal length, five times faster to fetch than
    # one example at a time.
    padding = dict.fromkeys(fields, sources.NO_TEXT) | {"query_tokens": 0}
    dataset = dataset.padded_batch(_EXAMPLES_A_FETCH, padding_values=padding)
    for batch in sources.iterate_dataset(dataset):
        tokens = batch.pop("query_tokens")
        examples = (
            dict(zip(batch, row, strict=True))
            for row in zip(*batch.values(), strict=True)
        )
        yield tokens, [make_row(row) for row in examples]


def make_question_table(
    questions: Sequence[Question], tokens: np.ndarray
) -> QuestionTable:
    """The table of questions that are tokenised already.

    Args:
        questions: n questions.
        tokens: [n, Q] int32, their laid-out tokens.

    Raises:
        DataError: there are no questions.
    """
    if not questions:
        raise DataError("there are no questions: the file or split is empty")
    if len(tokens) != len(questions):
        raise ValueError(f"{len(tokens)} rows of tokens, {len(questions)} questions")
    return QuestionTable(tokens, tuple(questions))
