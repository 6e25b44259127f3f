"""A reader: a T5 that reads all passages of a question and says its answers (FiD).

The encoder reads each passage with the question, the decoder reads what it made of all
and says an answer, or several with a separator between them.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from art_jax import partitioning
from art_jax.data.answer_targets import AnswerCodec, TargetRules
from art_jax.data.batches import batch_rows, check_num_examples, filled_batches
from art_jax.data.examples import RankedQuestion
from art_jax.data.prompts import PassagePrompt, PromptRows, make_rows
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.evaluation.answer_measures import measure_answers
from art_jax.generation.beam import BeamRules
from art_jax.generation.t5_decoding import generate
from art_jax.methods.ranked_table import RankedSet, RankedTable
from art_jax.methods.reading.reader_table import (
    ReaderTable,
    read_held_out,
    read_reader_table,
    table_of_passages,
)
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import fid, t5
from art_jax.models.t5 import T5Config
from art_jax.training.loop import Problem, RunState
from art_jax.types import Params

READER_TEMPLATE = "question: {q} title: {t} context: {c}"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a reader says of a question.

    texts: its answers; () where it says none, or has no passage to read.
    log_likelihood: of all that it said, in nats; -inf where there was no passage.
    """

    texts: tuple[str, ...]
    log_likelihood: float


