"""The BERT encoder, in Hugging Face's post-LN form and Megatron's pre-LN form.

Parameters of one encoder (arrays are float32; `i` counts blocks from 0):

    token_embedder/embedding     [V, D]
    position_embedder/embedding  [max_positions, D], if `use_positions`
    type_embedder/embedding      [type_vocab_size, D], unless that is 0
    embedding_norm/{scale,bias}  [D], if `embedding_layer_norm`
    layers_i/attention/{query,key,value,out}/{kernel,bias}
    layers_i/attention_norm/{scale,bias}
    layers_i/mlp/{wi,wo}/{kernel,bias}
    layers_i/mlp_norm/{scale,bias}
    final_norm/{scale,bias}      [D], if `pre_layer_norm`
    pooler/{kernel,bias}         if `add_pooler`
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from art_jax.errors import ConfigError
from art_jax.models import layers
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The sizes and the form of a BERT encoder; the default is bert-base-uncased.

    Attributes:
        head_dim: width of a head; None: hidden_size / num_heads.
        dropout_rate: of embeddings and of each block's two outputs.
        attention_dropout_rate: of the attention weights.
        pre_layer_norm: normalise what enters a block's halves, and the last
            block's output (Megatron); False: normalise each half's output after
            adding it (Hugging Face).
        embedding_layer_norm: normalise the sum of the embeddings.
        dtype: of activations and matmuls; parameters are float32, and
            LayerNorm and softmax compute in float32, whatever this is.
        remat: recompute each block in the backward pass instead of keeping it.
        initializer_range: standard deviation of kernels and embeddings.
        embedding_init_range: the token embeddings' own; None: initializer_range.
        residual_init_scale: multiplies the initial kernels of each block's two
            output projections. With a pre-LN block 0 starts it as the identity.
        use_positions: add learned position embeddings.
        add_pooler: hold BERT's tanh pooler, so that its weights survive a load.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    head_dim: int | None = None
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    layer_norm_eps: float = 1e-12
    pre_layer_norm: bool = False
    embedding_layer_norm: bool = True
    dtype: str = "float32"
    remat: bool = False
    initializer_range: float = 0.02
    embedding_init_range: float | None = None
    residual_init_scale: float = 1.0
    use_positions: bool = True
    add_pooler: bool = False

    def __post_init__(self):
        layers.check_dtype("BertConfig.dtype", self.dtype)
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ConfigError(
                f"BertConfig: hidden_size {self.hidden_size} is no multiple of "
                f"num_heads {self.num_heads}: change one, or give head_dim."
            )

    @property
    def width_of_head(self) -> int:
        """`head_dim`, or what it is by default."""
        return self.head_dim or self.hidden_size // self.num_heads


def base(**changes) -> BertConfig:
    """bert-base-uncased, 12 post-LN layers of 768; `changes` replace its fields."""
    return dataclasses.replace(BertConfig(), **changes)


def large(**changes) -> BertConfig:
    """bert-large-uncased, 24 post-LN layers of 1024; `changes` replace its fields."""
    sizes = {
        "hidden_size": 1024,
        "num_layers": 24,
        "num_heads": 16,
        "intermediate_size": 4096,
    }
    return base(**{**sizes, **changes})


def tiny(**changes) -> BertConfig:
    """google/bert_uncased_L-2_H-128_A-2; `changes` replace its fields."""
    sizes = {
        "hidden_size": 128,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 512,
    }
    return base(**{**sizes, **changes})


def megatron_base(**changes) -> BertConfig:
    """The pre-LN form that ART's towers have; `changes` replace its fields.

    ART's files hold 30592 rows of token embeddings: 30522 word pieces, two added
    ones, and padding to a multiple of 128. Output projections start smaller by
    sqrt(2 * layers), as Megatron's do.
    """
    return _megatron(base, changes)


def megatron_large(**changes) -> BertConfig:
    """`megatron_base` in the size of `large`; `changes` replace its fields."""
    return _megatron(large, changes)


def _megatron(size, changes: dict) -> BertConfig:
    num_layers = size(**changes).num_layers
    form = {
        "vocab_size": 30592,
        "layer_norm_eps": 1e-5,
        "pre_layer_norm": True,
        "embedding_layer_norm": False,
        "residual_init_scale": (2 * max(num_layers, 1)) ** -0.5,
    }
    return size(**{**form, **changes})


def init_params(config: BertConfig, key: jax.Array) -> Params:
    """Fresh parameters of one encoder, float32."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return BertEncoder(config).lazy_init(key, tokens, mask)["params"]


