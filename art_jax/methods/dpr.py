"""DPR: a retriever trained on questions with right and wrong passages.

Each question is to find its right passage among all passages of the batch, over all
devices (Karpukhin et al., arXiv:2004.04906); or, as DPR+ has it, among all passages of
the table, while the passage tower stays as it is (Min et al., arXiv:2104.08445).

The sets may be of several tasks whose questions are read in different ways or go
through towers of their own (Maillard et al., arXiv:2101.00117).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax.data.batches import check_num_examples
from art_jax.data.example_batches import (
    PassageDraw,
    choose_examples,
    passage_arrays,
    question_arrays,
)
from art_jax.data.example_sets import ExampleSet, query_forms_of, towers_of
from art_jax.data.example_table import (
    ExampleTable,
    find_positives,
    read_example_table,
)
from art_jax.data.query_forms import QueryForm
from art_jax.errors import ConfigError
from art_jax.index.table import EmbeddingTable
from art_jax.losses import contrastive, full_softmax
from art_jax.methods.workspace import RETRIEVER, Workspace
from art_jax.models.dual_encoder import DualEncoder
from art_jax.training import average_rank, chunks, grad_cache, held_out_loss
from art_jax.training.loop import Problem, RunState
from art_jax.types import Params

OBJECTIVES = ("nll", "triplet")
NEGATIVES = ("in_batch", "all_passages")


@dataclasses.dataclass(frozen=True)
class Dpr:
    """DPR's settings; the defaults are those of the published Natural Questions run.

    train_sets: what is trained on; a batch is of one of them, of each as often as its
        size and sampling rate say.
    num_hard_negatives: H, wrong passages a question, drawn from those that look right.
    num_other_negatives: O, wrong passages a question, drawn from its other ones.
    hard_negative_fallback: a question without any of the first is given the second.
    negatives: "in_batch", a question's negatives are all other passages of the batch;
        "all_passages", all other rows of the table (DPR+): the right passages are
        looked up in the evidence by id, and no others of the examples are used.
    similarity: "dot", "cosine" or "l2". The index is searched by dot product, which
        ranks as "cosine" does where the encoder's `normalize` is on, too.
    objective: "nll", or "triplet" with `margin`.
    margin: of "triplet", in units of the similarity.
    temperature: divides similarities for "nll"; DPR has none.
    dropout: in the retriever.
    train_query_tower, train_passage_tower: False lets no gradient through that side;
        where the towers are two, its parameters stay as they are, bit for bit. The
        second is DPR's `fix_ctx_encoder`.
    mask_same_passage: a question's right passage is no negative of it where another
        question of the batch has it too. The official code counts it as one.
    gradient_scale: multiplies the gradient. The official code's is divided by the
        number of its processes: 1 / 8 gives what clipping sees of it on 8 GPUs.
    dev_sets: held-out examples, for the measures "average_rank" and, of the batch
        "nll" with the negatives of training, the mean loss; lower is better. None: no
        such measures.
    dev_hard_negatives, dev_other_negatives: of each held-out question in the pool.
    dev_max_questions: of all held-out ones.

    Source: Karpukhin et al. and their official code. Differs in: see
        `training.average_rank` for that measure; "nll" is of batches as large as in
        training, whatever the devices; a wrong passage is drawn once for a
        question, where the official fallback may give it twice; the last examples of
        an epoch that fill no batch are left out.
    """

    train_sets: Sequence[ExampleSet]
    num_hard_negatives: int = 1
    num_other_negatives: int = 0
    hard_negative_fallback: bool = True
    negatives: str = "in_batch"
    similarity: str = "dot"
    objective: str = "nll"
    margin: float = 1.0
    temperature: float = 1.0
    dropout: bool = True
    train_query_tower: bool = True
    train_passage_tower: bool = True
    mask_same_passage: bool = False
    gradient_scale: float = 1.0
    dev_sets: Sequence[ExampleSet] = ()
    dev_hard_negatives: int = 30
    dev_other_negatives: int = 30
    dev_max_questions: int = 10_000

    def __post_init__(self):
        object.__setattr__(self, "train_sets", tuple(self.train_sets))
        object.__setattr__(self, "dev_sets", tuple(self.dev_sets))
        if not self.train_sets:
            raise ConfigError("DPR has no train_sets: give one at least.")
        for name, known in (
            ("negatives", NEGATIVES),
            ("similarity", contrastive.SIMILARITIES),
            ("objective", OBJECTIVES),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: choose of {', '.join(known)}."
                )
        query_forms_of((*self.train_sets, *self.dev_sets))
        if min(self.num_hard_negatives, self.num_other_negatives) < 0:
            raise ConfigError(
                f"num_hard_negatives is {self.num_hard_negatives} and "
                f"num_other_negatives {self.num_other_negatives}: 0 or more each."
            )
        if self.temperature <= 0 or self.gradient_scale <= 0:
            raise ConfigError(
                f"temperature ({self.temperature}) and gradient_scale "
                f"({self.gradient_scale}) must be above 0."
            )
        if not (self.train_query_tower or self.train_passage_tower):
            raise ConfigError(
                "train_query_tower and train_passage_tower are both False: nothing is "
                "left to train."
            )
        if self.negatives == "all_passages":
            if self.train_passage_tower:
                raise ConfigError(
                    "negatives 'all_passages' are rows of the table, through which no "
                    "gradient goes: set train_passage_tower = False."
                )
            if (self.similarity, self.objective) != ("dot", "nll"):
                raise ConfigError(
                    "negatives 'all_passages' go with similarity 'dot' and objective "
                    f"'nll' alone, not {self.similarity!r} and {self.objective!r}."
                )

    @property
    def num_passages(self) -> int:
        """Passages a question in a batch: the right one, O others, H hard ones."""
        return 1 + self.num_other_negatives + self.num_hard_negatives

    @property
    def query_forms(self) -> dict[str, QueryForm]:
        """How questions of each task are read, which the retriever has to know."""
        return query_forms_of(self.train_sets)

    def check(self, workspace: Workspace, batch_size: int, num_chunks: int = 1) -> None:
        """Raises where `bind` would; reads the examples, which are kept for it."""
        workspace.check_batch_size(batch_size, num_chunks)
        if self.negatives == "all_passages" and workspace.encoder.shared:
            raise ConfigError(
                "negatives 'all_passages' keep the passage tower as it is, but the "
                "encoder has one tower for both sides: set DualEncoder.shared = False."
            )
        towers_of((*self.train_sets, *self.dev_sets), workspace.encoder.query_towers)
        table, _ = self._examples(workspace)
        for one, size in zip(table.sets, np.diff(table.set_offsets), strict=True):
            try:
                check_num_examples(int(size), batch_size)
            except ConfigError as error:
                raise ConfigError(f"{one.label}: {error}") from error
        if self.dev_sets:
            self._read(self.dev_sets, workspace)

    def describe(self, workspace: Workspace) -> str:
        """What is trained on, in one line."""
        return self._examples(workspace)[0].describe()

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
            workspace: the parts of the run; its questions are not used.
            batch_size: B, questions a step.
            seed: of the batches.
            num_chunks: parts of a batch that are embedded one after the other; its
                passages stay negatives of all its questions, see `grad_cache`.
            directory: not used.

        Raises:
            ConfigError: the batch fits a set or the mesh not.
            DataError: a file breaks its format or has nothing to train on.
        """
        del directory
        self.check(workspace, batch_size, num_chunks)
        table, own_rows = self._examples(workspace)

        def make_batch(step: int) -> dict[str, jax.Array]:
            arrays = self.batch(
                workspace, table, own_rows, batch_size=batch_size, seed=seed, step=step
            )
            return workspace.put_batch(arrays)

        encoder, mesh = workspace.encoder, workspace.mesh
        if own_rows is None:
            embed = functools.partial(self.embed, encoder)
            batch_loss = self.in_batch_loss
        else:
            embed = functools.partial(self.embed_queries, encoder)
            batch_loss = functools.partial(self.all_passages_loss, mesh)
        prepare, loss = grad_cache.build_loss(
            lambda params, batch, _, key: embed(params, batch, key),
            lambda embeddings, batch, resources: self._scaled(
                *batch_loss(embeddings, batch, resources), batch
            ),
            num_chunks=num_chunks,
        )
        return Problem(
            make_batch,
            loss,
            prepare,
            resources=(lambda table: ()) if own_rows is None else _table_arrays,
            frozen=() if encoder.shared else self._frozen_towers(),
            stacked={"query": len(encoder.query_towers)}
            if encoder.query_towers
            else {},
            evaluate=self._evaluation(workspace, batch_size, num_chunks),
        )

    def batch(
        self,
        workspace: Workspace,
        table: ExampleTable,
        own_rows: np.ndarray | None,
        *,
        batch_size: int,
        seed: int,
        step: int,
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a step's batch, on the host.

        Args:
            workspace: how questions and passages are laid out.
            table: of examples.
            own_rows: [M] int32, where its passages stand in the evidence, for
                "all_passages"; else None.
            batch_size: B.
            seed: of the run's batches.
            step: which of them.

        Returns:
            as of `question_arrays`, with those of `passage_arrays` or own_rows [B].
        """
        number, examples = choose_examples(
            table, batch_size=batch_size, seed=seed, step=step
        )
        one = table.sets[number]
        rows = self._draw.rows(
            table,
            examples,
            shuffle_positives=one.shuffle_positives,
            seed=(seed, step),
        )
        questions = question_arrays(
            workspace.query_layout,
            table,
            examples,
            np.full(batch_size, one.loss_scale, np.float32),
            towers_of(table.sets, workspace.encoder.query_towers)[number],
        )
        if own_rows is not None:
            return questions | {"own_rows": own_rows[rows[:, 0]]}
        return questions | passage_arrays(workspace.passage_layout, table, rows)

    def embed(
        self, encoder: DualEncoder, params: Params, batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns embeddings of questions [B, D] and passages [B, P, D], float32.

        Args:
            encoder: the retriever.
            params: its parameters.
            batch: query_tokens [B, Q], passage_tokens [B, P, L]; int32. Where there are
            several question towers, towers [B], all the same.
            key: consumed, for dropout; None: no dropout.
        """
        tokens_BPL = batch["passage_tokens"]
        passages_BPD = encoder.encode_passage(
            params,
            tokens_BPL.reshape(-1, tokens_BPL.shape[-1]),
            key=self._keys(key)[1],
        ).reshape(*tokens_BPL.shape[:2], -1)
        if not self.train_passage_tower:
            passages_BPD = jax.lax.stop_gradient(passages_BPD)
        return self.embed_queries(encoder, params, batch, key), passages_BPD

    def embed_queries(
        self, encoder: DualEncoder, params: Params, batch, key: jax.Array | None
    ) -> jax.Array:
        """Returns embeddings of questions, [B, D] float32; arguments as of `embed`."""
        # A batch is of one set, so its questions go through one tower.
        routed = {"tower": batch["towers"][0]} if "towers" in batch else {}
        queries_BD = encoder.encode_query(
            params, batch["query_tokens"], key=self._keys(key)[0], **routed
        )
        if not self.train_query_tower:
            queries_BD = jax.lax.stop_gradient(queries_BD)
        return queries_BD

    def in_batch_loss(
        self, embeddings: tuple[jax.Array, jax.Array], batch, resources=()
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns each question's loss among the passages of the batch, and metrics.

        Args:
            embeddings: from `embed`.
            batch: passage_rows [B, P] int32, the right one first, -1 for none.
            resources: not used.

        Returns:
            [B] float32, and the share of questions whose right passage is the nearest.
        """
        del resources
        queries_BD, passages_BPD = embeddings
        scores_BM = contrastive.similarity_scores(
            queries_BD,
            passages_BPD.reshape(-1, passages_BPD.shape[-1]),
            similarity=self.similarity,
        )
        rows_M = batch["passage_rows"].reshape(-1)
        where_BM = jnp.broadcast_to(rows_M[None, :] >= 0, scores_BM.shape)
        if self.mask_same_passage:
            own_B = batch["passage_rows"][:, 0]
            is_copy_BM = own_B[:, None] == rows_M[None, :]
            where_BM &= ~is_copy_BM | contrastive.is_own(scores_BM.shape)
        if self.objective == "triplet":
            losses_B = contrastive.triplet(
                scores_BM, margin=self.margin, where=where_BM
            )
        else:
            losses_B = contrastive.nll(scores_BM / self.temperature, where_BM)
        accuracy = contrastive.is_best(scores_BM, where_BM).mean()
        return losses_B, {"in_batch_accuracy": accuracy}

    def all_passages_loss(
        self, mesh: Mesh, queries: jax.Array, batch, resources
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns each question's loss among all rows of the table, and no metrics.

        Args:
            mesh: that the table is laid out on.
            queries: [B, D] float32, from `embed_queries`.
            batch: own_rows [B] int32, the right passages' rows.
            resources: embeddings [N padded, D] and num_rows.
        """
        losses_B = full_softmax.full_nll(
            queries,
            resources["embeddings"],
            batch["own_rows"],
            num_rows=resources["num_rows"],
            mesh=mesh,
            temperature=self.temperature,
        )
        return losses_B, {}

    def _scaled(
        self, losses_B: jax.Array, metrics: dict[str, jax.Array], batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss = (losses_B * batch["loss_scales"]).mean()
        return contrastive.scale_gradient(loss, self.gradient_scale), metrics

    def _keys(self, key: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
        if not self.dropout or key is None:
            return None, None
        query_key, passage_key = jax.random.split(key)
        return query_key, passage_key

    @property
    def _draw(self) -> PassageDraw:
        return PassageDraw(
            self.num_hard_negatives,
            self.num_other_negatives,
            self.hard_negative_fallback,
        )

    def _frozen_towers(self) -> tuple[str, ...]:
        is_trained = {
            "query": self.train_query_tower,
            "passage": self.train_passage_tower,
        }
        return tuple(name for name, trained in is_trained.items() if not trained)

    def _evaluation(self, workspace: Workspace, batch_size: int, num_chunks: int):
        """Returns run -> the measures of held-out sets, or None without any."""
        if not self.dev_sets:
            return None
        table = self._read(self.dev_sets, workspace)
        towers = towers_of(table.sets, workspace.encoder.query_towers)
        mean_rank = average_rank.build_average_rank(
            table,
            average_rank.choose_pool(
                table,
                num_hard_negatives=self.dev_hard_negatives,
                num_other_negatives=self.dev_other_negatives,
                max_questions=self.dev_max_questions,
            ),
            workspace.encoder,
            query_layout=workspace.query_layout,
            passage_layout=workspace.passage_layout,
            mesh=workspace.mesh,
            similarity=self.similarity,
            stream_tokens=workspace.stream_tokens,
            set_towers=towers,
        )
        measures = {"average_rank": mean_rank}
        if self.negatives == "in_batch":
            measures["nll"] = held_out_loss.build_mean_loss(
                table,
                lambda params, batch: self.in_batch_loss(
                    chunks.map_chunks(
                        lambda chunk, _: self.embed(
                            workspace.encoder, params, chunk, None
                        ),
                        batch,
                        jax.random.key(0),  # Nothing is drawn.
                        num_chunks=num_chunks,
                    ),
                    batch,
                )[0],
                workspace.put_batch,
                draw=self._draw,
                batch_size=batch_size,
                query_layout=workspace.query_layout,
                passage_layout=workspace.passage_layout,
                set_towers=towers,
            )

        def evaluate(run: RunState) -> dict[str, float]:
            return {name: of(run.train.params) for name, of in measures.items()}

        return evaluate

    def _examples(self, workspace: Workspace) -> tuple[ExampleTable, np.ndarray | None]:
        """Returns what is trained on and, where asked for, its rows in the evidence."""
        table = self._read(self.train_sets, workspace)
        if self.negatives != "all_passages":
            return table, None
        return find_positives(table, workspace.evidence.row_of)

    @staticmethod
    def _read(sets: tuple[ExampleSet, ...], workspace: Workspace) -> ExampleTable:
        return read_example_table(
            sets, workspace.tokenizers[RETRIEVER], workspace.query_layout.max_tokens
        )


def _table_arrays(table: EmbeddingTable | None) -> dict:
    """Returns what `all_passages_loss` reads of the table."""
    if table is None:
        raise ConfigError(
            "negatives 'all_passages' are rows of the table, and the stage has none: "
            "give it refresh_every_steps."
        )
    return {
        "embeddings": table.embeddings,
        "num_rows": np.int32(table.num_rows),
    }
