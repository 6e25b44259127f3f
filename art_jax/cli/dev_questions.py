"""Held-out questions by which a retriever's training chooses its best step."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.data.query_forms import find_task
from art_jax.data.question_table import (
    QuestionTable,
    read_question_table,
    tasks_with_split,
)
from art_jax.errors import ConfigError
from art_jax.evaluation import kilt, measures, report
from art_jax.index.retriever import build_encode_query, encode_tokens, search_queries
from art_jax.methods.workspace import Workspace
from art_jax.training.loop import RunState
from art_jax.types import SearchResults

DEV_DEPTHS = (1, 5, 20, 100)
# Of each task alone these are reported, if it has them; the rest in the mean.
_OF_A_TASK = ("page_r_precision", "passage_r_precision", "top_20_accuracy")

Evaluate = Callable[[RunState], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class DevTask:
    """The held-out questions of a task.

    name: of the task.
    questions: n of them.
    tokens: [n, Q] int32, as the retriever reads them.
    tower: the question tower they go through; "" where there is one for all.
    """

    name: str
    questions: QuestionTable
    tokens: np.ndarray
    tower: str = ""


def evaluate_questions(workspace: Workspace, questions: QuestionTable) -> Evaluate:
    """Returns run -> top-k accuracy of held-out questions in the run's table.

    Raises:
        ConfigError: there are several question towers, and nothing says which of them
            reads these questions.
    """
    if workspace.encoder.query_towers:
        raise ConfigError(
            "the retriever has several question towers, so held-out questions have to "
            "say their task: give dev_tasks in place of MIXTURE_OR_TASK_NAME."
        )
    task = DevTask("", questions, questions.tokens)

    def evaluate(run: RunState) -> dict[str, float]:
        return _measure(workspace, task, run)

    return evaluate


def evaluate_tasks(
    workspace: Workspace, model: SavedRetriever, names: Sequence[str], split: str
) -> Evaluate:
    """Returns run -> measures of several tasks in the run's table, each and their mean.

    They are KILT's R-precision, recall and success, of pages and passages, where the
    questions have evidence, else top-k accuracy. "page_r_precision" is the mean over
    tasks, "kilt_nq_page_r_precision" that of one.

    Args:
        workspace: the parts of the run.
        model: how the retriever reads each task's questions; its weights are not used.
        names: of SeqIO tasks or mixtures; a mixture's tasks are told apart.
        split: held out.

    Raises:
        ConfigError: a name is not registered or has no such split; or there are
            several question towers and a task is none that is trained on.
    """
    from art_jax.data import vocabularies

    vocabularies.use(model.tokenizer)
    tasks = {
        task.name: _read_task(task.name, split, model)
        for name in names
        for task in tasks_with_split(name, split)
    }

    def evaluate(run: RunState) -> dict[str, float]:
        by_task = {name: _measure(workspace, task, run) for name, task in tasks.items()}
        sized = {
            name: {**values, "num_questions": tasks[name].questions.num_questions}
            for name, values in by_task.items()
        }
        means = report.mean_metrics(sized)
        means.pop("num_questions")
        each = {
            f"{name}_{measure}": values[measure]
            for name, values in by_task.items()
            for measure in _OF_A_TASK
            if measure in values and len(tasks) > 1
        }
        return {**means, **each}

    return evaluate


def _read_task(name: str, split: str, model: SavedRetriever) -> DevTask:
    questions = read_question_table(name, split, model.max_query_tokens)
    task = find_task(name, model.query_forms)
    if task is not None:
        form = model.query_forms[task]
        only = dataclasses.replace(model, query_forms={task: form})
        tokens = only.query_tokens(questions.questions)
        return DevTask(name, questions, tokens, form.tower)
    if model.encoder.query_towers:
        raise ConfigError(
            f"{name!r} is held out, but none of the tasks that are trained on, "
            f"{', '.join(model.query_forms)}, and each is read by a question tower: "
            "leave it out of dev_tasks."
        )
    return DevTask(name, questions, questions.tokens)


def _measure(workspace: Workspace, task: DevTask, run: RunState) -> dict[str, float]:
    """Returns the means of a task's measures."""
    encoder, params = workspace.encoder, run.train.params
    if encoder.query_towers:
        encoder, params = encoder.with_tower(params, task.tower)
    queries = encode_tokens(
        build_encode_query(encoder), params, task.tokens, workspace.mesh
    )
    num_rows = workspace.evidence.num_passages
    depths = [k for k in DEV_DEPTHS if k <= num_rows]
    found = search_queries(run.table, queries, k=depths[-1])
    if any(question.evidence for question in task.questions.questions):
        return _kilt_means(workspace, task.questions, found, depths)
    values = measures.evaluate_questions(
        task.questions, found.rows, workspace.evidence.passage, depths
    )
    return {name: v for name, v in values.items() if name != "num_questions"}


def _kilt_means(
    workspace: Workspace,
    questions: QuestionTable,
    found: SearchResults,
    depths: Sequence[int],
) -> dict[str, float]:
    every = [
        kilt.level_scores(
            [workspace.evidence.passage_id(int(row)) for row in rows if row >= 0],
            question.evidence,
            depths,
        )
        for question, rows in zip(
            questions.questions, jax.device_get(found.rows), strict=True
        )
    ]
    has_paragraphs = any(
        "+" in one
        for question in questions.questions
        for support in question.evidence
        for one in support
    )
    return {
        name: float(np.mean([scores[name] for scores in every]))
        for name in every[0]
        if has_paragraphs or name.startswith("page_")
    }
