"""ART: a retriever trained from questions alone (Sachan et al., arXiv:2206.10658).

Each step embeds the questions, searches the table, lets the teacher say how likely
each passage found makes the question, and moves the retriever's choice among them
towards the teacher's. On the device it is one compiled program.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from art_jax import partitioning
from art_jax.data.batches import batch_rows, check_num_examples
from art_jax.data.passage_mix import GivenPassages, PassageMix, open_mix
from art_jax.errors import ConfigError
from art_jax.index.rows import DeviceRows, HostRows, without_repeats
from art_jax.index.table import EmbeddingTable
from art_jax.index.topk import sharded_top_k
from art_jax.losses import distillation
from art_jax.methods.workspace import RETRIEVER, TEACHER, Workspace
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher import cached_scores
from art_jax.teacher.interface import Teacher
from art_jax.training import chunks, write_back
from art_jax.training.loop import Problem
from art_jax.types import Params

LOSS_INPUTS = ("query_tokens", "rows", "passage_tokens", "teacher_scores")
# In how many calls a batch is scored of which no score is cached. More calls, less
# work for nothing where few are missing.
CALLS_A_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Art:
    """ART's settings; the defaults are those of the published T0-3B runs.

    teacher: what scores the passages.
    num_passages: K, passages kept a question, from the table in use; 0 with a `mix`:
        nothing is searched for.
    mix: passages offered beside these, such as right and uniform ones; None: none.
    num_questions: train on the first so many questions; None: on all.
    temperature: divides the retriever's dot products; None: the square root of the
        embedding width (the official code; the paper says cross-validated).
    teacher_scale: multiplies the teacher's mean log-likelihoods before the softmax.
    dropout: in the retriever, the question's search included.
    train_query_tower, train_passage_tower: False lets no gradient through that side;
        where the towers are two, its parameters stay as they are, bit for bit.
    exclude_source: never offer a question the passage it was made from. The official
        code means to and never does, so the default is not to.
    cache_scores: keep the teacher's scores in the stage's folder and ask it for new
        pairs of question and passage only, which takes a stop on the host each step.
    write_back: write the embeddings that a step makes of its passages into the table,
        as its loss sees them, dropout included; see docs/performance.md.
    """

    teacher: Teacher
    num_passages: int = 32
    mix: PassageMix | None = None
    num_questions: int | None = None
    temperature: float | None = None
    teacher_scale: float = 1.0
    dropout: bool = True
    train_query_tower: bool = True
    train_passage_tower: bool = True
    exclude_source: bool = False
    cache_scores: bool = False
    write_back: bool = False

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
            batch_size: questions a step.
            seed: of the batches.
            num_chunks: parts of a batch that the loss is given one after the other;
                the batch is searched for and scored whole.
            directory: of the stage; scores are kept in its `teacher_scores`.

        Raises:
            ConfigError: K is above the number of passages, there are no questions, or
                the batch does not fit them or the mesh.
        """
        self.check(workspace, batch_size, num_chunks)
        queries, evidence = workspace.queries, workspace.evidence
        given, num_questions = self._given(workspace), self._num_questions(workspace)
        tokenizer = workspace.tokenizers[TEACHER]
        teacher_params = self.teacher.load(
            evidence.token_tables[TEACHER], tokenizer, workspace.mesh
        )
        token_rows = {
            "passage_tokens": workspace.passages,
            "teacher_tokens": workspace.rows_of(
                TEACHER, self.teacher.passage_layout(tokenizer)
            ),
        }
        examples = {
            "query_tokens": queries.tokens,
            "teacher_questions": self.teacher.question_rows(tokenizer, queries.texts),
            "excluded_rows": self._excluded_rows(workspace),
            "questions": np.arange(queries.num_questions, dtype=np.int32),
        }
        score_batch, flush = None, lambda: None
        if self.cache_scores:
            score_batch, flush = cached_scores.open_scorer(
                directory and directory / "teacher_scores",
                {
                    "teacher": self.teacher.digest(tokenizer),
                    "evidence": evidence.digest,
                    "questions": cached_scores.questions_digest(queries.texts),
                },
                self.teacher,
                teacher_params,
                examples["teacher_questions"],
                token_rows.pop("teacher_tokens"),
                pairs_a_call=max(
                    1, batch_size * self.num_candidates(batch_size) // CALLS_A_BATCH
                ),
            )

        def make_batch(step: int) -> dict[str, jax.Array]:
            rows = batch_rows(num_questions, batch_size, seed=seed, step=step)
            arrays = {name: array[rows] for name, array in examples.items()}
            if given is not None:
                arrays["given_rows"] = given.draw(rows, seed=seed, step=step)
            return workspace.put_batch(arrays)

        def resources(table):
            arrays = {"teacher_params": teacher_params} | self._searched(table)
            if workspace.stream_tokens:
                return arrays
            return arrays | {name: rows.tokens for name, rows in token_rows.items()}

        prepare = functools.partial(
            self.prepare, workspace, token_rows, num_chunks=num_chunks
        )

        @jax.jit
        def find(train, batch, resources, key):
            key = jax.random.fold_in(key, train.step)
            return self.candidates(
                workspace, train.params, batch, resources, key, num_chunks=num_chunks
            )

        def complete(train, batch, resources, key):
            rows = partitioning.to_host(find(train, batch, resources, key))
            more = {"rows": rows}
            if score_batch is not None:
                questions = partitioning.to_host(batch["questions"])
                more["teacher_scores"] = score_batch(questions, rows)
            batch = batch | workspace.put_batch(more)
            if not workspace.stream_tokens:
                return batch
            return batch | {
                name: held.gather(rows) for name, held in token_rows.items()
            }

        def loss(params, batch, resources, key):
            return self.loss(workspace.encoder, params, batch, key)

        return Problem(
            make_batch,
            loss,
            prepare,
            resources,
            complete if workspace.stream_tokens or self.cache_scores else None,
            write_back=write_back.write_back if self.write_back else None,
            flush=flush,
            frozen=() if workspace.encoder.shared else self._frozen_towers(),
        )

    def check(self, workspace: Workspace, batch_size: int, num_chunks: int = 1) -> None:
        """Raises ConfigError where `bind` would for want of passages or questions."""
        workspace.check_batch_size(batch_size, num_chunks)
        if not (self.train_query_tower or self.train_passage_tower):
            raise ConfigError(
                "train_query_tower and train_passage_tower are both False: nothing is "
                "left to train."
            )
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(
                f"temperature is {self.temperature}: it must be positive, or None for "
                "the square root of the embedding width."
            )
        if workspace.queries is None:
            raise ConfigError(
                "ART trains on questions: give QUERIES or a task of them."
            )
        check_num_examples(self._num_questions(workspace), batch_size)
        num_rows = workspace.evidence.num_passages - self.exclude_source
        least = 1 if self.mix is None else 0
        if not least <= self.num_passages <= num_rows:
            raise ConfigError(
                f"PASSAGES_PER_QUERY is {self.num_passages}, but a question has "
                f"{num_rows} passages to find: choose {least} to {num_rows}."
            )
        self._given(workspace)

    def num_candidates(self, batch_size: int) -> int:
        """Returns among how many passages a question chooses, equal ones included."""
        given = 0 if self.mix is None else self.mix.num_given(batch_size)
        return self.num_passages + given

    def describe(self, workspace: Workspace) -> str:
        """What each question chooses among, in one line."""
        found = f"{self.num_passages} passages found"
        given = self._given(workspace)
        return found if given is None else f"{found}; {given.describe()}"

    def retrieve(
        self,
        workspace: Workspace,
        params: Params,
        batch,
        resources,
        key: jax.Array,
        *,
        num_chunks: int = 1,
    ) -> jax.Array:
        """Returns the K best rows of the table for each question, [B, K] int32.

        The question is embedded by today's weights, with the dropout that `loss` will
        use; the table's rows may be older. No gradient flows through the choice.

        Args:
            workspace: the parts of the run.
            params: the retriever's.
            batch: query_tokens [B, Q], excluded_rows [B, E]; int32.
            resources: embeddings [N padded, D], their int8_rows or None, and num_rows
                among them.
            key: the step's.
            num_chunks: in which the loss will be given the batch.
        """
        queries_BD = chunks.map_chunks(
            lambda tokens_BQ, key: workspace.encoder.encode_query(
                params, tokens_BQ, key=self._keys(key)[0]
            ),
            batch["query_tokens"],
            key,
            num_chunks=num_chunks,
        )
        return sharded_top_k(
            jax.lax.stop_gradient(queries_BD),
            resources["embeddings"],
            k=self.num_passages,
            num_rows=resources["num_rows"],
            mesh=workspace.mesh,
            excluded_rows=batch["excluded_rows"],
            options=workspace.search,
            int8_rows=resources["int8_rows"],
        ).rows

    def candidates(
        self,
        workspace: Workspace,
        params: Params,
        batch,
        resources,
        key: jax.Array,
        *,
        num_chunks: int = 1,
    ) -> jax.Array:
        """Returns the rows each question chooses among, [B, C] int32, -1 for none.

        The K best come first, then those of `mix`; no row is there twice, and the
        source of a question is left out of both where it is to be.

        Args:
            workspace: the parts of the run.
            params: the retriever's.
            batch: as for `retrieve`, and with a `mix` given_rows [B, G] int32.
            resources: as for `retrieve`; nothing is read of it where K is 0.
            key: the step's.
            num_chunks: in which the loss will be given the batch.
        """
        found = []
        if self.num_passages:
            rows_BK = self.retrieve(
                workspace, params, batch, resources, key, num_chunks=num_chunks
            )
            found.append(rows_BK)
        if self.mix is None:
            return found[0]
        rows_BC = jnp.concatenate([*found, batch["given_rows"]], axis=1)
        return without_repeats(rows_BC, batch["excluded_rows"])

    def prepare(
        self,
        workspace: Workspace,
        token_rows: Mapping[str, DeviceRows | HostRows],
        params: Params,
        batch,
        resources,
        key: jax.Array,
        *,
        num_chunks: int = 1,
    ) -> dict[str, jax.Array]:
        """Returns what `loss` takes of a batch: passages found, and their scores.

        Args:
            workspace: the parts of the run.
            token_rows: passage_tokens and teacher_tokens, as `resources` holds them.
            params: the retriever's.
            batch: query_tokens [B, Q], teacher_questions [B, T], excluded_rows [B, E],
                and with a `mix` given_rows [B, G]; int32. What it has of the result is
                taken as it is.
            resources: as for `retrieve` and `score`, and the tokens of `token_rows`.
            key: the step's.
            num_chunks: in which the loss will be given the batch.
        """
        if "rows" not in batch:
            rows = self.candidates(
                workspace, params, batch, resources, key, num_chunks=num_chunks
            )
            batch = batch | {"rows": rows}
        for name, held in token_rows.items():
            if name not in batch:
                held = dataclasses.replace(held, tokens=resources[name])
                batch = batch | {name: held.gather(batch["rows"])}
        return self.score(batch, resources)

    def score(self, batch, resources) -> dict[str, jax.Array]:
        """Returns what `loss` takes of a batch, with teacher_scores, [B, K] float32.

        Args:
            batch: as for `loss`, or with teacher_questions [B, T], teacher_tokens
                [B, K, tokens], int32, in place of the scores.
            resources: teacher_params among them.
        """
        if "teacher_scores" not in batch:
            scores_BK = self.teacher.score(
                resources["teacher_params"],
                batch["teacher_questions"],
                batch["teacher_tokens"],
                passage_rows=batch["rows"],
            )
            batch = batch | {"teacher_scores": scores_BK}
        return {name: batch[name] for name in LOSS_INPUTS}

    def loss(
        self, encoder: DualEncoder, params: Params, batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean KL from the teacher's choice to the retriever's.

        Args:
            encoder: the retriever.
            params: its parameters.
            batch: query_tokens [B, Q], rows [B, K] (-1 for no passage),
                passage_tokens [B, K, L], all int32; teacher_scores [B, K] float32.
            key: consumed, for dropout.

        Returns:
            The loss in nats, and metrics; with `write_back`, what that takes too.
        """
        query_key, passage_key = self._keys(key)
        queries_BD = encoder.encode_query(params, batch["query_tokens"], key=query_key)
        tokens_BKL = batch["passage_tokens"]
        passages_BKD = encoder.encode_passage(
            params, tokens_BKL.reshape(-1, tokens_BKL.shape[-1]), key=passage_key
        ).reshape(*tokens_BKL.shape[:2], -1)
        if not self.train_query_tower:
            queries_BD = jax.lax.stop_gradient(queries_BD)
        if not self.train_passage_tower:
            passages_BKD = jax.lax.stop_gradient(passages_BKD)
        student_BK = jnp.einsum("bd,bkd->bk", queries_BD, passages_BKD)
        teacher_BK = batch["teacher_scores"]
        is_passage_BK = batch["rows"] >= 0
        temperature = self.temperature
        if temperature is None:
            temperature = encoder.width**0.5
        losses_B = distillation.teacher_kl(
            student_BK,
            teacher_BK,
            temperature=temperature,
            teacher_scale=self.teacher_scale,
            where=is_passage_BK,
        )
        best_of_teacher = jnp.argmax(
            jnp.where(is_passage_BK, teacher_BK, -jnp.inf), axis=1
        )
        best_of_student = jnp.argmax(
            jnp.where(is_passage_BK, student_BK, -jnp.inf), axis=1
        )
        metrics = {
            "teacher_entropy": distillation.entropy(
                teacher_BK * self.teacher_scale, is_passage_BK
            ).mean(),
            "retriever_entropy": distillation.entropy(
                student_BK / temperature, is_passage_BK
            ).mean(),
            "agreement": (best_of_teacher == best_of_student).mean(),
        }
        if self.write_back:
            metrics[write_back.ROWS] = batch["rows"]
            metrics[write_back.EMBEDDINGS] = jax.lax.stop_gradient(passages_BKD)
        return losses_B.mean(), metrics

    def _keys(self, key: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        if not self.dropout:
            return None, None
        query_key, passage_key = jax.random.split(key)
        return query_key, passage_key

    def _frozen_towers(self) -> tuple[str, ...]:
        is_trained = {
            "query": self.train_query_tower,
            "passage": self.train_passage_tower,
        }
        return tuple(name for name, trained in is_trained.items() if not trained)

    def _given(self, workspace: Workspace) -> GivenPassages | None:
        """Returns what the questions are offered beside what they find."""
        if self.mix is None:
            return None
        return open_mix(
            self.mix,
            workspace.queries.texts,
            workspace.evidence,
            workspace.tokenizers[RETRIEVER],
        )

    def _num_questions(self, workspace: Workspace) -> int:
        there = workspace.queries.num_questions
        return there if self.num_questions is None else min(self.num_questions, there)

    def _searched(self, table: EmbeddingTable | None) -> dict:
        """Returns what `retrieve` reads of the table."""
        if table is None and (self.num_passages or self.write_back):
            raise ConfigError(
                "ART finds passages in the table, or writes them back into it, and the "
                "stage has none: give it refresh_every_steps."
            )
        if not self.num_passages:
            return {}
        return {
            "embeddings": table.embeddings,
            "int8_rows": table.int8_rows,
            "num_rows": np.int32(table.num_rows),
        }

    def _excluded_rows(self, workspace: Workspace) -> np.ndarray:
        """Returns [n, 1] int32 rows to leave out of a question's candidates, or -1."""
        source_ids = workspace.queries.source_ids
        if not self.exclude_source:
            return np.full((len(source_ids), 1), -1, np.int32)
        rows = [workspace.evidence.row_of(name) if name else -1 for name in source_ids]
        return np.array(rows, np.int32)[:, None]