def param_shapes(config: BertConfig) -> Params:
    """The tree `init_params` returns, as shapes and dtypes; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(BertEncoder(config).init, key, tokens, mask)["params"]


class BertEncoder(nn.Module):
    """Tokens in, one vector a token out."""

    config: BertConfig

    def setup(self):
        """Makes the parts; flax names parameters after these attributes."""
        config = self.config
        normal = nn.initializers.normal(config.initializer_range)
        token_range = config.embedding_init_range
        if token_range is None:
            token_range = config.initializer_range

        def table(size, init) -> layers.Embedding:
            return layers.Embedding(size, config.hidden_size, init, config.dtype)

        self.token_embedder = table(
            config.vocab_size, nn.initializers.normal(token_range)
        )
        if config.type_vocab_size:
            self.type_embedder = table(config.type_vocab_size, normal)
        if config.use_positions:
            self.position_embedder = table(config.max_positions, normal)
        if config.embedding_layer_norm:
            self.embedding_norm = _layer_norm(config)
        # Argument 3 of the block, itself being 0, is `deterministic`.
        block = nn.remat(BertBlock, static_argnums=(3,)) if config.remat else BertBlock
        self.layers = [block(config) for _ in range(config.num_layers)]
        if config.pre_layer_norm:
            self.final_norm = _layer_norm(config)
        if config.add_pooler:
            self.pooler = layers.Dense(config.hidden_size, normal, config.dtype)
        self.dropout = nn.Dropout(config.dropout_rate)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array,
        types: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """The last layer's hidden states.

        Args:
            tokens: [B, L] int32.
            mask: [B, L] bool, False on padding, which nothing then looks at. What
                comes out at padding means nothing.
            types: [B, L] int32, token types; None: all 0.
            deterministic: no dropout; else `apply` needs rngs={"dropout": key}.

        Returns:
            [B, L, D], `config.dtype`.

        Raises:
            ConfigError: L is more than the model has positions for.
        """
        hidden = self._embed(tokens, types)
        hidden = self.dropout(hidden, deterministic=deterministic)
        for layer in self.layers:
            hidden = layer(hidden, mask[:, None, None, :], deterministic)
        if self.config.pre_layer_norm:
            hidden = self.final_norm(hidden)
        if self.config.add_pooler and self.is_initializing():
            self.pool(hidden)  # flax makes only the parameters of what init calls
        return hidden

    def pool(self, hidden: jax.Array) -> jax.Array:
        """BERT's pooler: tanh of a linear map of the first token.

        Args:
            hidden: [B, L, D], what `__call__` returned.

        Returns:
            [B, D], `config.dtype`.
        """
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def _embed(self, tokens: jax.Array, types: jax.Array | None) -> jax.Array:
        hidden = self.token_embedder(tokens)
        if self.config.type_vocab_size:
            types = jnp.zeros_like(tokens) if types is None else types
            hidden += self.type_embedder(types)
        if self.config.use_positions:
            length, limit = tokens.shape[1], self.config.max_positions
            if length > limit:
                raise ConfigError(
                    f"a batch has {length} tokens a row, and this BERT has positions "
                    f"for {limit}: shorten the rows or raise BertConfig.max_positions."
                )
            hidden += self.position_embedder(jnp.arange(length)[None])
        if self.config.embedding_layer_norm:
            hidden = self.embedding_norm(hidden)
        return hidden


class BertBlock(nn.Module):
    """Self-attention and a two-layer MLP, each added to its input."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, hidden: jax.Array, mask: jax.Array, deterministic: bool
    ) -> jax.Array:
        """One block; hidden [B, L, D], mask [B, 1, 1, L]; returns [B, L, D]."""
        config = self.config
        normal, residual = _initializers(config)
        attention = layers.Attention(
            config.num_heads,
            config.width_of_head,
            config.hidden_size,
            kernel_init=normal,
            query_init=normal,
            out_init=residual,
            dtype=config.dtype,
            logits_dtype="float32",
            logits_scale=config.width_of_head**-0.5,
            dropout_rate=config.attention_dropout_rate,
            name="attention",
        )
        mlp = BertMlp(config, name="mlp")
        attention_norm = _layer_norm(config, name="attention_norm")
        mlp_norm = _layer_norm(config, name="mlp_norm")
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)

        def attend(inputs: jax.Array) -> jax.Array:
            return attention(inputs, inputs, mask, deterministic=deterministic)

        if config.pre_layer_norm:
            hidden += dropout(attend(attention_norm(hidden)))
            return hidden + dropout(mlp(mlp_norm(hidden)))
        hidden = attention_norm(hidden + dropout(attend(hidden)))
        return mlp_norm(hidden + dropout(mlp(hidden)))


class BertMlp(nn.Module):
    """Two linear maps with an erf GELU between them."""

    config: BertConfig

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]."""
        config = self.config
        normal, residual = _initializers(config)
        wi = layers.Dense(config.intermediate_size, normal, config.dtype, name="wi")
        wo = layers.Dense(config.hidden_size, residual, config.dtype, name="wo")
        return wo(jax.nn.gelu(wi(inputs), approximate=False))


def _initializers(config: BertConfig):
    """Initialisers of a block's inner kernels and of its output projections."""
    spread = config.initializer_range
    return (
        nn.initializers.normal(spread),
        nn.initializers.normal(spread * config.residual_init_scale),
    )


def _layer_norm(config: BertConfig, name: str | None = None) -> layers.LayerNorm:
    return layers.LayerNorm(config.layer_norm_eps, config.dtype, name=name)
