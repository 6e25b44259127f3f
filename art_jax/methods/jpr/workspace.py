"""What rerankers are bound to: devices, a T5 and its tokeniser."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError
from art_jax.models.t5 import T5Config


@dataclasses.dataclass(frozen=True)
class RerankerWorkspace:
    """The parts that a reranker's run is made of.

    mesh: of all devices; questions are split over its data axis.
    config: of the T5.
    tokenizer: the T5's.
    """

    mesh: Mesh
    config: T5Config
    tokenizer: Tokenizer

    def check_batch_size(self, batch_size: int, num_chunks: int = 1) -> None:
        """Raises ConfigError unless the data axis divides each chunk of a batch."""
        parts = self.mesh.shape[partitioning.DATA_AXIS] * num_chunks
        if batch_size < 1 or num_chunks < 1 or batch_size % parts:
            raise ConfigError(
                f"BATCH_SIZE is {batch_size}: it must be a multiple of {parts}, the "
                f"devices of mesh axis 'data' times NUM_MICROBATCHES, {num_chunks}."
            )

    def check_tokens(self, what: str, tokens: tuple[int, ...]) -> None:
        """Raises ConfigError unless tokens are different ones of the T5."""
        if len(set(tokens)) < len(tokens) or not all(
            0 < token < self.config.vocab_size for token in tokens
        ):
            raise ConfigError(
                f"{what} are {len(set(tokens))} different tokens from {min(tokens)} to "
                f"{max(tokens)}: {len(tokens)} different ones are needed, from 1 to "
                f"below the T5's vocab_size, {self.config.vocab_size}."
            )

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Returns host arrays as a batch split over the data axis."""
        return partitioning.put_tree(
            dict(batch), partitioning.batch_sharding(self.mesh)
        )
