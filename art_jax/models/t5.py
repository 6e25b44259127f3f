"""T5 encoder-decoder, v1.0 and v1.1, with T5X's parameter tree and numerics.

The tree is T5X's (examples/t5, layers not scanned), so its checkpoints load by name:
`token_embedder/embedding`, `encoder/layers_i/attention/query/kernel`, ...,
`decoder/logits_dense/kernel` (v1.1 only). Queries are not divided by sqrt(head_dim);
one table of relative position biases, `encoder/relpos_bias`, serves all layers of a
stack, or each has its own, `encoder/layers_i/relpos_bias` (examples/scalable_t5).

Differs from T5X in: padding queries are not masked (only keys are), so outputs at
padding differ; they mean nothing in either.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from art_jax.errors import ConfigError
from art_jax.models import layers
from art_jax.types import Params

RELATIVE_BUCKETS = 32
MAX_DISTANCE = 128

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda inputs: jax.nn.gelu(inputs, approximate=True),
    "linear": lambda inputs: inputs,
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The sizes and the form of a T5, under T5X's names; the default is v1.1 small.

    Attributes:
        emb_dim: D.
        mlp_activations: ("gelu", "linear"), gated, is v1.1; ("relu",) is v1.0.
        logits_via_embedding: logits from the token embeddings, scaled by
            1/sqrt(emb_dim) (v1.0); False: from a matrix of their own (v1.1).
        dtype: of activations and matmuls; logits are float32 whatever this is.
        param_dtype: of fresh parameters; loaded ones keep their own.
        float32_attention_logits: compute attention logits and softmax in float32.
        relpos_bias_per_layer: each layer has its own relative position biases, as in
            models that T5X trained with scanned layers.
        remat: recompute each layer in the backward pass instead of keeping it.
    """

    vocab_size: int = 32128
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    float32_attention_logits: bool = False
    relpos_bias_per_layer: bool = False
    remat: bool = False

    def __post_init__(self):
        layers.check_dtype("T5Config.dtype", self.dtype)
        layers.check_dtype("T5Config.param_dtype", self.param_dtype)
        unknown = [name for name in self.mlp_activations if name not in _ACTIVATIONS]
        if unknown or not self.mlp_activations:
            raise ConfigError(
                f"T5Config.mlp_activations is {self.mlp_activations}: it must hold "
                f"one or more of {', '.join(_ACTIVATIONS)}."
            )


@flax.struct.dataclass
class Memory:
    """What a decoder looks up of its encoder's output, layer by layer.

    keys: of each layer [B, L, H, head_dim].
    values: of each layer [B, L, H, head_dim].
    mask: [B, L] bool, True where there is a token.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    mask: jax.Array


@flax.struct.dataclass
class Cache:
    """What a decoder keeps of the tokens it has read; rows may be gathered at will.

    keys: of each layer [N, T, H, head_dim]; those from a row's position on are 0.
    values: of each layer [N, T, H, head_dim].
    positions: [N] int32, how many tokens each row has read.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array


# emb_dim, num_heads, head_dim, mlp_dim, layers of each stack.
_SIZES_1_1 = {
    "small": (512, 6, 64, 1024, 8),
    "base": (768, 12, 64, 2048, 12),
    "large": (1024, 16, 64, 2816, 24),
    "xl": (2048, 32, 64, 5120, 24),
    "xxl": (4096, 64, 64, 10240, 24),
}
_SIZES_1_0 = {
    "small": (512, 8, 64, 2048, 6),
    "base": (768, 12, 64, 3072, 12),
    "large": (1024, 16, 64, 4096, 24),
    "3b": (1024, 32, 128, 16384, 24),
    "11b": (1024, 128, 128, 65536, 24),
}


def v1_1(size: str, **changes) -> T5Config:
    """T5 v1.1 in a published size; LM-adapted T5, T0 and Flan-T5 are of this form.

    Args:
        size: "small", "base", "large", "xl" (T0-3B) or "xxl" (T0, T5-lm-adapt-11B).
        **changes: fields to replace.

    Raises:
        ConfigError: there is no such size.
    """
    return _sized(T5Config(), "v1_1", _SIZES_1_1, size, changes)


def v1_0(size: str, **changes) -> T5Config:
    """The first T5: relu, logits from the embeddings; otherwise as `v1_1`.

    Args:
        size: "small", "base", "large", "3b" or "11b".
        **changes: fields to replace.

    Raises:
        ConfigError: there is no such size.
    """
    form = T5Config(mlp_activations=("relu",), logits_via_embedding=True)
    return _sized(form, "v1_0", _SIZES_1_0, size, changes)


