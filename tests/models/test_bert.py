import dataclasses
import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.checkpoints import huggingface, tensors
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError
from art_jax.models import bert
from art_jax.models.bert import BertConfig, BertEncoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
WEIGHTS = json.loads(
    (pathlib.Path(__file__).parent / "weights.json").read_text(encoding="utf-8")
)
ATOL = 1e-5  # see golden/README.md

SMALL = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=12,
    max_positions=10,
    initializer_range=0.5,
)
PRE_LN = dataclasses.replace(
    SMALL, pre_layer_norm=True, embedding_layer_norm=False, layer_norm_eps=1e-5
)
FORMS = pytest.mark.parametrize("config", [SMALL, PRE_LN], ids=["post-LN", "pre-LN"])

TOKENS = np.array([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 9, 9, 30, 41, 3]])

# Programs that draw with it compile faster than those of the default generator.
cheap_key = functools.partial(jax.random.key, impl="unsafe_rbg")


def random_params(config, seed=0):
    """Parameters of which no bias is zero and no scale is one."""
    shapes, treedef = jax.tree.flatten(bert.param_shapes(config))
    rng = np.random.default_rng(seed)
    leaves = [rng.normal(0, 0.5, s.shape).astype(np.float32) for s in shapes]
    return treedef.unflatten(leaves)


@functools.partial(jax.jit, static_argnums=0)
def apply_jitted(config, params, tokens, mask, types, dropout_key):
    return BertEncoder(config).apply(
        {"params": params},
        tokens,
        mask,
        types,
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )


def apply(config, params, tokens, types=None, dropout_key=None):
    tokens = np.asarray(tokens, np.int32)
    types = np.zeros_like(tokens) if types is None else np.asarray(types, np.int32)
    hidden = apply_jitted(config, params, tokens, tokens != 0, types, dropout_key)
    return np.asarray(hidden)


