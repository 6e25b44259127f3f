"""JPR and IndepPR: a T5 that reads all passages and says the indexes of the best.

The encoder reads each passage with the question and an index, the decoder reads what it
made of all (FiD) and says indexes, one token each: JPR one after the other, each in the
knowledge of those before; IndepPR one only, whose likelihoods are all passages' scores.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from art_jax import partitioning
from art_jax.data import oracle
from art_jax.data.batches import batch_rows, check_num_examples, filled_batches
from art_jax.data.oracle import OracleRules
from art_jax.data.prompts import PassagePrompt, make_rows
from art_jax.errors import ConfigError
from art_jax.generation import t5_choices
from art_jax.generation.tree import Picks, TreeRules
from art_jax.losses import dynamic_oracle
from art_jax.methods.jpr.drawn_batches import (
    describe,
    draw_batch,
    find_answerable,
    fit_rules,
)
from art_jax.methods.jpr.held_out import build_evaluation, read_held_out
from art_jax.methods.ranked_table import RankedSet, RankedTable, read_ranked_table
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import fid
from art_jax.models.t5 import T5Config
from art_jax.training.loop import Problem
from art_jax.types import Params

# <extra_id_0> to <extra_id_99>, the last of T5's 32,100 tokens, counted backwards.
T5_SENTINELS = tuple(range(32_099, 31_999, -1))
OBJECTIVES = ("dynamic_oracle", "teacher_forcing", "independent")


@dataclasses.dataclass(frozen=True)
class Jpr:
    """JPR's settings; the defaults are the paper's for k = 5 and 100 passages.

    Attributes:
        train_sets: rankings to train on; questions of which no passage holds an answer
            are left out.
        rules: what is drawn of a ranking.
        objective: "dynamic_oracle"; "teacher_forcing", its ablation, for which
            `rules.prefix` is "ranked"; "independent", IndepPR's one step.
        prompt: what the encoder reads of a passage.
        index_tokens: the token of each index, `rules.num_indexes` at least. The paper
            does not say which: T5's sentinels.
        over_vocabulary: a likelihood is a share of all tokens'; else, by default, of
            the indexes of the passages at hand.
        dropout: in the T5, at its config's rate.
        passages_at_once: of each question, that the encoder holds activations of; None:
            all. Changes no result.
        dev_sets: held-out rankings; of all their passages the best are picked, as many
            questions at once as are trained on.
        dev_k: of the MRecall@k that is measured there; None: `rules.k`.
        dev_rules: of TreeDecode, there; None: SeqDecode.

    Source: Min et al., arXiv:2104.08445. Differs in: nothing that is printed there. A
        loss is a sum over steps and passages, and their mean over questions.
    """

    train_sets: Sequence[RankedSet] = ()
    rules: OracleRules = OracleRules()
    objective: str = "dynamic_oracle"
    prompt: PassagePrompt = PassagePrompt()
    index_tokens: tuple[int, ...] = T5_SENTINELS
    over_vocabulary: bool = False
    dropout: bool = True
    passages_at_once: int | None = None
    dev_sets: Sequence[RankedSet] = ()
    dev_k: int | None = None
    dev_rules: TreeRules | None = None

    def __post_init__(self):
        object.__setattr__(self, "train_sets", tuple(self.train_sets))
        object.__setattr__(self, "dev_sets", tuple(self.dev_sets))
        object.__setattr__(self, "index_tokens", tuple(self.index_tokens))
        if self.objective not in OBJECTIVES:
            raise ConfigError(
                f"objective is {self.objective!r}: choose of {', '.join(OBJECTIVES)}."
            )
        if (self.objective == "teacher_forcing") != (self.rules.prefix == "ranked"):
            raise ConfigError(
                f"objective {self.objective!r} with a prefix {self.rules.prefix!r}: "
                "'teacher_forcing' and 'ranked' go together."
            )
        if not self.prompt.has_index:
            raise ConfigError(
                f"the template {self.prompt.template!r} has no {{i}}: without it "
                "nobody can say which passage is meant."
            )
        if len(self.index_tokens) < self.rules.num_indexes:
            raise ConfigError(
                f"{len(self.index_tokens)} index_tokens for {self.rules.num_indexes} "
                "num_indexes: give a token for each."
            )

    def check(
        self, workspace: T5Workspace, batch_size: int, num_chunks: int = 1
    ) -> None:
        """Raises where `bind` would; reads the rankings, which are kept for it."""
        workspace.check_batch_size(batch_size, num_chunks)
        workspace.check_tokens("index_tokens", self.index_tokens)
        check_num_examples(len(find_answerable(self._read(workspace))), batch_size)
        read_held_out(self.dev_sets, workspace.tokenizer, self._dev_k)

    def describe(self, workspace: T5Workspace) -> str:
        """What is trained on, in one line."""
        return describe(self._read(workspace))

    def bind(
        self,
        workspace: T5Workspace,
        *,
        batch_size: int,
        seed: int,
        num_chunks: int = 1,
        directory: pathlib.Path | None = None,
        table: RankedTable | None = None,
    ) -> Problem:
        """Returns the batches, the loss and the dev measures of a run.

        Args:
            workspace: the parts of the run.
            batch_size: B, questions a step.
            seed: of the batches.
            num_chunks: parts of a batch whose gradients are added up.
            directory: not used.
            table: rankings at hand, in place of `train_sets`; with IndepPR's logits for
                priors it is as in the paper.

        Raises:
            ConfigError: a setting does not fit the T5, the mesh or the rankings.
            DataError: a file breaks its format, or no ranking holds an answer.
        """
        del directory
        workspace.check_batch_size(batch_size, num_chunks)
        workspace.check_tokens("index_tokens", self.index_tokens)
        table = self._read(workspace) if table is None else table
        answerable = find_answerable(table)
        check_num_examples(len(answerable), batch_size)
        rows = make_rows(self.prompt, workspace.tokenizer)
        index_tokens = np.array(self.index_tokens, np.int32)
        rules = fit_rules(self.rules, table.rows.shape[1])

        def make_batch(step: int) -> dict[str, jax.Array]:
            questions = answerable[
                batch_rows(len(answerable), batch_size, seed=seed, step=step)
            ]
            batch = draw_batch(table, questions, rules, (seed, step))
            choices = index_tokens[batch["indexes"]]
            tokens = rows.layout(
                table.questions, questions, table.passages, batch["passages"], choices
            )
            return workspace.put_batch(
                {
                    "tokens": tokens,
                    "choices": choices,
                    "where": batch["passages"] >= 0,
                    "is_positive": batch["is_positive"],
                    "prefix": batch["prefix"],
                }
            )

        def loss(params: Params, batch, resources, key: jax.Array):
            del resources
            return self.loss(workspace.config, params, batch, key)

        score = functools.partial(
            self._dev_scores, workspace=workspace, batch_size=batch_size // num_chunks
        )
        held_out = read_held_out(self.dev_sets, workspace.tokenizer, self._dev_k)
        return Problem(
            make_batch, loss, evaluate=build_evaluation(held_out, score, self._dev_k)
        )

    def loss(
        self, config: T5Config, params: Params, batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean over questions, and how often the first pick is right.

        Args:
            config: of the T5.
            params: of the T5.
            batch: tokens [B, n, L], choices [B, n] and prefix [B, k], int32; where and
                is_positive [B, n], bool.
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
        prefix = batch["prefix"]
        if self.objective == "independent":
            prefix = prefix[:, :1]
        logits = fid.decode(
            params,
            config,
            encoded,
            mask,
            decoder_inputs(prefix, batch["choices"]),
            dropout_key=keys[1],
        )
        scores = dynamic_oracle.choice_log_likelihoods(
            logits,
            batch["choices"],
            batch["where"],
            over_vocabulary=self.over_vocabulary,
        )
        if self.objective == "teacher_forcing":
            losses = dynamic_oracle.sequence_nll(scores, prefix)
        else:
            losses = dynamic_oracle.dynamic_oracle_nll(
                scores, prefix, batch["is_positive"]
            )
        first = jnp.argmax(scores[:, 0], axis=1)
        is_right = jnp.take_along_axis(batch["is_positive"], first[:, None], axis=1)
        return losses.mean(), {"first_pick_accuracy": is_right.mean()}

    def pick(
        self,
        params: Params,
        workspace: T5Workspace,
        table: RankedTable,
        *,
        k: int | None = None,
        rules: TreeRules | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> Picks:
        """Returns each question's picks of its ranking, as places in it, on the host.

        Args:
            params: of the T5, trained with this method.
            workspace: its parts.
            table: n rankings.
            k: picks a question; None: as in training.
            rules: of TreeDecode; None: SeqDecode.
            batch_size: questions at once, over all devices.
            seed: of the indexes that passages are given.

        Raises:
            ConfigError: the devices do not divide a batch, or rankings have more
                passages than there are indexes.
        """
        k = self.rules.k if k is None else k
        found = [
            jax.tree.map(
                lambda leaf, count=count: partitioning.to_host(leaf)[:count],
                _read_and_pick(
                    params,
                    workspace.config,
                    *batch,
                    k=k,
                    rules=rules,
                    over_vocabulary=self.over_vocabulary,
                    passages_at_once=self.passages_at_once,
                ),
            )
            for batch, count in self._batches(workspace, table, batch_size, seed)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    def first_log_likelihoods(
        self,
        params: Params,
        workspace: T5Workspace,
        table: RankedTable,
        *,
        batch_size: int = 8,
        seed: int = 0,
    ) -> np.ndarray:
        """Returns how likely each passage is picked first, [n, K] float32, in nats.

        By it IndepPR ranks, and it is the prior by which JPR's negatives are drawn;
        -inf where there is no passage. Arguments as of `pick`.
        """
        found = [
            partitioning.to_host(
                _first_log_likelihoods(
                    params,
                    workspace.config,
                    *batch,
                    over_vocabulary=self.over_vocabulary,
                    passages_at_once=self.passages_at_once,
                )
            )[:count]
            for batch, count in self._batches(workspace, table, batch_size, seed)
        ]
        return np.concatenate(found)

    def _batches(
        self,
        workspace: T5Workspace,
        table: RankedTable,
        batch_size: int,
        seed: int,
    ) -> Iterator[tuple[tuple[jax.Array, ...], int]]:
        """Yields tokens, choices and where of `filled_batches`, and what counts."""
        workspace.check_batch_size(batch_size)
        rows = make_rows(self.prompt, workspace.tokenizer)
        index_tokens = np.array(self.index_tokens, np.int32)
        depth = table.rows.shape[1]
        for questions, count in filled_batches(table.num_questions, batch_size):
            indexes = [
                oracle.draw_indexes(self.rules.num_indexes, depth, (seed, question))
                for question in questions.tolist()
            ]
            passages = table.rows[questions]
            choices = index_tokens[np.stack(indexes)]
            tokens = rows.layout(
                table.questions, questions, table.passages, passages, choices
            )
            batch = workspace.put_batch(
                {"tokens": tokens, "choices": choices, "where": passages >= 0}
            )
            yield (batch["tokens"], batch["choices"], batch["where"]), count

    @property
    def _dev_k(self) -> int:
        return self.rules.k if self.dev_k is None else self.dev_k

    def _dev_scores(
        self,
        params: Params,
        table: RankedTable,
        *,
        workspace: T5Workspace,
        batch_size: int,
    ) -> np.ndarray:
        """Scores of a table's passages, [n, K], by what this method is made for."""
        if self.objective == "independent":
            return self.first_log_likelihoods(
                params, workspace, table, batch_size=batch_size
            )
        picks = self.pick(
            params,
            workspace,
            table,
            k=self._dev_k,
            rules=self.dev_rules,
            batch_size=batch_size,
        )
        depth = table.rows.shape[1]
        return np.stack([scores_of_picks(one, depth) for one in picks.choices])

    def _read(self, workspace: T5Workspace) -> RankedTable:
        return read_ranked_table(self.train_sets, workspace.tokenizer)


