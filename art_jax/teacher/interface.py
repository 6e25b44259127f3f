"""What every teacher offers: its texts as tokens, its weights, its scores."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from art_jax.data.layouts import Layout, TokenTable
from art_jax.types import Params


class Teacher(Protocol):
    """Scores passages by how likely they make a question.

    The arrays a step needs are made once: passages laid out in device memory, the
    questions as rows. `score` then runs inside the compiled step.
    """

    def describe(self) -> str:
        """Returns what it is, in a line for people."""

    def make_tokenizer(self, texts: Iterable[str]) -> Any:
        """Returns its tokeniser; `texts` are the evidence's, for those that learn."""

    def passage_layout(self, tokenizer: Any) -> Layout:
        """Returns how it reads a passage."""

    def question_rows(self, tokenizer: Any, questions: Sequence[str]) -> np.ndarray:
        """Returns how it reads questions, [n, T] int32."""

    def num_scored_tokens(self, question_rows: np.ndarray) -> np.ndarray:
        """Returns of how many tokens `score` is the mean, [n] int, for rows [n, T]."""

    def load(self, tokens: TokenTable, tokenizer: Any, mesh: Mesh) -> Params:
        """Returns its parameters on the mesh; `tokens` are the evidence's."""

    def digest(self, tokenizer: Any) -> str:
        """Returns a digest of what its scores depend on, the evidence aside.

        Equal digests, equal scores of the same passages: of its weights, its limits,
        its prompt and its tokeniser. A teacher that learns from the evidence does not
        count that in, so scores are kept under the evidence's digest beside this one.
        """

    def score(
        self,
        params: Params,
        question_tokens: jax.Array,
        passage_tokens: jax.Array,
        passage_rows: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B, K] float32, mean log-likelihoods of a question token in nats.

        Args:
            params: from `load`.
            question_tokens: [B, T] int32, from `question_rows`.
            passage_tokens: [B, K, tokens] int32, laid out by `passage_layout`.
            passage_rows: [B, K] int32, rows of the table; -1 where a slot holds no
                passage, whose score then means nothing, but is finite. Slots of
                equal rows hold equal tokens, so a teacher may read one for all.
                None: nothing is known, and every slot is read.
        """
