"""Layers that BERT and T5 share, and the logical axes of their parameters."""

import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from art_jax.errors import ConfigError
from art_jax.types import Params

COMPUTE_DTYPES = ("float32", "bfloat16")

# Finite, so that a row of padding gives a flat softmax and not NaN; T5X's value.
MASKED = -1e10

Initializer = Callable[..., jax.Array]

# T5X's logical names, by the end of a parameter's path. None: replicated.
_AXES = (
    (r"token_embedder/embedding", ("vocab", "embed")),
    (r"position_embedder/embedding", ("abspos_buckets", "embed")),
    (r"type_embedder/embedding", (None, "embed")),
    (r"(query|key|value)/kernel", ("embed", "joined_kv")),
    (r"(query|key|value)/bias", ("joined_kv",)),
    (r"out/kernel", ("joined_kv", "embed")),
    (r"wi(_\d+)?/kernel", ("embed", "mlp")),
    (r"wi(_\d+)?/bias", ("mlp",)),
    (r"wo/kernel", ("mlp", "embed")),
    (r"(out|wo|\w*norm)/bias", ("embed",)),
    (r"\w*norm/scale", ("embed",)),
    (r"relpos_bias/rel_embedding", ("heads", "relpos_buckets")),
    (r"logits_dense/kernel", ("embed", "vocab")),
    (r"(pooler|projection)/kernel", ("embed", None)),
    (r"(pooler|projection)/bias", (None,)),
    (r"token_weights/embedding", ("vocab", None)),
    (r"hidden_weights/kernel", ("embed", None)),
)


def param_axes(params: Params) -> Params:
    """T5X's logical axis names of every parameter of a BERT, T5 or dual encoder.

    Args:
        params: a parameter tree; arrays, or the shapes `jax.eval_shape` gives.

    Returns:
        The same tree with a `PartitionSpec` of logical names at each leaf, one
        name a dimension: what `flax.linen.logical_to_mesh` takes with a list of
        rules such as `("mlp", "model")`.

    Raises:
        ConfigError: a parameter is none of these models'.
    """

    def axes(path, leaf) -> PartitionSpec:
        name = "/".join(str(entry.key) for entry in path)
        for pattern, names in _AXES:
            if re.search(rf"(^|/){pattern}$", name) and len(names) == leaf.ndim:
                return PartitionSpec(*names)
        raise ConfigError(
            f"parameter {name!r} of shape {leaf.shape} has no logical axes: it is "
            "no parameter of art_jax's models; add a rule in models/layers.py."
        )

    return jax.tree_util.tree_map_with_path(axes, params)


def check_dtype(name: str, value: str) -> None:
    """Raises ConfigError unless `value` is a dtype the models compute in."""
    if value not in COMPUTE_DTYPES:
        raise ConfigError(
            f"{name} is {value!r}: it must be one of {', '.join(COMPUTE_DTYPES)}."
        )


