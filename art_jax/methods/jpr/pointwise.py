"""monoT5's training: a T5 that says of one passage whether it is relevant.

Source: Nogueira et al., arXiv:2003.06713; Min et al., arXiv:2104.08445, have it for a
baseline.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from art_jax import partitioning
from art_jax.data.batches import batch_rows, check_num_examples, filled_batches
from art_jax.data.oracle import OracleRules
from art_jax.data.prompts import (
    POINTWISE_TEMPLATE,
    PassagePrompt,
    make_rows,
)
from art_jax.data.tokenizers import Tokenizer, find_single_tokens
from art_jax.errors import ConfigError
from art_jax.losses import dynamic_oracle
from art_jax.methods.jpr.drawn_batches import (
    describe,
    draw_batch,
    find_answerable,
)
from art_jax.methods.jpr.held_out import build_evaluation, read_held_out
from art_jax.methods.ranked_table import RankedSet, RankedTable, read_ranked_table
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import fid
from art_jax.models.t5 import T5Config
from art_jax.training.loop import Problem
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """monoT5's settings; the wording is that of castorini's models.

    Attributes:
        train_sets: rankings to train on; questions of which no passage holds an answer,
            or is given as right, are left out.
        num_negatives: of each question, passages without an answer beside one with an
            answer, drawn anew each time. A batch of 512 questions is one of the
            paper's 1,024 passages.
        words: what it says of a passage with an answer, and of another; one token each.
            The paper has "yes" and "no".
        prompt: what the encoder reads of a passage, without an index.
        over_vocabulary: a likelihood is a share of all tokens', as T5 is trained; else
            of the two words'.
        dropout: in the T5, at its config's rate.
        dev_sets: held-out rankings; all their passages are judged, as many questions at
            once as are trained on.
        dev_k: of the MRecall@k that is measured there.
    """

    train_sets: Sequence[RankedSet] = ()
    num_negatives: int = 1
    words: tuple[str, str] = ("true", "false")
    prompt: PassagePrompt = PassagePrompt(POINTWISE_TEMPLATE)
    over_vocabulary: bool = True
    dropout: bool = True
    dev_sets: Sequence[RankedSet] = ()
    dev_k: int = 5

    def __post_init__(self):
        object.__setattr__(self, "train_sets", tuple(self.train_sets))
        object.__setattr__(self, "dev_sets", tuple(self.dev_sets))
        object.__setattr__(self, "words", tuple(self.words))
        if self.num_negatives < 1 or len(self.words) != 2:
            raise ConfigError(
                f"num_negatives is {self.num_negatives} and words {self.words}: one "
                "negative or more, and two words."
            )
        if self.prompt.has_index:
            raise ConfigError(
                f"the template {self.prompt.template!r} has {{i}}: passages are read "
                "one by one here and have no index."
            )

    def check(
        self, workspace: T5Workspace, batch_size: int, num_chunks: int = 1
    ) -> None:
        """Raises where `bind` would; reads the rankings, which are kept for it."""
        workspace.check_batch_size(batch_size, num_chunks)
        find_word_tokens(workspace.tokenizer, self.words)
        check_num_examples(len(find_answerable(self._read(workspace))), batch_size)
        read_held_out(self.dev_sets, workspace.tokenizer, self.dev_k)

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
        """Returns what `Jpr.bind` does; arguments as there."""
        del directory
        workspace.check_batch_size(batch_size, num_chunks)
        words = find_word_tokens(workspace.tokenizer, self.words)
        table = self._read(workspace) if table is None else table
        answerable = find_answerable(table)
        check_num_examples(len(answerable), batch_size)
        rows = make_rows(self.prompt, workspace.tokenizer)
        size = 1 + self.num_negatives
        rules = OracleRules(k=1, num_passages=size, num_indexes=size, positives="all")

        def make_batch(step: int) -> dict[str, jax.Array]:
            questions = answerable[
                batch_rows(len(answerable), batch_size, seed=seed, step=step)
            ]
            batch = draw_batch(table, questions, rules, (seed, step))
            passages = batch["passages"]
            tokens = rows.layout(
                table.questions, questions, table.passages, passages, passages
            )
            return workspace.put_batch(
                {
                    "tokens": tokens,
                    "where": passages >= 0,
                    "is_positive": batch["is_positive"],
                }
            )

        def loss(params: Params, batch, resources, key: jax.Array):
            del resources
            return self.loss(workspace.config, words, params, batch, key)

        held_out = read_held_out(self.dev_sets, workspace.tokenizer, self.dev_k)

        def score(params: Params, table: RankedTable) -> np.ndarray:
            size = batch_size // num_chunks
            return self.log_likelihoods(params, workspace, table, batch_size=size)

        return Problem(
            make_batch, loss, evaluate=build_evaluation(held_out, score, self.dev_k)
        )

    def loss(
        self,
        config: T5Config,
        words: tuple[int, ...],
        params: Params,
        batch,
        key: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean over passages, and the share that is judged rightly.

        Questions with fewer passages weigh as much as others.

        Args:
            config: of the T5.
            words: tokens of what it says of a passage with an answer, and of another.
            params: of the T5.
            batch: tokens [B, n, L] int32; where and is_positive [B, n], bool.
            key: consumed, for dropout.
        """
        where, is_positive = batch["where"], batch["is_positive"]
        scores = _word_log_likelihoods(
            params,
            config,
            batch["tokens"],
            words,
            over_vocabulary=self.over_vocabulary,
            key=key if self.dropout else None,
        )
        losses = -jnp.where(is_positive, scores[..., 0], scores[..., 1])
        is_right = (scores[..., 0] > scores[..., 1]) == is_positive
        return _masked_mean(losses, where), {
            "accuracy": _masked_mean(is_right.astype(jnp.float32), where)
        }

    def log_likelihoods(
        self,
        params: Params,
        workspace: T5Workspace,
        table: RankedTable,
        *,
        batch_size: int = 8,
    ) -> np.ndarray:
        """Returns log p(relevant) of the two words' alone, [n, K] float32, in nats.

        Args:
            params: of the T5, trained with this method.
            workspace: its parts.
            table: n rankings.
            batch_size: questions at once, over all devices; one shape compiles.
        """
        workspace.check_batch_size(batch_size)
        words = find_word_tokens(workspace.tokenizer, self.words)
        rows = make_rows(self.prompt, workspace.tokenizer)
        found = []
        for questions, _ in filled_batches(table.num_questions, batch_size):
            passages = table.rows[questions]
            tokens = rows.layout(
                table.questions, questions, table.passages, passages, passages
            )
            scores = partitioning.to_host(
                _log_relevance(
                    params,
                    workspace.config,
                    workspace.put_batch({"tokens": tokens})["tokens"],
                    words,
                )
            )
            found.append(np.where(passages >= 0, scores, -np.inf))
        return np.concatenate(found)[: table.num_questions]

    def _read(self, workspace: T5Workspace) -> RankedTable:
        return read_ranked_table(self.train_sets, workspace.tokenizer)