def _sized(form: T5Config, version: str, sizes, size: str, changes) -> T5Config:
    if size not in sizes:
        raise ConfigError(
            f"t5.{version} has no size {size!r}: it must be one of {', '.join(sizes)}."
        )
    emb_dim, num_heads, head_dim, mlp_dim, num_layers = sizes[size]
    fields = {
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": num_layers,
        "num_decoder_layers": num_layers,
    }
    return dataclasses.replace(form, **{**fields, **changes})


def init_params(config: T5Config, key: jax.Array) -> Params:
    """Fresh parameters in T5X's tree, `config.param_dtype`."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return T5(config).lazy_init(key, tokens, tokens)["params"]


def param_shapes(config: T5Config) -> Params:
    """The tree `init_params` returns, as shapes and dtypes; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(T5(config).init, key, tokens, tokens)["params"]


def encode(params: Params, config: T5Config, tokens: jax.Array) -> jax.Array:
    """The encoder's output for tokens, [B, L] int32, pad 0; [B, L, D], no dropout."""
    return T5(config).apply({"params": params}, tokens, method="encode")


def decode(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    encoder_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
) -> jax.Array:
    """Logits of each next token, no dropout; arguments as `T5.decode` has them."""
    arguments = (encoded, encoder_tokens, decoder_input_tokens)
    return T5(config).apply({"params": params}, *arguments, method="decode")


def decode_hidden(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    encoder_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
) -> jax.Array:
    """What `decode` makes its logits of, [B, T, D]: for those who need not all."""
    arguments = (encoded, encoder_tokens, decoder_input_tokens)
    return T5(config).apply({"params": params}, *arguments, method="decode_hidden")


def logits(params: Params, config: T5Config, hidden: jax.Array) -> jax.Array:
    """Logits of `decode_hidden`'s states, [..., D]; [..., V] float32."""
    return T5(config).apply({"params": params}, hidden, method="logits")


def make_memory(
    params: Params, config: T5Config, encoded: jax.Array, mask: jax.Array
) -> Memory:
    """What `decode_step` looks up of encoded, [B, L, D], where mask, [B, L], is True.

    Made once for an encoder's output, however many steps and beams read it.
    """
    variables = {"params": params}
    return T5(config).apply(variables, encoded, mask, method="make_memory")


def init_cache(config: T5Config, num_rows: int, max_tokens: int) -> Cache:
    """The cache of a decoder that has read nothing.

    Args:
        config: of the T5.
        num_rows: N, sequences decoded side by side.
        max_tokens: T, the most tokens that a row reads; those after it are not kept,
            and what is decoded then is wrong.
    """
    shape = (num_rows, max_tokens, config.num_heads, config.head_dim)
    layers_of_zeros = tuple(
        jnp.zeros(shape, config.dtype) for _ in range(config.num_decoder_layers)
    )
    return Cache(
        keys=layers_of_zeros,
        values=layers_of_zeros,
        positions=jnp.zeros(num_rows, jnp.int32),
    )


def decode_step(
    params: Params, config: T5Config, memory: Memory, cache: Cache, tokens: jax.Array
) -> tuple[jax.Array, Cache]:
    """Logits of the token after each of these, and the cache with these in it.

    What `decode` gives at one position, without computing those before it again. A
    row stands at its own position, so that rows may be gathered by beam or by node of
    a tree; no dropout. Logits and softmax of attention are float32 whatever
    `config.float32_attention_logits` is, where `decode` in bfloat16 rounds them.

    Args:
        params: of the T5.
        config: of the T5.
        memory: of B questions, from `make_memory`.
        cache: of N rows; N is a multiple of B, and the rows of a question lie side by
            side: N / B beams or nodes each.
        tokens: [N] int32, the next decoder input of each row, 0 at the start.

    Returns:
        [N, V] float32, and the cache one token longer.

    Raises:
        ValueError: B does not divide N.
    """
    variables = {"params": params}
    arguments = (memory, cache, tokens)
    return T5(config).apply(variables, *arguments, method="decode_step")


def shift_right(targets: jax.Array) -> jax.Array:
    """Decoder inputs for targets, [B, T]: a 0 first, the last token dropped.

    Not for packed rows, where each segment has its own first 0.
    """
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


