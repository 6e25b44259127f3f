"""Distilling scores at hand into a retriever: a reader's attention, a reranker's.

The retriever learns to prefer passages as the scores in files of rankings do. A reader
that looks at some passages more than at others so teaches a retriever without a label
(FiD-KD); retrieved anew, the passages are read and distilled again.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.data.batches import batch_rows, check_num_examples, draw_places
from art_jax.data.layouts import layout_rows
from art_jax.errors import ConfigError
from art_jax.losses import distillation
from art_jax.methods.ranked_table import RankedSet, RankedTable, read_ranked_table
from art_jax.methods.workspace import RETRIEVER, Workspace
from art_jax.models.dual_encoder import DualEncoder
from art_jax.training.loop import Problem
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Distill:
    """Settings; the defaults are those of FiD's distillation.

    Attributes:
        train_sets: rankings with scores, such as `art-jax read --write_attention`
            writes; without any a passage's is minus its rank.
        num_passages: K, of each question a step, drawn anew each time from the best
            `depth` of its ranking; None: all of them.
        temperature: divides the retriever's dot products; None: the square root of the
            embedding's width.
        teacher_scale: multiplies the scores before the softmax.
        dropout: in both towers.

    Source: Izacard & Grave, arXiv:2012.04584. Differs in: the loss is a sum over a
        question's passages; its official code's is that over K.
    """

    train_sets: Sequence[RankedSet] = ()
    num_passages: int | None = None
    temperature: float | None = None
    teacher_scale: float = 1.0
    dropout: bool = True

    def __post_init__(self):
        object.__setattr__(self, "train_sets", tuple(self.train_sets))
        if self.num_passages is not None and self.num_passages < 2:
            raise ConfigError(
                f"num_passages is {self.num_passages}: a preference is among 2 or more."
            )
        for name in ("temperature", "teacher_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}: it must be positive.")

    def check(self, workspace: Workspace, batch_size: int, num_chunks: int = 1) -> None:
        """Raises where `bind` would; reads the rankings, which are kept for it."""
        workspace.check_batch_size(batch_size, num_chunks)
        check_num_examples(self._read(workspace).num_questions, batch_size)

    def describe(self, workspace: Workspace) -> str:
        """What is trained on, in one line."""
        table = self._read(workspace)
        return (
            f"{table.num_questions:,} questions with scores of "
            f"{table.passages.num_rows:,} passages"
        )

    def bind(
        self,
        workspace: Workspace,
        *,
        batch_size: int,
        seed: int,
        num_chunks: int = 1,
        directory: pathlib.Path | None = None,
    ) -> Problem:
        """Returns the batches and the loss of a run.

        Args:
            workspace: the parts of the run.
            batch_size: B, questions a step.
            seed: of the batches.
            num_chunks: parts of a batch whose gradients are added up.
            directory: not used.

        Raises:
            ConfigError: a setting does not fit the mesh or the rankings.
            DataError: a file breaks its format.
        """
        del directory
        workspace.check_batch_size(batch_size, num_chunks)
        table = self._read(workspace)
        check_num_examples(table.num_questions, batch_size)

        def make_batch(step: int) -> dict[str, jax.Array]:
            questions = batch_rows(
                table.num_questions, batch_size, seed=seed, step=step
            )
            arrays = draw_scored(table, questions, self.num_passages, (seed, step))
            rows = arrays.pop("rows")
            arrays["query_tokens"] = layout_rows(
                workspace.query_layout, table.questions, questions
            )
            # A slot without a passage is read as some other, and masked in the loss.
            arrays["passage_tokens"] = layout_rows(
                workspace.passage_layout, table.passages, np.maximum(rows, 0)
            )
            return workspace.put_batch(arrays)

        def loss(params: Params, batch, resources, key: jax.Array):
            del resources
            return self.loss(workspace.encoder, params, batch, key)

        return Problem(make_batch, loss)

    def loss(
        self, encoder: DualEncoder, params: Params, batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean over questions, and how often the best passages agree.

        Args:
            encoder: the retriever.
            params: its parameters.
            batch: query_tokens [B, Q] and passage_tokens [B, K, L], int32; scores
                [B, K] float32, where [B, K] bool.
            key: consumed, for dropout.
        """
        query_key, passage_key = jax.random.split(key) if self.dropout else (None, None)
        queries_BD = encoder.encode_query(params, batch["query_tokens"], key=query_key)
        tokens_BKL = batch["passage_tokens"]
        passages_BKD = encoder.encode_passage(
            params, tokens_BKL.reshape(-1, tokens_BKL.shape[-1]), key=passage_key
        ).reshape(*tokens_BKL.shape[:2], -1)
        student_BK = jnp.einsum("bd,bkd->bk", queries_BD, passages_BKD)
        where_BK = batch["where"]
        losses_B = distillation.teacher_kl(
            student_BK,
            batch["scores"],
            temperature=self.temperature or math.sqrt(queries_BD.shape[-1]),
            teacher_scale=self.teacher_scale,
            where=where_BK,
        )
        best_B, wanted_B = (
            jnp.argmax(jnp.where(where_BK, scores, -jnp.inf), axis=1)
            for scores in (student_BK, batch["scores"])
        )
        return losses_B.mean(), {"top_1_agreement": (best_B == wanted_B).mean()}

    def _read(self, workspace: Workspace) -> RankedTable:
        return read_ranked_table(self.train_sets, workspace.tokenizers[RETRIEVER])


def draw_scored(
    table: RankedTable,
    questions: np.ndarray,
    num_passages: int | None,
    seed: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Passages of some questions with their scores: rows, scores, where, [B, K].

    Args:
        table: of the questions.
        questions: [B] int.
        num_passages: K, drawn from each ranking; None: all, in their order.
        seed: a run's, and its step.

    Returns:
        rows int32, of the table's passages, -1 for none; scores float32, 0 for none.
    """
    rows, scores = table.rows[questions], table.priors[questions]
    if num_passages is not None:
        raw = np.random.PCG64(list(seed)).random_raw(len(rows) * num_passages)
        places = draw_places(
            (rows >= 0).sum(axis=1), num_passages, raw.reshape(len(rows), -1)
        )
        is_drawn = places >= 0
        rows, scores = (
            np.take_along_axis(each, np.maximum(places, 0), axis=1)
            for each in (rows, scores)
        )
        rows = np.where(is_drawn, rows, -1)
    where = rows >= 0
    return {
        "rows": rows,
        "scores": np.where(where, scores, 0).astype(np.float32),
        "where": where,
    }