@dataclasses.dataclass(frozen=True)
class FidReader:
    """A reader's settings; the defaults are of questions with one answer.

    Attributes:
        train_sets: rankings to train on, of which the best `depth` passages are read.
        targets: what is said of a question.
        prompt: what the encoder reads of a passage, without an index; FiD's released
            models read 250 tokens of it, Min et al.'s 360.
        dropout: in the T5, at its config's rate.
        passages_at_once: of each question, that the encoder holds activations of; None:
            all. Changes no result.
        dev_sets: held-out rankings of questions with answers, to choose a step by.
        dev_beams: how answers are searched there; None: greedily.
        dev_max_questions: of `dev_sets`, the first so many; None: all.

    Source: Izacard & Grave, arXiv:2007.01282; Min et al., arXiv:2104.08445, sections
        5.2 and B.3. Differs in: passages without an answer in them are not replaced.
    """

    train_sets: Sequence[RankedSet] = ()
    targets: TargetRules = TargetRules()
    prompt: PassagePrompt = PassagePrompt(READER_TEMPLATE, 250)
    dropout: bool = True
    passages_at_once: int | None = None
    dev_sets: Sequence[RankedSet] = ()
    dev_beams: BeamRules | None = None
    dev_max_questions: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "train_sets", tuple(self.train_sets))
        object.__setattr__(self, "dev_sets", tuple(self.dev_sets))
        if self.prompt.has_index:
            raise ConfigError(
                f"the template {self.prompt.template!r} has {{i}}: a reader names no "
                "passage, so none has an index."
            )

    def check(
        self, workspace: T5Workspace, batch_size: int, num_chunks: int = 1
    ) -> None:
        """Raises where `bind` would; reads the rankings, which are kept for it."""
        workspace.check_batch_size(batch_size, num_chunks)
        AnswerCodec(workspace.tokenizer, self.targets)
        check_num_examples(len(self._read(workspace).answers), batch_size)
        self._read_dev(workspace)

    def describe(self, workspace: T5Workspace) -> str:
        """What is trained on, in one line."""
        table = self._read(workspace)
        return (
            f"{len(table.answers):,} ranked questions with "
            f"{table.ranked.passages.num_rows:,} passages ({table.num_left_out:,} "
            "without an answer to say left out)"
        )

    def bind(
        self,
        workspace: T5Workspace,
        *,
        batch_size: int,
        seed: int,
        num_chunks: int = 1,
        directory: pathlib.Path | None = None,
        table: ReaderTable | None = None,
    ) -> Problem:
        """Returns the batches, the loss and the dev measures of a run.

        Args:
            workspace: the parts of the run.
            batch_size: B, questions a step.
            seed: of the batches.
            num_chunks: parts of a batch whose gradients are added up.
            directory: not used.
            table: of questions at hand, in place of `train_sets`.

        Raises:
            ConfigError: a setting does not fit the T5, the mesh or the rankings.
            DataError: a file breaks its format, or no question has a target.
        """
        del directory
        workspace.check_batch_size(batch_size, num_chunks)
        codec = AnswerCodec(workspace.tokenizer, self.targets)
        table = self._read(workspace) if table is None else table
        check_num_examples(len(table.answers), batch_size)
        rows = make_rows(self.prompt, workspace.tokenizer)

        def make_batch(step: int) -> dict[str, jax.Array]:
            questions = batch_rows(len(table.answers), batch_size, seed=seed, step=step)
            return workspace.put_batch(
                self.draw_batch(table, questions, rows, codec, (seed, step))
            )

        def loss(params: Params, batch, resources, key: jax.Array):
            del resources
            return self.loss(workspace.config, params, batch, key)

        evaluate = self._build_evaluation(workspace, batch_size // num_chunks)
        return Problem(make_batch, loss, evaluate=evaluate)

    def draw_batch(
        self,
        table: ReaderTable,
        questions: np.ndarray,
        rows: PromptRows,
        codec: AnswerCodec,
        seed: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of some questions, on the host.

        Args:
            table: of them.
            questions: [B] int.
            rows: of the prompt.
            codec: of the answers.
            seed: a run's, and its step.

        Returns:
            tokens [B, K, L] int32; targets [B, T] int32, padded with 0; scales [B]
            float32, by which the mean over B of a question's sum over its tokens
            becomes the mean over all tokens.
        """
        targets = np.zeros((len(questions), self.targets.max_tokens), np.int32)
        for place, question in enumerate(questions.tolist()):
            ids = codec.draw(table.answers[question], (*seed, place))
            targets[place, : len(ids)] = ids
        mean_length = np.count_nonzero(targets) / len(questions)
        return {
            "tokens": _lay_out(rows, table.ranked, questions),
            "targets": targets,
            "scales": np.full(len(questions), 1 / mean_length, np.float32),
        }

    def loss(
        self, config: T5Config, params: Params, batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean over the targets' tokens, and the share that come first.

        Args:
            config: of the T5.
            params: of the T5.
            batch: as `draw_batch` has it.
            key: consumed, for dropout.
        """
        keys = jax.random.split(key) if self.dropout else (None, None)
        encoded, mask = fid.encode(
            params,
            config,
            batch["tokens"],
            passages_at_once=self.passages_at_once,
            dropout_key=keys[0],
        )
        targets = batch["targets"]
        logits = fid.decode(
            params,
            config,
            encoded,
            mask,
            t5.shift_right(targets),
            dropout_key=keys[1],
        ).astype(jnp.float32)
        is_there = targets > 0
        said = jnp.take_along_axis(logits, targets[..., None], axis=2)[..., 0]
        nats = jax.nn.logsumexp(logits, axis=2) - said
        is_right = (jnp.argmax(logits, axis=2) == targets) & is_there
        losses = jnp.where(is_there, nats, 0.0).sum(axis=1) * batch["scales"]
        accuracy = is_right.sum(axis=1).astype(jnp.float32) * batch["scales"]
        return losses.mean(), {"token_accuracy": accuracy.mean()}

    def read(
        self,
        params: Params,
        workspace: T5Workspace,
        ranked: Sequence[RankedQuestion],
        *,
        beams: BeamRules | None = None,
        max_tokens: int | None = None,
        batch_size: int = 8,
    ) -> Iterator[Answers]:
        """Yields what is said of each question, in their order.

        Args:
            params: of the T5, trained with this method.
            workspace: its parts.
            ranked: questions with the passages that are read, all of them.
            beams: of beam search; None: greedy search.
            max_tokens: of what is said; None: as in training.
            batch_size: questions at once, over all devices; one shape compiles.

        Raises:
            ConfigError: the devices do not divide a batch, or the tokeniser does not
                give texts.
        """
        yield from self._say(
            params,
            workspace,
            table_of_passages(ranked, workspace.tokenizer),
            beams=beams,
            max_tokens=max_tokens,
            batch_size=batch_size,
        )

    def attention(
        self,
        params: Params,
        workspace: T5Workspace,
        ranked: Sequence[RankedQuestion],
        *,
        batch_size: int = 8,
    ) -> np.ndarray:
        """Returns how much the reader looks at each passage, [n, K] float32.

        At its first step, as FiD's distillation has it, see `fid.passage_attention`; a
        retriever can learn from it. -inf where there is no passage. Arguments as of
        `read`.
        """
        table = table_of_passages(ranked, workspace.tokenizer)
        found = []
        for questions, tokens in self._batches(workspace, table, batch_size):
            attended = _attend(
                params,
                workspace.config,
                tokens,
                passages_at_once=self.passages_at_once,
            )
            found.append(partitioning.to_host(attended)[: len(questions)])
        return np.where(table.rows >= 0, np.concatenate(found), -np.inf)

    def _say(
        self,
        params: Params,
        workspace: T5Workspace,
        table: RankedTable,
        *,
        beams: BeamRules | None,
        max_tokens: int | None,
        batch_size: int,
    ) -> Iterator[Answers]:
        """Yields what is said of each question of a table; arguments as of `read`."""
        codec = AnswerCodec(workspace.tokenizer, self.targets)
        is_read = (table.rows >= 0).any(axis=1).tolist()
        if not any(is_read):
            yield from [Answers((), -math.inf)] * table.num_questions
            return
        for questions, tokens in self._batches(workspace, table, batch_size):
            decoded = _read_and_say(
                params,
                workspace.config,
                tokens,
                max_tokens=max_tokens or self.targets.max_tokens,
                beams=beams,
                eos_id=codec.eos_id,
                passages_at_once=self.passages_at_once,
            )
            said, nats = (partitioning.to_host(one).tolist() for one in decoded)
            for question, ids, of_ids in zip(questions, said, nats, strict=False):
                if is_read[question]:
                    yield Answers(codec.texts(ids), of_ids)
                else:
                    yield Answers((), -math.inf)

    def _batches(
        self, workspace: T5Workspace, table: RankedTable, batch_size: int
    ) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Yields the questions that count of `filled_batches`, and tokens of all."""
        workspace.check_batch_size(batch_size)
        rows = make_rows(self.prompt, workspace.tokenizer)
        for questions, count in filled_batches(table.num_questions, batch_size):
            batch = workspace.put_batch({"tokens": _lay_out(rows, table, questions)})
            yield questions[:count], batch["tokens"]

    def _read(self, workspace: T5Workspace) -> ReaderTable:
        return read_reader_table(self.train_sets, self.targets, workspace.tokenizer)

    def _build_evaluation(
        self, workspace: T5Workspace, batch_size: int
    ) -> Callable[[RunState], Mapping[str, float]] | None:
        """Returns run -> measures of the dev sets, for `Problem.evaluate`."""
        if not self.dev_sets:
            return None
        questions, table = self._read_dev(workspace)

        def evaluate(run: RunState) -> Mapping[str, float]:
            said = self._say(
                run.train.params,
                workspace,
                table,
                beams=self.dev_beams,
                max_tokens=None,
                batch_size=batch_size,
            )
            return measure_answers(
                [one.texts for one in said], questions, self.targets.form
            )

        return evaluate

    def _read_dev(
        self, workspace: T5Workspace
    ) -> tuple[tuple[Question, ...], RankedTable] | None:
        if not self.dev_sets:
            return None
        return read_held_out(self.dev_sets, self.dev_max_questions, workspace.tokenizer)


def _lay_out(rows: PromptRows, table: RankedTable, questions: np.ndarray) -> np.ndarray:
    """What the encoder reads of some questions, [B, K, L] int32."""
    passages = table.rows[questions]
    no_indexes = np.zeros_like(passages)
    return rows.layout(table.questions, questions, table.passages, passages, no_indexes)


@functools.partial(
    jax.jit,
    static_argnames=("config", "max_tokens", "beams", "eos_id", "passages_at_once"),
)
def _read_and_say(
    params, config, tokens, *, max_tokens, beams, eos_id, passages_at_once
) -> tuple[jax.Array, jax.Array]:
    """The likeliest tokens, [B, T] int32, and their log-likelihoods, [B]."""
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    decoded = generate(
        params,
        config,
        encoded,
        mask,
        max_tokens=max_tokens,
        rules=beams,
        eos_id=eos_id,
    )
    if beams is None:
        return decoded.tokens, decoded.log_likelihoods
    return decoded.tokens[:, 0], decoded.log_likelihoods[:, 0]


@functools.partial(jax.jit, static_argnames=("config", "passages_at_once"))
def _attend(params, config, tokens, *, passages_at_once) -> jax.Array:
    """See `FidReader.attention`."""
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    start = jnp.zeros((len(tokens), 1), jnp.int32)
    return fid.passage_attention(
        params, config, encoded, mask, start, num_passages=tokens.shape[1]
    )