class T5(nn.Module):
    """T5; `encode` and `decode` are usable apart, so a passage is encoded once."""

    config: T5Config

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        config = self.config
        self.token_embedder = layers.Embedding(
            config.vocab_size,
            config.emb_dim,
            nn.initializers.normal(1.0),
            config.dtype,
            config.param_dtype,
        )
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def __call__(
        self,
        encoder_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        deterministic: bool = True,
    ) -> jax.Array:
        """`decode` of what `encode` returns."""
        encoded = self.encode(encoder_tokens, deterministic=deterministic)
        return self.decode(
            encoded, encoder_tokens, decoder_input_tokens, deterministic=deterministic
        )

    def encode(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """The encoder's output.

        Args:
            tokens: [B, L] int32; 0 is padding.
            segments: [B, L] int32, which example of a packed row a token is of;
                None: rows are not packed.
            deterministic: no dropout; else `apply` needs rngs={"dropout": key}.

        Returns:
            [B, L, D], `config.dtype`; at padding it means nothing.
        """
        mask = _visible(tokens > 0, segments, segments)
        return self.encoder(self.token_embedder(tokens), mask, deterministic)

    def decode(
        self,
        encoded: jax.Array,
        encoder_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        encoder_segments: jax.Array | None = None,
        decoder_segments: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Logits of each next token, teacher-forced.

        Args:
            encoded: [B, L, D], what `encode` returned.
            encoder_tokens: [B, L] int32, of which it was made.
            decoder_input_tokens: [B, T] int32, targets shifted right; padding
                must follow them (nothing sees what comes after it).
            encoder_segments: [B, L] int32, for packed rows.
            decoder_segments: [B, T] int32, for packed rows.
            deterministic: no dropout; else `apply` needs rngs={"dropout": key}.

        Returns:
            [B, T, V] float32.
        """
        hidden = self.decode_hidden(
            encoded,
            encoder_tokens,
            decoder_input_tokens,
            encoder_segments,
            decoder_segments,
            deterministic,
        )
        return self.logits(hidden)

    def decode_hidden(
        self,
        encoded: jax.Array,
        encoder_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        encoder_segments: jax.Array | None = None,
        decoder_segments: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """The decoder's output, [B, T, D] `config.dtype`; arguments as `decode`'s."""
        length = decoder_input_tokens.shape[1]
        every_key = jnp.ones_like(decoder_input_tokens, bool)
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        self_mask = _visible(every_key, decoder_segments, decoder_segments) & causal
        cross_mask = _visible(encoder_tokens > 0, decoder_segments, encoder_segments)
        return self.decoder(
            self.token_embedder(decoder_input_tokens),
            encoded,
            self_mask,
            cross_mask,
            deterministic,
        )

    def make_memory(self, encoded: jax.Array, mask: jax.Array) -> Memory:
        """Keys and values of cross-attention; see the function of this name."""
        keys, values = self.decoder.keys_and_values(encoded)
        return Memory(keys, values, mask)

    def decode_step(
        self, memory: Memory, cache: Cache, tokens: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """One position decoded; see the function of this name."""
        num_questions, num_rows = len(memory.mask), len(tokens)
        if num_rows % num_questions:
            raise ValueError(
                f"{num_rows} rows cannot be shared by {num_questions} questions."
            )
        hidden, cache = self.decoder.step(
            self.token_embedder(tokens[:, None]), memory, cache
        )
        return self.logits(hidden[:, 0]), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits of the decoder's output, [..., D]; [..., V] float32."""
        if not self.config.logits_via_embedding:
            return self.decoder.logits_dense(hidden)
        return logits_from_embedding(hidden, self.token_embedder.embedding)


class Encoder(nn.Module):
    """The encoder stack, from embedded tokens on."""

    config: T5Config

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        config = self.config
        # Argument 4 of the layer, itself being 0, is `deterministic`.
        layer = nn.remat(EncoderLayer, static_argnums=(4,))
        layer = layer if config.remat else EncoderLayer
        if not config.relpos_bias_per_layer:
            self.relpos_bias = RelativeBias(config, bidirectional=True)
        self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = _norm(config)
        self.dropout = _dropout(config)

    def __call__(
        self, hidden: jax.Array, mask: jax.Array, deterministic: bool
    ) -> jax.Array:
        """Encodes hidden, [B, L, D], mask [B, 1, L or 1, L]; returns [B, L, D]."""
        per_layer = self.config.relpos_bias_per_layer
        bias = None if per_layer else self.relpos_bias(hidden.shape[1])
        hidden = self.dropout(hidden, deterministic=deterministic)
        for layer in self.layers:
            hidden = layer(hidden, mask, bias, deterministic)
        return self.dropout(self.encoder_norm(hidden), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder stack, from embedded tokens to normalised hidden states."""

    config: T5Config

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        config = self.config
        # Argument 6 of the layer, itself being 0, is `deterministic`.
        layer = nn.remat(DecoderLayer, static_argnums=(6,))
        layer = layer if config.remat else DecoderLayer
        if not config.relpos_bias_per_layer:
            self.relpos_bias = RelativeBias(config, bidirectional=False)
        self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = _norm(config)
        self.dropout = _dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = LogitsDense(config)

    def __call__(
        self,
        hidden: jax.Array,
        encoded: jax.Array,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        deterministic: bool,
    ) -> jax.Array:
        """Decodes hidden, [B, T, D], beside encoded, [B, L, D]; returns [B, T, D]."""
        per_layer = self.config.relpos_bias_per_layer
        bias = None if per_layer else self.relpos_bias(hidden.shape[1])
        hidden = self.dropout(hidden, deterministic=deterministic)
        for layer in self.layers:
            hidden = layer(hidden, encoded, self_mask, cross_mask, bias, deterministic)
        return self.dropout(self.decoder_norm(hidden), deterministic=deterministic)

    def keys_and_values(
        self, encoded: jax.Array
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Keys and values that each layer makes of encoded, [B, L, D]."""
        pairs = [layer.cross_keys_and_values(encoded) for layer in self.layers]
        return tuple(keys for keys, _ in pairs), tuple(values for _, values in pairs)

    def step(
        self, hidden: jax.Array, memory: Memory, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Decodes hidden, [N, 1, D], at each row's position; the same shape."""
        length = cache.keys[0].shape[1] if cache.keys else 0
        bias = None
        if not self.config.relpos_bias_per_layer:
            bias = self.relpos_bias.of_rows(cache.positions, length)
        caches = []
        for i, layer in enumerate(self.layers):
            hidden, layer_cache = layer.step(
                hidden,
                (memory.keys[i], memory.values[i]),
                memory.mask,
                (cache.keys[i], cache.values[i]),
                cache.positions,
                bias,
            )
            caches.append(layer_cache)
        cache = Cache(
            keys=tuple(keys for keys, _ in caches),
            values=tuple(values for _, values in caches),
            positions=cache.positions + 1,
        )
        return self.decoder_norm(hidden), cache


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each on normalised input and added to it."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """One layer; hidden [B, L, D] to [B, L, D]; bias None: it has its own."""
        dropout = _dropout(self.config, deterministic)
        if bias is None:
            relpos_bias = RelativeBias(self.config, True, name="relpos_bias")
            bias = relpos_bias(hidden.shape[1])
        inputs = _norm(self.config, name="pre_attention_layer_norm")(hidden)
        attention = _attention(self.config, name="attention")
        hidden += dropout(attention(inputs, inputs, mask, bias, deterministic))
        inputs = _norm(self.config, name="pre_mlp_layer_norm")(hidden)
        return hidden + dropout(Mlp(self.config, name="mlp")(inputs, deterministic))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, and MLP."""

    config: T5Config

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        config = self.config
        if config.relpos_bias_per_layer:
            self.relpos_bias = RelativeBias(config, bidirectional=False)
        self.pre_self_attention_layer_norm = _norm(config)
        self.self_attention = _attention(config)
        self.pre_cross_attention_layer_norm = _norm(config)
        self.encoder_decoder_attention = _attention(config)
        self.pre_mlp_layer_norm = _norm(config)
        self.mlp = Mlp(config)
        self.dropout = _dropout(config)

    def __call__(
        self,
        hidden: jax.Array,
        encoded: jax.Array,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """One layer; hidden [B, T, D] to [B, T, D]; bias None: it has its own."""

        def added(outputs: jax.Array) -> jax.Array:
            return hidden + self.dropout(outputs, deterministic=deterministic)

        if bias is None:
            bias = self.relpos_bias(hidden.shape[1])
        inputs = self.pre_self_attention_layer_norm(hidden)
        hidden = added(
            self.self_attention(inputs, inputs, self_mask, bias, deterministic)
        )
        inputs = self.pre_cross_attention_layer_norm(hidden)
        hidden = added(
            self.encoder_decoder_attention(
                inputs, encoded, cross_mask, None, deterministic
            )
        )
        inputs = self.pre_mlp_layer_norm(hidden)
        return added(self.mlp(inputs, deterministic))

    def cross_keys_and_values(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What this layer looks up of encoded, [B, L, D]."""
        return self.encoder_decoder_attention.keys_and_values(encoded)

    def step(
        self,
        hidden: jax.Array,
        memory: tuple[jax.Array, jax.Array],
        memory_mask: jax.Array,
        cache: tuple[jax.Array, jax.Array],
        positions: jax.Array,
        bias: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """One layer at one position a row.

        Args:
            hidden: [N, 1, D].
            memory: keys and values of the encoder's output, [B, L, H, head_dim].
            memory_mask: [B, L] bool.
            cache: keys and values of tokens read before, [N, T, H, head_dim].
            positions: [N] int32, of this token.
            bias: [N, H, 1, T]; None: the layer has its own.

        Returns:
            [N, 1, D], and the cache with this token.
        """
        length = cache[0].shape[1]
        if bias is None:
            bias = self.relpos_bias.of_rows(positions, length)
        place = jnp.arange(length, dtype=jnp.int32)[None]
        inputs = self.pre_self_attention_layer_norm(hidden)
        # A choice between old and new, where a scatter would have rows of several
        # devices meet.
        is_here = (place == positions[:, None])[..., None, None]
        keys, values = (
            jnp.where(is_here, new, old)
            for new, old in zip(
                self.self_attention.keys_and_values(inputs), cache, strict=True
            )
        )
        mask = (place <= positions[:, None])[:, None, None]
        hidden += self.self_attention.attend(
            inputs, keys, values, mask, bias, logits_dtype="float32"
        )
        # To the memory, the rows of a question are so many queries: no copy of it.
        inputs = self.pre_cross_attention_layer_norm(hidden)
        gathered = self.encoder_decoder_attention.attend(
            inputs.reshape(len(memory_mask), -1, inputs.shape[-1]),
            *memory,
            memory_mask[:, None, None],
            logits_dtype="float32",
        )
        hidden += gathered.reshape(hidden.shape)
        inputs = self.pre_mlp_layer_norm(hidden)
        return hidden + self.mlp(inputs, deterministic=True), (keys, values)


class Mlp(nn.Module):
    """One or more linear maps, each with its activation, multiplied; then another."""

    config: T5Config

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: bool) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]."""
        config = self.config
        names = ["wi"]
        if len(config.mlp_activations) > 1:
            names = [f"wi_{i}" for i in range(len(config.mlp_activations))]
        hidden = None
        for name, activation in zip(names, config.mlp_activations, strict=True):
            branch = _dense(config, config.mlp_dim, name)(inputs)
            branch = _ACTIVATIONS[activation](branch)
            hidden = branch if hidden is None else hidden * branch
        hidden = _dropout(config, deterministic)(hidden)
        return _dense(config, config.emb_dim, "wo")(hidden)


class RmsNorm(nn.Module):
    """Division by the root mean square, in float32; then a scale, in `dtype`."""

    dtype: str
    param_dtype: str
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis; [..., D] to [..., D], `dtype`."""
        ones = nn.initializers.ones
        scale = self.param("scale", ones, (inputs.shape[-1],), self.param_dtype)
        inputs = inputs.astype("float32")
        squares = jnp.mean(jnp.square(inputs), axis=-1, keepdims=True)
        outputs = (inputs * jax.lax.rsqrt(squares + self.epsilon)).astype(self.dtype)
        return outputs * layers.spread(scale.astype(self.dtype), outputs)


class RelativeBias(nn.Module):
    """What each head adds to its logits for each distance between positions."""

    config: T5Config
    bidirectional: bool

    def setup(self):
        """Makes the table; flax names the parameter after this attribute."""
        self.rel_embedding = self.param(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.config.num_heads, RELATIVE_BUCKETS),
            self.config.param_dtype,
        )

    def __call__(self, length: int) -> jax.Array:
        """The bias between all pairs of `length` positions, [1, H, length, length]."""
        position = np.arange(length)
        buckets = relative_position_buckets(
            position[None, :] - position[:, None], bidirectional=self.bidirectional
        )
        return self.rel_embedding[:, buckets][None].astype(self.config.dtype)

    def of_rows(self, positions: jax.Array, length: int) -> jax.Array:
        """The bias between one query a row and the keys up to it.

        Args:
            positions: [N] int32, of the queries.
            length: T, keys; a key after the query gets what one beside it gets.

        Returns:
            [N, H, 1, T], `config.dtype`.
        """
        buckets = relative_position_buckets(
            -np.arange(length), bidirectional=self.bidirectional
        )
        by_distance = self.rel_embedding[:, buckets].T.astype(self.config.dtype)
        distances = positions[:, None] - jnp.arange(length, dtype=jnp.int32)[None]
        bias_NTH = by_distance[jnp.clip(distances, 0, max(length - 1, 0))]
        return jnp.swapaxes(bias_NTH, 1, 2)[:, :, None]


class LogitsDense(nn.Module):
    """The v1.1 map from hidden states to logits, in float32."""

    config: T5Config

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., V] float32."""
        shape = (self.config.emb_dim, self.config.vocab_size)
        kernel = self.param("kernel", _fan_in(), shape, self.config.param_dtype)
        return _float32_logits(hidden, kernel, contract=0)


def relative_position_buckets(
    relative_position: np.ndarray, *, bidirectional: bool
) -> np.ndarray:
    """The bucket of each distance between a key and a query.

    Small distances have a bucket each; larger ones share buckets that grow
    logarithmically up to MAX_DISTANCE, beyond which all fall in the last.

    Args:
        relative_position: int, position of the key minus position of the query.
        bidirectional: half of the buckets are for keys after the query; False:
            all keys after it are in bucket 0.

    Returns:
        int32 in 0..RELATIVE_BUCKETS-1, the same shape.

    Source: Raffel et al., arXiv:1910.10683; float32 arithmetic as in T5X, on which
    the edges of buckets depend.
    """
    num_buckets, offset = RELATIVE_BUCKETS, 0
    distance = -np.asarray(relative_position)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance < 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    num_exact = num_buckets // 2
    ratio = distance.astype(np.float32) / num_exact + np.finfo(np.float32).eps
    share = np.log(ratio) / np.log(MAX_DISTANCE / num_exact)
    shared = num_exact + (share * (num_buckets - num_exact)).astype(np.int32)
    shared = np.minimum(shared, num_buckets - 1)
    bucket = offset + np.where(distance < num_exact, distance, shared)
    return bucket.astype(np.int32)


def logits_from_embedding(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
    """The v1.0 logits of hidden [..., D], embedding [V, D]; [..., V] float32."""
    return _float32_logits(hidden, embedding, contract=1) * hidden.shape[-1] ** -0.5


def _visible(
    key_mask: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
) -> jax.Array:
    """[B, 1, queries or 1, keys] bool: the key counts and is of the same segment."""
    mask = key_mask[:, None, None, :]
    if query_segments is None or key_segments is None:
        return mask
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return mask & same[:, None]


def _float32_logits(hidden: jax.Array, matrix: jax.Array, contract: int) -> jax.Array:
    """Products over axis `contract` of `matrix`, accumulated in float32.

    Two bfloat16 operands go in as they are: their products are exact in float32,
    and the device's bfloat16 units take them.
    """
    if not hidden.dtype == matrix.dtype == jnp.bfloat16:
        hidden, matrix = hidden.astype("float32"), matrix.astype("float32")
    axes = (((hidden.ndim - 1,), (contract,)), ((), ()))
    return jax.lax.dot_general(hidden, matrix, axes, preferred_element_type=jnp.float32)


def _fan_in(scale: float = 1.0):
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


def _dense(config: T5Config, features: int, name: str) -> layers.Dense:
    return layers.Dense(
        features, _fan_in(), config.dtype, config.param_dtype, use_bias=False, name=name
    )


def _norm(config: T5Config, name: str | None = None) -> RmsNorm:
    return RmsNorm(config.dtype, config.param_dtype, name=name)


def _dropout(config: T5Config, deterministic: bool | None = None) -> nn.Dropout:
    """Dropout that drops the same features at all positions of a row, as T5X's."""
    return nn.Dropout(
        config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic
    )


def _attention(config: T5Config, name: str | None = None) -> layers.Attention:
    # Small queries at the start stand in for the division by sqrt(head_dim).
    query_init = _fan_in(1.0 / config.head_dim)
    return layers.Attention(
        config.num_heads,
        config.head_dim,
        config.emb_dim,
        kernel_init=_fan_in(),
        query_init=query_init,
        out_init=_fan_in(),
        dtype=config.dtype,
        logits_dtype="float32" if config.float32_attention_logits else config.dtype,
        dropout_rate=config.dropout_rate,
        broadcast_dropout=True,
        use_bias=False,
        param_dtype=config.param_dtype,
        name=name,
    )
