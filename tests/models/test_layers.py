import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from art_jax.errors import ConfigError
from art_jax.models import bert, layers, t5
from art_jax.models.dual_encoder import DualEncoder

TINY_T5 = {
    "vocab_size": 11,
    "emb_dim": 4,
    "num_heads": 2,
    "head_dim": 3,
    "mlp_dim": 5,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}


def axes_by_path(params):
    flat = jax.tree_util.tree_leaves_with_path(layers.param_axes(params))
    return {"/".join(entry.key for entry in path): tuple(leaf) for path, leaf in flat}


def test_axes_of_t5_are_those_of_t5x():
    axes = axes_by_path(t5.param_shapes(t5.T5Config(**TINY_T5)))
    attention = {
        "query/kernel": ("embed", "joined_kv"),
        "key/kernel": ("embed", "joined_kv"),
        "value/kernel": ("embed", "joined_kv"),
        "out/kernel": ("joined_kv", "embed"),
    }
    mlp = {
        "mlp/wi_0/kernel": ("embed", "mlp"),
        "mlp/wi_1/kernel": ("embed", "mlp"),
        "mlp/wo/kernel": ("mlp", "embed"),
    }
    want = {
        "token_embedder/embedding": ("vocab", "embed"),
        "encoder/relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
        "encoder/layers_0/pre_attention_layer_norm/scale": ("embed",),
        "encoder/layers_0/pre_mlp_layer_norm/scale": ("embed",),
        "encoder/encoder_norm/scale": ("embed",),
        "decoder/relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
        "decoder/layers_0/pre_self_attention_layer_norm/scale": ("embed",),
        "decoder/layers_0/pre_cross_attention_layer_norm/scale": ("embed",),
        "decoder/layers_0/pre_mlp_layer_norm/scale": ("embed",),
        "decoder/decoder_norm/scale": ("embed",),
        "decoder/logits_dense/kernel": ("embed", "vocab"),
    }
    for name, names in attention.items():
        want[f"encoder/layers_0/attention/{name}"] = names
        want[f"decoder/layers_0/self_attention/{name}"] = names
        want[f"decoder/layers_0/encoder_decoder_attention/{name}"] = names
    for name, names in mlp.items():
        want[f"encoder/layers_0/{name}"] = names
        want[f"decoder/layers_0/{name}"] = names
    assert axes == want


def test_axes_of_a_dual_encoder_name_each_dimension_of_each_parameter():
    config = bert.tiny(num_layers=1, vocab_size=30, add_pooler=True)
    encoder = DualEncoder(config, pooling="weighted_mean", projection_dim=8)
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    axes = axes_by_path(params)
    assert len(axes) == len(jax.tree.leaves(params))
    tower = "query/encoder"
    assert axes[f"{tower}/token_embedder/embedding"] == ("vocab", "embed")
    assert axes[f"{tower}/layers_0/attention/query/bias"] == ("joined_kv",)
    assert axes[f"{tower}/layers_0/attention/out/bias"] == ("embed",)
    assert axes[f"{tower}/layers_0/mlp/wi/kernel"] == ("embed", "mlp")
    assert axes[f"{tower}/layers_0/mlp_norm/bias"] == ("embed",)
    assert axes["passage/pooling/token_weights/embedding"] == ("vocab", None)


def test_axes_are_what_flax_turns_into_a_sharding():
    axes = layers.param_axes({"mlp": {"wi": {"kernel": jnp.zeros((2, 3))}}})
    assert axes["mlp"]["wi"]["kernel"] == PartitionSpec("embed", "mlp")


@pytest.mark.parametrize("shape", [(2, 3), (3,)], ids=["unknown name", "wrong rank"])
def test_a_parameter_without_axes_is_an_error_that_names_it(shape):
    name = "surprise" if len(shape) == 2 else "wi"
    with pytest.raises(ConfigError, match=f"mlp/{name}/kernel"):
        layers.param_axes({"mlp": {name: {"kernel": jnp.zeros(shape)}}})


def test_layer_norm_computes_in_float32_for_bfloat16_activations():
    # The mean, 251.5, is no bfloat16, which has whole numbers only at this size.
    inputs = jnp.array([[250.0, 251.0, 252.0, 253.0]], jnp.bfloat16)
    norm = layers.LayerNorm(1e-12, "bfloat16")
    params = {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 0.5)}
    outputs = norm.apply({"params": params}, inputs)
    assert outputs.dtype == jnp.bfloat16
    want = 2.0 * np.array([[-1.5, -0.5, 0.5, 1.5]]) / np.sqrt(1.25) + 0.5
    # Half a unit in the last of bfloat16's 8 bits, for numbers below 4.
    np.testing.assert_allclose(outputs.astype("float32"), want, atol=2**-7)


def test_an_id_past_the_table_is_not_taken_for_another():
    table = layers.Embedding(3, 2, jax.nn.initializers.ones, "float32")
    params = {"params": {"embedding": jnp.ones((3, 2))}}
    assert np.isnan(table.apply(params, jnp.array([3]))).all()


def test_attention_is_the_mean_of_values_weighted_by_softmax():
    # Two heads of width 1, two positions; everything by hand.
    attention = layers.Attention(
        num_heads=2,
        head_dim=1,
        features=2,
        kernel_init=jax.nn.initializers.zeros,
        query_init=jax.nn.initializers.zeros,
        out_init=jax.nn.initializers.zeros,
        dtype="float32",
        logits_dtype="float32",
        logits_scale=0.5,
        use_bias=False,
    )
    identity = {"kernel": jnp.eye(2)}
    params = {name: identity for name in ("query", "key", "value", "out")}
    hidden = jnp.array([[[1.0, 2.0], [3.0, 5.0]]])
    mask = jnp.array([[[[True, True], [True, False]]]])
    bias = jnp.array([[[[0.0, 0.25], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    apply = jax.jit(attention.apply)
    outputs = apply({"params": params}, hidden, hidden, mask, bias)

    def mean(values, logits):
        weights = np.exp(logits)
        return np.dot(weights, values) / weights.sum()

    head_0 = mean([1.0, 3.0], [0.5 * 1 * 1, 0.5 * 1 * 3 + 0.25])
    head_1 = mean([2.0, 5.0], [0.5 * 2 * 2, 0.5 * 2 * 5])
    # The second position sees the first alone.
    np.testing.assert_allclose(outputs[0], [[head_0, head_1], [1.0, 2.0]], rtol=1e-6)
