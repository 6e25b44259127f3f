"""The retriever: one BERT tower for queries, one for passages, or one for both.

A tower's parameters are `encoder/...` (see bert.py) and, where it has them,
`pooling/token_weights/embedding` [V, 1], `pooling/hidden_weights/kernel` [D, 1] and
`projection/{kernel,bias}`. A dual encoder's are `{"query": tower, "passage": tower}`
or `{"shared": tower}`. Of several question towers the arrays are stacked on an axis in
front, so that a step takes the one its questions go through without compiling anew.
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
        query_towers: names of the question towers, where each family of tasks has one
            of its own beside the one passage tower; none: one for all.
        query_token_id: a question's vector is that of the first place with this token,
            and of [CLS] where it has none; None: of [CLS]. With pooling "cls" alone.

    Source: the last two are those of Maillard et al., arXiv:2101.00117, and its
        official code (its task-specific encoders and `RepSpecificTokenSelector`).
    """

    config: BertConfig
    pooling: str = "cls"
    shared: bool = False
    projection_dim: int = 0
    pad_id: int = 0
    normalize: bool = False
    query_towers: tuple[str, ...] = ()
    query_token_id: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "query_towers", tuple(self.query_towers))
        if self.pooling not in POOLINGS:
            raise ConfigError(
                f"DualEncoder.pooling is {self.pooling!r}: it must be one of "
                f"{', '.join(POOLINGS)}."
            )
        if self.query_towers and self.shared:
            raise ConfigError(
                "DualEncoder.shared makes one tower of all, but there are query_towers "
                f"{', '.join(self.query_towers)}: choose one of the two."
            )
        if len(set(self.query_towers)) < len(self.query_towers):
            raise ConfigError(
                f"DualEncoder.query_towers are {', '.join(self.query_towers)}: each "
                "needs a name of its own."
            )
        if self.query_token_id is not None and self.pooling != "cls":
            raise ConfigError(
                f"query_token_id goes with pooling 'cls', not {self.pooling!r}."
            )

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.projection_dim or self.config.hidden_size

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, float32.

        All towers start equal, each in arrays of its own: two towers drawn apart
        would give the dot product of unrelated spaces.
        """
        tower = self._init_tower(key)
        if self.shared:
            return {"shared": tower}
        query = self._init_tower(key)
        if self.query_towers:
            query = stack_towers(query, len(self.query_towers))
        return {"query": query, "passage": tower}

    def encode_query(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        key: jax.Array | None = None,
        tower: jax.Array | None = None,
    ) -> jax.Array:
        """Embeds queries.

        Args:
            params: what `init` returns.
            tokens: [B, Q] int32, `[CLS] query [SEP]`, filled with `pad_id`.
            key: consumed, for dropout; None: no dropout.
            tower: [] int32, which of `query_towers` all of them go through; the others
                have no part in the result, and a gradient of exactly zero. None where
                there is but one.

        Returns:
            [B, D] float32.

        Raises:
            ConfigError: there are `query_towers` and none is chosen.
        """
        if not self.query_towers:
            tower_params = params["shared" if self.shared else "query"]
        elif tower is None:
            raise ConfigError(
                f"the retriever has question towers {', '.join(self.query_towers)}, "
                "and nothing says which one reads these questions: choose one by the "
                "name of a task."
            )
        else:
            tower_params = take_tower(params["query"], tower)
        return self._encode(tower_params, tokens, key, self.query_token_id)

    def encode_passage(
        self, params: Params, tokens: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Embeds passages, [B, L] int32; otherwise as `encode_query`."""
        return self._encode(params["shared" if self.shared else "passage"], tokens, key)

    def with_tower(self, params: Params, name: str) -> tuple["DualEncoder", Params]:
        """The retriever of one question tower, as one that never had others.

        Args:
            params: its parameters.
            name: of `query_towers`.

        Raises:
            ConfigError: there is no such tower.
        """
        if name not in self.query_towers:
            raise ConfigError(
                f"there is no question tower {name!r}: choose of "
                f"{', '.join(self.query_towers) or 'none'}."
            )
        query = take_tower(params["query"], self.query_towers.index(name))
        single = dataclasses.replace(self, query_towers=())
        return single, {**params, "query": query}

    def _tower(self, token_id: int | None = None) -> "Tower":
        return Tower(
            self.config, self.pooling, self.projection_dim, self.normalize, token_id
        )

    def _init_tower(self, key: jax.Array) -> Params:
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
        return self._tower().lazy_init(key, tokens, mask, True)["params"]

    def _encode(
        self,
        tower_params: Params,
        tokens: jax.Array,
        key: jax.Array | None,
        token_id: int | None = None,
    ) -> jax.Array:
        return self._tower(token_id).apply(
            {"params": tower_params},
            tokens,
            tokens != self.pad_id,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )


def stack_towers(tower: Params, num_towers: int) -> Params:
    """Copies of a tower's parameters, their arrays stacked on an axis in front."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_towers, *leaf.shape)), tower
    )


def take_tower(stack: Params, tower: jax.Array | int) -> Params:
    """One of some stacked towers' parameters; tower: [] int."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, tower, keepdims=False), stack
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
        held = tower["pooling"]["token_weights"]["embedding"]
        weights = logits.astype("float32")[:, None]
        weights = {"embedding": jnp.broadcast_to(weights, held.shape)}
        pooling = {**tower["pooling"], "token_weights": weights}
        changed[name] = {**tower, "pooling": pooling}
    return changed


class Tower(nn.Module):
    """A BERT encoder, pooled to one vector a row."""

    config: BertConfig
    pooling: str
    projection_dim: int
    normalize: bool
    token_id: int | None = None

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array, deterministic: bool
    ) -> jax.Array:
        """Embeds tokens, [B, L] int32, mask [B, L] bool; returns [B, D] float32."""
        encoder = BertEncoder(self.config, name="encoder")
        hidden = encoder(tokens, mask, deterministic=deterministic)
        hidden = hidden.astype("float32")
        if self.token_id is not None:
            # Of a row without that token it is place 0.
            places = jnp.argmax(tokens == self.token_id, axis=1)
            vectors = jnp.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0]
        elif self.pooling == "cls":
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