def spread(vector: jax.Array, like: jax.Array) -> jax.Array:
    """`vector`, [D], shaped to broadcast over the last axis of `like`."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


class Dense(nn.Module):
    """A linear map of the last axis, computed in `dtype`."""

    features: int
    kernel_init: Initializer
    dtype: str
    param_dtype: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [..., in] to [..., features], `dtype`."""
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        outputs = jnp.dot(inputs.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param(
                "bias", nn.initializers.zeros, (self.features,), self.param_dtype
            )
            outputs += spread(bias.astype(self.dtype), outputs)
        return outputs


class Embedding(nn.Module):
    """A table of vectors, looked up by id; an id past its end gives NaN."""

    size: int
    features: int
    embedding_init: Initializer
    dtype: str
    param_dtype: str = "float32"

    def setup(self):
        """Makes the table."""
        self.embedding = self.param(
            "embedding",
            self.embedding_init,
            (self.size, self.features),
            self.param_dtype,
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps ids, [...] int, to [..., features], `dtype`."""
        return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with scale and bias, in float32 whatever `dtype` is."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis; [..., D] to [..., D], `dtype`."""
        width = (inputs.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, width, "float32")
        bias = self.param("bias", nn.initializers.zeros, width, "float32")
        inputs = inputs.astype("float32")
        centred = inputs - jnp.mean(inputs, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        outputs = centred * jax.lax.rsqrt(variance + self.epsilon)
        outputs = outputs * spread(scale, outputs) + spread(bias, outputs)
        return outputs.astype(self.dtype)


class Attention(nn.Module):
    """Multi-head attention.

    Kernels are two-dimensional, heads joined, head-major, as T5X stores them.

    Attributes:
        features: D, the width of the output.
        logits_scale: multiplies the queries.
        logits_dtype: in which logits and softmax are computed.
        broadcast_dropout: drop the same weights for all queries, as T5X does.
    """

    num_heads: int
    head_dim: int
    features: int
    kernel_init: Initializer
    query_init: Initializer
    out_init: Initializer
    dtype: str
    logits_dtype: str
    logits_scale: float = 1.0
    dropout_rate: float = 0.0
    broadcast_dropout: bool = False
    use_bias: bool = True
    param_dtype: str = "float32"

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        joined = self.num_heads * self.head_dim
        self.query = self._dense(joined, self.query_init)
        self.key = self._dense(joined, self.kernel_init)
        self.value = self._dense(joined, self.kernel_init)
        self.out = self._dense(self.features, self.out_init)
        self.dropout = nn.Dropout(
            self.dropout_rate, broadcast_dims=(-2,) if self.broadcast_dropout else ()
        )

    def __call__(
        self,
        queries: jax.Array,
        memory: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """What each query position gathers from the memory.

        Args:
            queries: [B, L, D].
            memory: [B, M, D], what keys and values are made of.
            mask: [B, 1, L or 1, M] bool, True where a query may look.
            bias: [1 or B, H, L, M], added to the logits; None: none.
            deterministic: no dropout.

        Returns:
            [B, L, D], `dtype`.
        """
        keys, values = self.keys_and_values(memory)
        return self.attend(queries, keys, values, mask, bias, deterministic)

    def keys_and_values(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is looked up in memory, [B, M, D]: two of [B, M, H, head_dim]."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def attend(
        self,
        queries: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None = None,
        deterministic: bool = True,
        logits_dtype: str | None = None,
    ) -> jax.Array:
        """What `__call__` returns, of keys and values that were made before.

        Args:
            queries: [B, L, D].
            keys: [B, M, H, head_dim].
            values: [B, M, H, head_dim].
            mask: as for `__call__`.
            bias: as for `__call__`.
            deterministic: no dropout.
            logits_dtype: None: the module's.

        Returns:
            [B, L, D], `dtype`.
        """
        logits_dtype = logits_dtype or self.logits_dtype
        query_BLHK, key_BMHK = self._heads(self.query(queries)), keys
        if self.logits_scale != 1.0:
            query_BLHK = query_BLHK.astype(logits_dtype) * self.logits_scale
            key_BMHK = key_BMHK.astype(logits_dtype)
        # Otherwise operands go in as they are: products of two bfloat16 are exact in
        # float32, and a long memory is not copied to be widened.
        logits = jnp.einsum(
            "blhk,bmhk->bhlm",
            query_BLHK,
            key_BMHK,
            preferred_element_type=jnp.dtype(logits_dtype),
        )
        if bias is not None:
            logits += bias.astype(logits_dtype)
        # For whoever asks for them by name; nobody else pays.
        self.sow("intermediates", "logits", logits)
        weights = jax.nn.softmax(jnp.where(mask, logits, MASKED)).astype(self.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        gathered = jnp.einsum("bhlm,bmhk->blhk", weights, values)
        return self.out(gathered.reshape(*gathered.shape[:-2], -1))

    def _heads(self, joined: jax.Array) -> jax.Array:
        return joined.reshape(*joined.shape[:-1], self.num_heads, self.head_dim)

    def _dense(self, features: int, init: Initializer) -> Dense:
        return Dense(features, init, self.dtype, self.param_dtype, self.use_bias)