def find_word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """The tokens of words that are one token each.

    Raises:
        ConfigError: a word is several tokens, or two words are the same.
    """
    found = find_single_tokens(tokenizer, words)
    if found[0] == found[1]:
        raise ConfigError(
            f"the vocabulary has the tokens {found} for the words {tuple(words)}: each "
            "must be one token, and they must differ."
        )
    return found


def _word_log_likelihoods(
    params, config, tokens, words, *, over_vocabulary, key
) -> jax.Array:
    """Of the two words, at the first decoder step, [B, n, 2] float32."""
    shape = tokens.shape[:2]
    # Each passage is a question of its own: FiD of one is T5.
    flat = tokens.reshape(-1, 1, tokens.shape[-1])
    keys = (None, None) if key is None else jax.random.split(key)
    encoded, mask = fid.encode(params, config, flat, dropout_key=keys[0])
    start = jnp.zeros((len(flat), 1), jnp.int32)
    logits = fid.decode(params, config, encoded, mask, start, dropout_key=keys[1])
    choices = jnp.broadcast_to(jnp.array(words, jnp.int32), (len(flat), len(words)))
    scores = dynamic_oracle.choice_log_likelihoods(
        logits, choices, jnp.ones_like(choices, bool), over_vocabulary=over_vocabulary
    )
    return scores.reshape(*shape, len(words))


@functools.partial(jax.jit, static_argnames=("config", "words"))
def _log_relevance(params, config, tokens, words) -> jax.Array:
    return _word_log_likelihoods(
        params, config, tokens, words, over_vocabulary=False, key=None
    )[..., 0]


def _masked_mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """The mean over questions of the mean over a question's passages."""
    counts = jnp.maximum(where.sum(axis=1), 1).astype(jnp.float32)
    return (jnp.where(where, values, 0.0).sum(axis=1) / counts).mean()
