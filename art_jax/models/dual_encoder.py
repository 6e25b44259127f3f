"""The retriever: one BERT tower for queries, one for passages, or one for both.

A tower's parameters are `encoder/...` (see bert.py) and, where it has them,
`pooling/token_weights/embedding` [V, 1], `pooling/hidden_weights/kernel` [D, 1] and
`projection/{kernel,bias}`. A dual encoder's are `{"query": tower, "passage": tower}`
or `{"shared": tower}`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from art_jax.errors import ConfigError
from art_jax.models import layers
from art_jax.models.bert import BertConfig, BertEncoder
from art_jax.types import Params

POOLINGS = ("cls", "mean", "weighted_mean")


@dataclasses.dataclass(frozen=True)
class DualEncoder:
    """How queries and passages become vectors; parameters are passed in.

    Attributes:
        config: of each tower's BERT.
        pooling: "cls", the first token's vector; "mean", the mean over tokens;
            "weighted_mean", a mean with learned weights, one a word piece and one a
            hidden state, which starts as the plain mean.
        shared: one tower embeds both sides.
        projection_dim: width of a linear map after pooling; 0: none.
        pad_id: the token that fills rows; nothing looks at it.
        normalize: divide each vector by its length.
    """

    config: BertConfig
    pooling: str = "cls"
    shared: bool = False
    projection_dim: int = 0
    pad_id: int = 0
    normalize: bool = False

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ConfigError(
                f"DualEncoder.pooling is {self.pooling!r}: it must be one of "
                f"{', '.join(POOLINGS)}."
            )

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.projection_dim or self.config.hidden_size

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, float32.

        Both towers start equal, each in arrays of its own: two towers drawn apart
        would give the dot product of unrelated spaces.
        """
        if self.shared:
            return {"shared": self._init_tower(key)}
        return {"query": self._init_tower(key), "passage": self._init_tower(key)}

    def encode_query(
        self, params: Params, tokens: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Embeds queries.

        Args:
            params: what `init` returns.
            tokens: [B, Q] int32, `[CLS] query [SEP]`, filled with `pad_id`.
            key: consumed, for dropout; None: no dropout.

        Returns:
            [B, D] float32.
        """
        return self._encode(params["shared" if self.shared else "query"], tokens, key)

    def encode_passage(
        self, params: Params, tokens: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Embeds passages, [B, L] int32; otherwise as `encode_query`."""
        return self._encode(params["shared" if self.shared else "passage"], tokens, key)

    def _tower(self) -> "Tower":
        return Tower(self.config, self.pooling, self.projection_dim, self.normalize)

    def _init_tower(self, key: jax.Array) -> Params:
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
        return self._tower().lazy_init(key, tokens, mask, True)["params"]

    def _encode(
        self, tower_params: Params, tokens: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        return self._tower().apply(
            {"params": tower_params},
            tokens,
            tokens != self.pad_id,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )


def with_token_importance(params: Params, importance: jax.Array) -> Params:
    """Parameters whose weighted mean counts each token by `importance`.

    Args:
        params: what `DualEncoder.init` returns, with pooling "weighted_mean".
        importance: [V] float32, >= 0; such as inverse passage frequencies.

    Raises:
        ConfigError: the encoder's pooling has no weights.
    """
    # The inverse of softplus, from which a weight of exactly 0 is infinitely far.
    importance = jnp.maximum(importance, 1e-6)
    logits = importance + jnp.log(-jnp.expm1(-importance))
    changed = {}
    for name, tower in params.items():
        if "pooling" not in tower:
            raise ConfigError(
                "only pooling 'weighted_mean' has token weights to start from."
            )
        weights = {"embedding": logits.astype("float32")[:, None]}
        pooling = {**tower["pooling"], "token_weights": weights}
        changed[name] = {**tower, "pooling": pooling}
    return changed


class Tower(nn.Module):
    """A BERT encoder, pooled to one vector a row."""

    config: BertConfig
    pooling: str
    projection_dim: int
    normalize: bool

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array, deterministic: bool
    ) -> jax.Array:
        """Embeds tokens, [B, L] int32, mask [B, L] bool; returns [B, D] float32."""
        encoder = BertEncoder(self.config, name="encoder")
        hidden = encoder(tokens, mask, deterministic=deterministic)
        hidden = hidden.astype("float32")
        if self.pooling == "cls":
            vectors = hidden[:, 0]
        else:
            weights = mask.astype("float32")
            if self.pooling == "weighted_mean":
                importance = TokenImportance(self.config.vocab_size, name="pooling")
                weights *= importance(tokens, hidden)
            vectors = weighted_mean(hidden, weights)
        if self.projection_dim:
            normal = nn.initializers.normal(self.config.initializer_range)
            vectors = layers.Dense(
                self.projection_dim, normal, "float32", name="projection"
            )(vectors)
        return unit_length(vectors) if self.normalize else vectors


class TokenImportance(nn.Module):
    """How much each token counts in the mean, > 0; at first all count the same."""

    vocab_size: int

    @nn.compact
    def __call__(self, tokens: jax.Array, hidden: jax.Array) -> jax.Array:
        """Weights tokens, [B, L], by id and hidden state [B, L, D]; [B, L] float32."""
        zeros = nn.initializers.zeros
        by_token = layers.Embedding(
            self.vocab_size, 1, zeros, "float32", name="token_weights"
        )(tokens)
        by_state = layers.Dense(
            1, zeros, "float32", use_bias=False, name="hidden_weights"
        )(hidden)
        return jax.nn.softplus(by_token + by_state)[..., 0]


def weighted_mean(hidden: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of hidden states, [B, L, D], by weights, [B, L] >= 0; zero for none."""
    total = jnp.sum(weights, axis=1)[:, None]
    sums = jnp.einsum("bl,bld->bd", weights, hidden)
    return sums / jnp.where(total > 0, total, 1.0)


def unit_length(vectors: jax.Array) -> jax.Array:
    """Vectors, [B, D], divided by their lengths; a zero vector stays zero.

    A length below 1e-6 counts as 1e-6, so that the gradient at zero is finite.
    """
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