def numpy_pre_ln_bert(config, params, tokens):
    """Megatron's form, one row at a time, in float64."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    erf = np.vectorize(math.erf)

    def linear(weights, inputs):
        return inputs @ weights["kernel"] + weights["bias"]

    def norm(weights, inputs):
        centred = inputs - inputs.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(inputs.var(-1, keepdims=True) + 1e-5)
        return scaled * weights["scale"] + weights["bias"]

    def attend(weights, inputs):
        gathered = []
        for head in range(config.num_heads):
            part = slice(head * 4, head * 4 + 4)
            query = linear(weights["query"], inputs)[:, part]
            key = linear(weights["key"], inputs)[:, part]
            value = linear(weights["value"], inputs)[:, part]
            logits = query @ key.T / np.sqrt(4)
            probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            gathered.append(probabilities @ value)
        return linear(weights["out"], np.concatenate(gathered, axis=-1))

    row = tokens[tokens != 0]
    hidden = params["token_embedder"]["embedding"][row]
    hidden = hidden + params["position_embedder"]["embedding"][: len(row)]
    hidden = hidden + params["type_embedder"]["embedding"][0]
    for i in range(config.num_layers):
        block = params[f"layers_{i}"]
        hidden = hidden + attend(
            block["attention"], norm(block["attention_norm"], hidden)
        )
        inner = linear(block["mlp"]["wi"], norm(block["mlp_norm"], hidden))
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        hidden = hidden + linear(block["mlp"]["wo"], inner)
    return norm(params["final_norm"], hidden)


@pytest.mark.parametrize("num_layers", [0, 2])
def test_hidden_states_are_those_of_hugging_face(num_layers):
    config, params = huggingface.open_bert(GOLDEN / "bert", num_layers=num_layers)
    golden = np.load(GOLDEN / "bert.npz")
    mask = golden["attention_mask"] > 0
    params = tensors.to_host(params)
    hidden = apply(config, params, golden["input_ids"], golden["token_type_ids"])
    want = golden["hidden_states"][num_layers]
    np.testing.assert_allclose(hidden[mask], want[mask], atol=ATOL, rtol=0)


def test_the_pooler_is_that_of_hugging_face():
    config, params = huggingface.open_bert(GOLDEN / "bert")
    golden = np.load(GOLDEN / "bert.npz")
    pooled = BertEncoder(config).apply(
        {"params": tensors.to_host(params)}, golden["last_hidden_state"], method="pool"
    )
    np.testing.assert_allclose(pooled, golden["pooler_output"], atol=ATOL, rtol=0)


def test_the_pre_ln_form_is_that_of_a_plain_numpy_twin():
    config = dataclasses.replace(PRE_LN, num_layers=2)
    params = random_params(config)
    hidden = apply(config, params, TOKENS)
    for row, tokens in enumerate(TOKENS):
        want = numpy_pre_ln_bert(config, params, tokens)
        np.testing.assert_allclose(hidden[row, : len(want)], want, atol=ATOL, rtol=0)


@FORMS
def test_padding_and_neighbours_change_nothing(config):
    params = random_params(config)
    hidden = apply(config, params, TOKENS)
    alone = apply(config, params, TOKENS[1:2, :3])
    np.testing.assert_allclose(alone[0], hidden[1, :3], atol=1e-6, rtol=1e-6)


def test_a_row_of_padding_gives_finite_states_and_gradients():
    params = random_params(SMALL)
    tokens = np.concatenate([TOKENS, np.zeros_like(TOKENS[:1])])

    def loss(params):
        hidden = apply_jitted(SMALL, params, tokens, tokens != 0, None, None)
        return jnp.sum(jnp.square(hidden))

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@FORMS
def test_bfloat16_stays_near_float32(config):
    params = random_params(config)
    low = apply(dataclasses.replace(config, dtype="bfloat16"), params, TOKENS)
    assert low.dtype == jnp.bfloat16
    full = apply(config, params, TOKENS)
    real = TOKENS != 0
    error = np.abs(low.astype("float32") - full)[real]
    # Some ten roundings of 2**-9 in a row, on states of size 1.
    assert 0 < error.mean() < 10 * 2**-9
    assert error.max() < 0.1


def test_token_types_and_positions_are_added():
    config = dataclasses.replace(PRE_LN, num_layers=0)
    params = random_params(config)
    tokens = np.array([[5, 5]])
    types = np.array([[0, 1]])
    hidden = apply(config, params, tokens, types=types)
    token, position, kind = (
        params[f"{name}_embedder"]["embedding"]
        for name in ("token", "position", "type")
    )
    states = np.stack(
        [token[5] + position[0] + kind[0], token[5] + position[1] + kind[1]]
    )
    centred = states - states.mean(-1, keepdims=True)
    want = centred / np.sqrt(states.var(-1, keepdims=True) + 1e-5)
    norm = params["final_norm"]
    want = want * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(hidden[0], want, atol=ATOL, rtol=0)


def test_without_positions_order_does_not_matter():
    config = dataclasses.replace(PRE_LN, use_positions=False)
    params = random_params(config)
    assert "position_embedder" not in params
    there = apply(config, params, np.array([[4, 5, 6]]))
    back = apply(config, params, np.array([[6, 5, 4]]))
    np.testing.assert_allclose(there[:, ::-1], back, atol=1e-6, rtol=1e-6)


def test_without_token_types_nothing_is_added_for_them():
    config = dataclasses.replace(PRE_LN, type_vocab_size=0)
    params = random_params(config)
    assert "type_embedder" not in params
    without = {**params, "type_embedder": {"embedding": np.zeros((2, 8), np.float32)}}
    np.testing.assert_array_equal(
        apply(config, params, TOKENS), apply(PRE_LN, without, TOKENS)
    )


def test_dropout_needs_a_key_and_is_a_function_of_it():
    params = random_params(SMALL)

    def drop(seed):
        return apply(SMALL, params, TOKENS, dropout_key=cheap_key(seed))

    np.testing.assert_array_equal(drop(0), drop(0))
    assert np.abs(drop(0) - drop(1)).max() > 0.01


@pytest.mark.parametrize("form", ["post-LN", "pre-LN"])
@pytest.mark.parametrize(
    ("rates", "sites"),
    # Embeddings and each block's two outputs; each block's attention weights.
    [((0.5, 0.0), 1 + 2 * 2), ((0.0, 0.5), 2), ((0.0, 0.0), 0)],
)
def test_dropout_is_where_the_rates_say(form, rates, sites):
    config = dataclasses.replace(
        SMALL if form == "post-LN" else PRE_LN,
        num_layers=2,
        dropout_rate=rates[0],
        attention_dropout_rate=rates[1],
    )
    arguments = (bert.param_shapes(config), TOKENS, TOKENS != 0, None, cheap_key(0))
    jaxpr = str(jax.make_jaxpr(apply_jitted, static_argnums=0)(config, *arguments))
    assert jaxpr.count("name=_bernoulli") == sites


def test_rematerialisation_wraps_each_block_and_renames_nothing():
    config = dataclasses.replace(SMALL, num_layers=3)
    params = random_params(config)
    remat = dataclasses.replace(config, remat=True)
    assert shapes_by_path(bert.param_shapes(remat)) == shapes_by_path(params)

    def num_checkpoints(config):
        trace = jax.make_jaxpr(apply_jitted, static_argnums=0)
        arguments = (params, TOKENS, TOKENS != 0, None, cheap_key(0))
        return len(
            re.findall(r"= (checkpoint|remat2?)\[", str(trace(config, *arguments)))
        )

    assert (num_checkpoints(config), num_checkpoints(remat)) == (0, 3)


def test_initial_spreads_are_those_of_the_config():
    config = dataclasses.replace(
        PRE_LN,
        vocab_size=2000,
        hidden_size=64,
        intermediate_size=64,
        initializer_range=0.02,
        embedding_init_range=1.0,
        residual_init_scale=0.1,
    )
    params = jax.jit(bert.init_params, static_argnums=0)(config, cheap_key(0))
    block = params["layers_0"]
    spreads = {
        1.0: [params["token_embedder"]["embedding"]],
        0.02: [block["attention"]["query"]["kernel"], block["mlp"]["wi"]["kernel"]],
        0.002: [block["attention"]["out"]["kernel"], block["mlp"]["wo"]["kernel"]],
    }
    for want, kernels in spreads.items():
        for kernel in kernels:
            np.testing.assert_allclose(np.std(kernel), want, rtol=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (bert.base(add_pooler=True), 109_482_240),
        (bert.large(add_pooler=True), 335_141_888),
        (bert.tiny(add_pooler=True), 4_385_920),
    ],
    ids=["base", "large", "tiny"],
)
def test_published_sizes_have_their_published_number_of_parameters(config, want):
    # As transformers counts bert-base-uncased, bert-large-uncased and
    # google/bert_uncased_L-2_H-128_A-2.
    leaves = jax.tree.leaves(bert.param_shapes(config))
    assert sum(leaf.size for leaf in leaves) == want


def test_the_default_is_the_form_of_bert_base_uncased():
    config = bert.base()
    assert (config.layer_norm_eps, config.initializer_range) == (1e-12, 0.02)
    assert (config.dropout_rate, config.attention_dropout_rate) == (0.1, 0.1)
    assert (config.pre_layer_norm, config.embedding_layer_norm) == (False, True)
    assert (config.max_positions, config.num_heads) == (512, 12)


def test_megatron_forms():
    config = bert.megatron_base(num_layers=6, dropout_rate=0.0)
    assert config.pre_layer_norm
    assert not config.embedding_layer_norm
    assert config.layer_norm_eps == 1e-5
    assert config.dropout_rate == 0.0
    assert config.residual_init_scale == pytest.approx(1 / math.sqrt(2 * 6))
    assert bert.megatron_large().hidden_size == 1024
    shapes = shapes_by_path(bert.param_shapes(bert.megatron_base()))
    assert shapes["token_embedder/embedding"] == (30592, 768)
    assert "final_norm/scale" in shapes
    assert "embedding_norm/scale" not in shapes


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bert_post_ln", dataclasses.replace(SMALL, num_layers=2, add_pooler=True)),
        ("bert_pre_ln", dataclasses.replace(PRE_LN, num_layers=2)),
    ],
)
def test_names_and_shapes_of_weights_are_on_file(name, config):
    want = {path: tuple(shape) for path, shape in WEIGHTS[name].items()}
    assert shapes_by_path(bert.param_shapes(config)) == want


def test_a_row_longer_than_the_positions_is_an_error():
    with pytest.raises(ConfigError, match="11 tokens a row.*positions for 10"):
        apply(SMALL, random_params(SMALL), np.ones((1, 11)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"hidden_size": 7}, "7 is no multiple"), ({"dtype": "float16"}, "'float16'")],
)
def test_a_config_that_cannot_be_built_is_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_heads_may_be_wider_than_their_share():
    config = dataclasses.replace(SMALL, head_dim=5)
    shapes = shapes_by_path(bert.param_shapes(config))
    assert shapes["layers_0/attention/query/kernel"] == (8, 10)
    assert shapes["layers_0/attention/out/kernel"] == (10, 8)
