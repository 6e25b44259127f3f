"""A teacher without weights: how likely a passage's own words make the question.

The classic p(q|z): a unigram language model of each passage, smoothed by the whole
evidence. It runs on any machine and downloads nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.layouts import Layout, TokenTable, layout_token_lists
from art_jax.data.tokenizers import WordTokenizer, train_words
from art_jax.errors import ConfigError
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class QueryLikelihoodTeacher:
    """Scores passages by a Dirichlet-smoothed unigram model of their words.

    mu: > 0, how many words of the evidence are mixed into each passage.
    max_passage_tokens: words of title and text that count.
    max_question_tokens: words of a question that count.

    Source: Ponte & Croft, SIGIR 1998; Zhai & Lafferty, TOIS 2004, section 3.2.
        Differs in: the mean over the question's words, as ART's teachers give, and
        words that no passage holds are left out, since they favour none.
    """

    mu: float = 500.0
    max_passage_tokens: int = 192
    max_question_tokens: int = 32

    def __post_init__(self):
        if self.mu <= 0:
            raise ConfigError(f"mu is {self.mu}: it must be positive.")

    def describe(self) -> str:
        """Returns what it is, in a line for people."""
        return f"query likelihood of smoothed unigrams, mu {self.mu:g}"

    def make_tokenizer(self, texts: Iterable[str]) -> WordTokenizer:
        """Returns a tokeniser that knows the stems of every word of the evidence."""
        return train_words(texts)

    def load(self, tokens: TokenTable, tokenizer: WordTokenizer, mesh: Mesh) -> Params:
        """Returns the model of the whole evidence on the mesh."""
        counts = self.count_evidence(tokens, vocab_size=tokenizer.vocab_size)
        return partitioning.put_tree(counts, partitioning.replicated(mesh))

    def passage_layout(self, tokenizer) -> Layout:
        """Returns how a passage is laid out: its words alone, title first."""
        return Layout((), (), (), self.max_passage_tokens, tokenizer.pad_id)

    def question_rows(self, tokenizer, questions: Sequence[str]) -> np.ndarray:
        """Returns the questions' words, [n, max_question_tokens] int32."""
        layout = Layout((), (), (), self.max_question_tokens, tokenizer.pad_id)
        return layout_token_lists(layout, tokenizer.encode_batch(list(questions)))

    def num_scored_tokens(self, question_rows: np.ndarray) -> np.ndarray:
        """Returns how many words of each question some passage holds, [n] int."""
        return np.count_nonzero(question_rows > WordTokenizer.unk_id, axis=1)

    def count_evidence(self, tokens: TokenTable, *, vocab_size: int) -> Params:
        """Returns the model of the whole evidence, as host arrays.

        Args:
            tokens: the words of every passage; id 0 pads and id 1 is unknown.
            vocab_size: V.

        Returns:
            {"log_collection": [V] float32, log p(w | evidence); -inf for words that
            no passage holds}.
        """
        counts = np.zeros(vocab_size, np.int64)
        for start in range(0, len(tokens.token_ids), 1 << 24):
            part = np.asarray(tokens.token_ids[start : start + (1 << 24)])
            counts += np.bincount(part, minlength=vocab_size)
        counts[:2] = 0
        if not counts.any():
            raise ConfigError(
                "the evidence holds no known word: nothing can be scored."
            )
        with np.errstate(divide="ignore"):
            log_collection = np.log(counts / counts.sum())
        return {"log_collection": log_collection.astype(np.float32)}

    def digest(self, tokenizer: WordTokenizer) -> str:
        """Returns a digest of what scores depend on, the evidence aside.

        The model of the whole evidence, which `load` makes, is not in it: see
        `Teacher.digest`.
        """
        facts = {
            "teacher": "query likelihood",
            "settings": dataclasses.asdict(self),
            "tokenizer": tokenizer.digest,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def score(
        self,
        params: Params,
        question_tokens: jax.Array,
        passage_tokens: jax.Array,
        passage_rows: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the mean log-likelihood of a question word given each passage.

        Args:
            params: from `count_evidence`.
            question_tokens: [B, T] int32, 0 where there is no word.
            passage_tokens: [B, K, P] int32, 0 where there is no word.
            passage_rows: not read: counting words again costs less than finding out
                which passages are equal.

        Returns:
            [B, K] float32, in nats; 0 where no word of the question is known.
        """
        del passage_rows
        log_collection_BT = params["log_collection"][question_tokens]
        is_known_BT = (question_tokens > 0) & jnp.isfinite(log_collection_BT)
        background_BT = self.mu * jnp.exp(log_collection_BT)

        def score_rank(tokens_BP):
            matches_BTP = question_tokens[:, :, None] == tokens_BP[:, None, :]
            counts_BT = matches_BTP.sum(axis=-1, dtype=jnp.float32)
            lengths_B1 = (tokens_BP > 0).sum(axis=-1, keepdims=True, dtype=jnp.float32)
            likelihood_BT = (counts_BT + background_BT) / (lengths_B1 + self.mu)
            # The inner where keeps log(0) out of masked places.
            logs_BT = jnp.log(jnp.where(is_known_BT, likelihood_BT, 1.0))
            num_words_B = jnp.maximum(is_known_BT.sum(axis=-1), 1)
            return logs_BT.sum(axis=-1) / num_words_B.astype(jnp.float32)

        # One rank at a time: [B, T, P] comparisons, never [B, K, T, P].
        scores_KB = jax.lax.map(score_rank, jnp.swapaxes(passage_tokens, 0, 1))
        return jax.lax.stop_gradient(scores_KB.T)
