"""What methods that train a T5 are bound to: devices, the T5 and its tokeniser."""

import dataclasses

from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError
from art_jax.methods.workspace import OnMesh
from art_jax.models.t5 import T5Config


@dataclasses.dataclass(frozen=True)
class T5Workspace(OnMesh):
    """The parts that the run of a reranker or a reader is made of.

    config: of the T5.
    tokenizer: the T5's.
    """

    config: T5Config
    tokenizer: Tokenizer

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