@dataclasses.dataclass(frozen=True)
class IndepPr(Jpr):
    """IndepPR's settings: as JPR's, but one step, and all that hold an answer right."""

    rules: OracleRules = OracleRules(positives="all")
    objective: str = "independent"


def decoder_inputs(prefix: jax.Array, choices: jax.Array) -> jax.Array:
    """The tokens the decoder reads: 0, then those of all picks but the last.

    Args:
        prefix: [B, T] int32, numbers of choices; -1 for none, read as 0.
        choices: [B, n] int32, tokens.

    Returns:
        [B, T] int32.
    """
    picked = jnp.take_along_axis(choices, jnp.maximum(prefix, 0), axis=1)
    picked = jnp.where(prefix >= 0, picked, 0)
    return jnp.pad(picked[:, :-1], ((0, 0), (1, 0)))


def scores_of_picks(choices: np.ndarray, depth: int) -> np.ndarray:
    """Scores by which picks come first, in their order, and the others as they were.

    Args:
        choices: [k] int, places in a ranking, -1 for none.
        depth: K, passages of the ranking.

    Returns:
        [K] float32, all different; from K for the first pick down.
    """
    picked = choices[choices >= 0]
    others = np.setdiff1d(np.arange(depth), picked)
    scores = np.empty(depth, np.float32)
    scores[np.concatenate([picked, others]).astype(np.int64)] = np.arange(depth, 0, -1)
    return scores


@functools.partial(
    jax.jit,
    static_argnames=("config", "k", "rules", "over_vocabulary", "passages_at_once"),
)
def _read_and_pick(
    params,
    config,
    tokens,
    choices,
    where,
    *,
    k,
    rules,
    over_vocabulary,
    passages_at_once,
) -> Picks:
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    return t5_choices.pick(
        params,
        config,
        encoded,
        mask,
        choices,
        where,
        k=k,
        rules=rules,
        over_vocabulary=over_vocabulary,
    )


@functools.partial(
    jax.jit, static_argnames=("config", "over_vocabulary", "passages_at_once")
)
def _first_log_likelihoods(
    params, config, tokens, choices, where, *, over_vocabulary, passages_at_once
) -> jax.Array:
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    start = jnp.zeros((len(tokens), 1), jnp.int32)
    logits = fid.decode(params, config, encoded, mask, start)
    scores = dynamic_oracle.choice_log_likelihoods(
        logits, choices, where, over_vocabulary=over_vocabulary
    )
    return jnp.where(where, scores[:, 0], -jnp.inf)
