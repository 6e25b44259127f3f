import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from art_jax import partitioning
from art_jax.checkpoints import huggingface, t5x, tensors
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError
from art_jax.models import layers, t5
from art_jax.models.t5 import T5, T5Config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WEIGHTS = json.loads(
    (pathlib.Path(__file__).parent / "weights.json").read_text(encoding="utf-8")
)
ATOL = 1e-5  # see golden/README.md
TOKENS = np.array([[5, 6, 1], [7, 1, 0]], np.int32)
VERSIONS = pytest.mark.parametrize("version", ["v1_1", "v1_0"])

# Programs that draw with it compile faster than those of the default generator.
cheap_key = functools.partial(jax.random.key, impl="unsafe_rbg")


@functools.cache
def load(version, dtype="float32", params_dtype="f32"):
    folder = GOLDEN / "t5x" / f"{version}_{params_dtype}" / "checkpoint_1234"
    config, params = t5x.open_t5(folder, dtype=dtype)
    return config, tensors.to_host(params)


@functools.partial(jax.jit, static_argnums=0)
def run_jitted(config, params, tokens, inputs, encoder_segments, decoder_segments):
    variables, model = {"params": params}, T5(config)
    encoded = model.apply(variables, tokens, encoder_segments, method="encode")
    segments = encoder_segments, decoder_segments
    logits = model.apply(variables, encoded, tokens, inputs, *segments, method="decode")
    return encoded, logits


def run(config, params, golden):
    """Encoder output and logits of a golden batch."""
    outputs = run_jitted(
        config,
        params,
        golden["encoder_input_tokens"],
        golden["decoder_input_tokens"],
        golden.get("encoder_segment_ids"),
        golden.get("decoder_segment_ids"),
    )
    return jax.tree.map(np.asarray, outputs)


def assert_near(got, want, where, atol=ATOL):
    np.testing.assert_allclose(got[where], want[where], atol=atol, rtol=0)


@pytest.mark.parametrize("version", ["v1_1", "v1_0", "v1_1_scan"])
def test_states_and_logits_are_those_of_t5x(version):
    config, params = load(version)
    golden = np.load(GOLDEN / "t5x" / f"{version}_batch.npz")
    encoded, logits = run(config, params, golden)
    assert_near(encoded, golden["encoded"], golden["encoder_input_tokens"] > 0)
    assert_near(logits, golden["logits"], golden["decoder_target_tokens"] > 0)


def test_logits_after_training_are_those_of_t5x():
    config, params = t5x.open_t5(
        GOLDEN / "t5x" / "train_adafactor_f32" / "checkpoint_3", dtype="float32"
    )
    golden = np.load(GOLDEN / "t5x" / "train_adafactor_batch.npz")
    _, logits = run(config, tensors.to_host(params), golden)
    assert_near(logits, golden["logits"], golden["decoder_target_tokens"] > 0)


def test_bfloat16_activations_are_those_of_t5x():
    config, params = load("v1_1", dtype="bfloat16")
    golden = np.load(GOLDEN / "t5x" / "v1_1_batch.npz")
    encoded, logits = run(config, params, golden)
    assert encoded.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    # The same operations in the same order round alike on the CPU that t5x ran on.
    # Where they do not, two bfloat16 runs differ about as each does from float32.
    where = golden["decoder_target_tokens"] > 0
    rounding = np.abs(golden["logits_bf16_activations"] - golden["logits"])[where]
    error = np.abs(logits - golden["logits_bf16_activations"])[where]
    assert error.max() <= rounding.max()
    # Logits of size 4, 2**-9 a rounding, some 30 in a row.
    assert np.abs(logits - golden["logits"])[where].max() < 4 * 30 * 2**-9


@pytest.mark.parametrize("version", ["v1_1", "v1_0", "v1_1_scan"])
def test_logits_of_bfloat16_parameters_are_those_of_t5x(version):
    config, params = load(version, params_dtype="bf16")
    assert params["token_embedder"]["embedding"].dtype == jnp.bfloat16
    golden = np.load(GOLDEN / "t5x" / f"{version}_batch_bf16params.npz")
    # Exact, and the program of the float32 parameters serves again.
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    _, logits = run(config, params, golden)
    assert_near(logits, golden["logits"], golden["decoder_target_tokens"] > 0)


def test_rows_past_the_largest_distance_are_those_of_t5x():
    config, params = load("v1_1")
    golden = np.load(GOLDEN / "t5x" / "v1_1_long.npz")
    encoded, logits = run(config, params, golden)
    where = golden["encoder_input_tokens"][:, ::8] > 0
    assert_near(encoded[:, ::8], golden["encoded"], where)
    got = logits[:, golden["logit_positions"]]
    where = golden["decoder_target_tokens"][:, golden["logit_positions"]] > 0
    assert_near(got, golden["logits_at_positions"], where)


def test_equal_biases_in_every_layer_are_one_for_all():
    config, params = load("v1_1")
    own = dict(params)
    for name in ("encoder", "decoder"):
        stack = dict(params[name])
        shared = stack.pop("relpos_bias")
        for i in range(2):
            stack[f"layers_{i}"] = {**stack[f"layers_{i}"], "relpos_bias": shared}
        own[name] = stack
    # Rows so long that the two sides' buckets differ.
    golden = dict(np.load(GOLDEN / "t5x" / "v1_1_long.npz"))
    config = dataclasses.replace(config, relpos_bias_per_layer=True)
    _, logits = run(config, own, golden)
    got = logits[:, golden["logit_positions"]]
    where = golden["decoder_target_tokens"][:, golden["logit_positions"]] > 0
    assert_near(got, golden["logits_at_positions"], where)


def test_packed_rows_are_those_of_t5x():
    config, params = load("v1_0")
    golden = np.load(GOLDEN / "t5x" / "v1_0_packed.npz")
    encoded, logits = run(config, params, golden)
    assert_near(encoded, golden["encoded"], golden["encoder_input_tokens"] > 0)
    assert_near(logits, golden["logits"], golden["decoder_target_tokens"] > 0)


@VERSIONS
def test_states_and_logits_are_those_of_hugging_face(version):
    config, params = huggingface.open_t5(
        GOLDEN / "hf" / f"t5_{version}", dtype="float32"
    )
    params = tensors.to_host(params)
    golden = np.load(GOLDEN / "hf" / f"t5_{version}.npz")
    tokens = golden["input_ids"].astype(np.int32)
    inputs = golden["decoder_input_ids"].astype(np.int32)
    # A fifth row, of padding: the program of t5x's batch of five serves again.
    batch = {
        "encoder_input_tokens": np.pad(tokens, ((0, 1), (0, 0))),
        "decoder_input_tokens": np.pad(inputs, ((0, 1), (0, 0))),
    }
    encoded, logits = run(config, params, batch)
    assert_near(encoded[:4], golden["encoder_last_hidden_state"], tokens > 0)
    assert_near(logits[:4], golden["logits"], golden["decoder_target_tokens"] > 0)


@pytest.mark.parametrize(
    ("float32_attention_logits", "want"), [(False, "bf16"), (True, "f32")]
)
def test_attention_softmax_is_of_the_dtype_asked_for(float32_attention_logits, want):
    config, params = load("v1_1", dtype="bfloat16")
    config = dataclasses.replace(
        config, float32_attention_logits=float32_attention_logits
    )
    jaxpr = str(jax.make_jaxpr(t5.encode, static_argnums=1)(params, config, TOKENS))
    dtypes = set(re.findall(r":(\w+)\[[\d,]+\] = exp ", jaxpr))
    assert dtypes == {want}


@VERSIONS
def test_logits_are_float32_sums_of_bfloat16_products(version):
    # bfloat16 in both operands must give what float32 copies of them give.
    config = load(version, dtype="bfloat16")[0]
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 3, 16)).astype(jnp.bfloat16)
    shape = (272, 16) if config.logits_via_embedding else (16, 272)
    matrix = rng.normal(size=shape).astype(jnp.bfloat16)

    def logits(hidden, matrix):
        if config.logits_via_embedding:
            return t5.logits_from_embedding(hidden, matrix)
        return t5.LogitsDense(config).apply({"params": {"kernel": matrix}}, hidden)

    low = jax.jit(logits)(hidden, matrix)
    high = jax.jit(logits)(hidden.astype("float32"), matrix.astype("float32"))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", ["bidirectional", "causal"])
def test_relative_position_buckets_are_those_of_t5x(side):
    golden = np.load(GOLDEN / "t5x" / "relpos_buckets.npz")
    got = t5.relative_position_buckets(
        golden["relative_position"], bidirectional=side == "bidirectional"
    )
    np.testing.assert_array_equal(got, golden[side])


def test_padding_and_neighbours_change_nothing():
    config, params = load("v1_1")
    golden = np.load(GOLDEN / "t5x" / "v1_1_batch.npz")
    batch = {
        "encoder_input_tokens": golden["encoder_input_tokens"][1:2, :9],
        "decoder_input_tokens": golden["decoder_input_tokens"][1:2, :3],
    }
    _, logits = run(config, params, batch)
    np.testing.assert_allclose(logits[0], golden["logits"][1, :3], atol=ATOL, rtol=0)


def test_logits_are_made_of_hidden_states_that_can_be_had_apart():
    config, params = load("v1_0")
    golden = np.load(GOLDEN / "t5x" / "v1_0_batch.npz")

    @jax.jit
    def logits_of_some(params, encoded, tokens, inputs):
        hidden = t5.decode_hidden(params, config, encoded, tokens, inputs)
        assert hidden.shape == (*inputs.shape, config.emb_dim)
        return t5.logits(params, config, hidden[:, 2:4])

    tokens, inputs = golden["encoder_input_tokens"], golden["decoder_input_tokens"]
    got = np.asarray(logits_of_some(params, golden["encoded"], tokens, inputs))
    where = golden["decoder_target_tokens"][:, 2:4] > 0
    assert_near(got, golden["logits"][:, 2:4], where)


def test_a_position_sees_nothing_that_follows_it():
    config, params = load("v1_1")
    golden = dict(np.load(GOLDEN / "t5x" / "v1_1_batch.npz"))
    _, before = run(config, params, golden)
    golden["decoder_input_tokens"] = golden["decoder_input_tokens"].copy()
    golden["decoder_input_tokens"][:, 4] = 7
    _, after = run(config, params, golden)
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-6, rtol=0)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 0.1


def test_targets_shifted_right_are_the_decoder_inputs_of_t5x():
    golden = np.load(GOLDEN / "t5x" / "v1_1_batch.npz")
    shifted = jax.jit(t5.shift_right)(golden["decoder_target_tokens"])
    np.testing.assert_array_equal(shifted, golden["decoder_input_tokens"])


encode = jax.jit(t5.encode, static_argnums=1)
make_memory = jax.jit(t5.make_memory, static_argnums=1)
decode = jax.jit(t5.decode, static_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def run_steps(config, params, encoded, mask, inputs):
    """Logits, [N, T, V], of decoder inputs, [N, T], read one position at a time."""
    memory = t5.make_memory(params, config, encoded, mask)
    cache = t5.init_cache(config, *inputs.shape)

    def step(cache, tokens):
        logits, cache = t5.decode_step(params, config, memory, cache, tokens)
        return cache, logits

    cache, logits = jax.lax.scan(step, cache, jnp.swapaxes(inputs, 0, 1))
    return jnp.swapaxes(logits, 0, 1), cache


def run_cached(config, params, golden):
    tokens = golden["encoder_input_tokens"]
    inputs = jnp.asarray(golden["decoder_input_tokens"])
    encoded = encode(params, config, tokens)
    logits, _ = run_steps(config, params, encoded, tokens > 0, inputs)
    return np.asarray(logits)


@pytest.mark.parametrize("version", ["v1_1", "v1_0", "v1_1_scan"])
def test_steps_with_a_cache_give_the_logits_of_t5x(version):
    config, params = load(version)
    golden = np.load(GOLDEN / "t5x" / f"{version}_batch.npz")
    logits = run_cached(config, params, golden)
    assert_near(logits, golden["logits"], golden["decoder_target_tokens"] > 0)


def test_steps_past_the_largest_distance_are_those_of_t5x():
    config, params = load("v1_1")
    golden = np.load(GOLDEN / "t5x" / "v1_1_long.npz")
    got = run_cached(config, params, golden)[:, golden["logit_positions"]]
    where = golden["decoder_target_tokens"][:, golden["logit_positions"]] > 0
    assert_near(got, golden["logits_at_positions"], where)


def test_steps_in_bfloat16_round_as_decoding_at_once_does():
    config, params = load("v1_1", dtype="bfloat16")
    golden = np.load(GOLDEN / "t5x" / "v1_1_batch.npz")
    where = golden["decoder_target_tokens"] > 0
    logits = run_cached(config, params, golden)
    assert logits.dtype == np.float32
    error = np.abs(logits - golden["logits"])[where].max()
    rounding = np.abs(golden["logits_bf16_activations"] - golden["logits"])[where]
    assert error <= 1.5 * rounding.max()


def test_attention_of_a_step_is_float32_and_its_cache_is_not():
    config, params = load("v1_1", dtype="bfloat16")
    memory = t5.make_memory(
        params, config, jnp.zeros((1, 3, 16), jnp.bfloat16), jnp.ones((1, 3), bool)
    )
    cache = t5.init_cache(config, 1, 4)
    dtypes = {leaf.dtype for leaf in cache.keys + memory.values}
    assert dtypes == {jnp.dtype("bfloat16")}
    tokens = jnp.zeros(1, jnp.int32)
    step = jax.make_jaxpr(t5.decode_step, static_argnums=1)
    text = str(step(params, config, memory, cache, tokens))
    assert set(re.findall(r":(\w+)\[[\d,]+\] = exp ", text)) == {"f32"}
    # No float32 copy of the memory's keys, [1, 3, 4, 8].
    assert "f32[1,3,4,8]" not in text


def test_rows_of_a_question_share_its_memory_and_stand_where_they_are():
    config, params = load("v1_0")
    tokens = np.array([[5, 6, 7, 1], [8, 9, 1, 0]], np.int32)
    encoded = encode(params, config, tokens)
    memory = make_memory(params, config, encoded, tokens > 0)
    # Of each question three rows, which have read 2 tokens; then rows of different
    # lengths are gathered: a longer and a shorter one of either question.
    inputs = np.array([[0, 3], [0, 4], [0, 5]] * 2, np.int32)
    step = jax.jit(t5.decode_step, static_argnums=1)
    cache = t5.init_cache(config, 6, 5)
    shorter = None
    for place in range(2):
        shorter = cache
        _, cache = step(params, config, memory, cache, inputs[:, place])
    mixed = jax.tree.map(
        lambda longer, shorter: jnp.stack(
            [longer[1], shorter[0], longer[5], longer[3]]
        ),
        cache,
        shorter,
    )
    np.testing.assert_array_equal(mixed.positions, [2, 1, 2, 2])
    logits, mixed = step(params, config, memory, mixed, np.array([7, 7, 6, 7]))
    rows = [[0, 4, 7], [0, 7, 0], [0, 5, 6], [0, 3, 7]]
    doubled = np.repeat(tokens, 2, axis=0)
    want = decode(
        params, config, np.repeat(encoded, 2, axis=0), doubled, np.array(rows)
    )
    want = np.asarray(want)[np.arange(4), [2, 1, 2, 2]]
    np.testing.assert_allclose(logits, want, atol=ATOL, rtol=0)
    np.testing.assert_array_equal(mixed.positions, [3, 2, 3, 3])


def test_rows_that_no_question_has_are_an_error():
    config, params = load("v1_1")
    memory = t5.make_memory(
        params, config, jnp.zeros((2, 3, 16)), jnp.ones((2, 3), bool)
    )
    with pytest.raises(ValueError, match="3 rows cannot be shared by 2 questions"):
        t5.decode_step(
            params, config, memory, t5.init_cache(config, 3, 4), np.zeros(3, np.int32)
        )


@pytest.mark.parametrize(("devices", "model"), [(8, 1), (4, 2)])
def test_steps_over_a_mesh_give_the_logits_of_one_device(devices, model):
    config, params = load("v1_1")
    mesh = partitioning.make_mesh(devices, model_parallelism=model)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 200, (8, 6)).astype(np.int32)
    inputs = rng.integers(1, 200, (16, 3)).astype(np.int32)
    encoded = np.asarray(encode(params, config, tokens))
    want, _ = run_steps(config, params, encoded, tokens > 0, inputs)
    shardings = jax.tree.map(
        lambda axes: partitioning.logical_sharding(axes, mesh),
        layers.param_axes(params),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )
    placed = jax.device_put(params, shardings)
    batch = partitioning.batch_sharding(mesh)
    arrays = jax.device_put((encoded, tokens > 0, inputs), batch)
    got, cache = run_steps(config, placed, *arrays)
    np.testing.assert_allclose(got, want, atol=ATOL, rtol=0)
    # Each device has its own rows, and its own heads.
    shard = cache.keys[0].addressable_shards[0].data.shape
    assert shard == (16 * model // devices, 3, 4 // model, 8)


def one_layer(config):
    return dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)


def test_gradients_are_finite_where_a_row_is_all_padding():
    config, params = load("v1_1")
    config = one_layer(config)
    tokens = np.array([[5, 1, 0], [0, 0, 0]])
    inputs = np.array([[0, 7], [0, 0]])

    def loss(params):
        return jnp.mean(
            jnp.square(T5(config).apply({"params": params}, tokens, inputs))
        )

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def trace_with_dropout(config, params):
    """The text of the program of a training step's forward pass."""

    def logits(params):
        return T5(config).apply(
            {"params": params},
            TOKENS,
            TOKENS,
            deterministic=False,
            rngs={"dropout": cheap_key(0)},
        )

    return str(jax.make_jaxpr(logits)(params))


def test_rematerialisation_wraps_each_layer_and_renames_nothing():
    config, params = load("v1_1")
    remat = dataclasses.replace(config, remat=True)
    assert shapes_by_path(t5.param_shapes(remat)) == shapes_by_path(params)
    for changed, num_layers in ((config, 0), (remat, 2 + 2)):
        jaxpr = trace_with_dropout(changed, params)
        assert len(re.findall(r"= (checkpoint|remat2?)\[", jaxpr)) == num_layers


def test_dropout_is_where_t5x_has_it():
    config, params = load("v1_1")
    # Of each stack the embeddings and the output; of each layer every attention's
    # weights, the MLP's inner states, and the output of each part.
    encoder, decoder = 2 + 2 * (1 + 1 + 2), 2 + 2 * (2 + 1 + 3)
    for rate, sites in ((0.5, encoder + decoder), (0.0, 0)):
        changed = dataclasses.replace(config, dropout_rate=rate)
        jaxpr = trace_with_dropout(changed, params)
        assert jaxpr.count("name=_bernoulli") == sites


def test_dropout_drops_a_feature_at_all_positions_of_a_row():
    dropout = t5._dropout(t5.T5Config(dropout_rate=0.5), deterministic=False)
    ones = np.ones((2, 3, 64), np.float32)
    dropped = jax.jit(dropout.apply)({}, ones, rngs={"dropout": cheap_key(0)})
    dropped = np.asarray(dropped)
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], ones.shape))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (t5.v1_0("small"), 60_506_624),
        (t5.v1_1("xl"), 2_849_757_184),
        (t5.v1_1("xxl"), 11_135_332_352),
    ],
    ids=["t5-small", "t5-v1_1-xl", "t5-v1_1-xxl"],
)
def test_published_sizes_have_their_published_number_of_parameters(config, want):
    # As transformers counts the models of these names (the older t5-small without
    # the bias table of cross-attention that it holds and never uses).
    leaves = jax.tree.leaves(t5.param_shapes(config))
    assert sum(leaf.size for leaf in leaves) == want


def test_sizes_of_the_first_t5():
    big = t5.v1_0("11b", dtype="float32")
    assert (big.num_heads, big.head_dim, big.mlp_dim) == (128, 128, 65536)
    assert (big.logits_via_embedding, big.mlp_activations) == (True, ("relu",))
    assert big.dtype == "float32"


def test_parameters_are_made_in_their_own_dtype():
    config = T5Config(
        num_encoder_layers=1, num_decoder_layers=1, vocab_size=9, param_dtype="bfloat16"
    )
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(t5.param_shapes(config))}
    assert dtypes == {jnp.dtype("bfloat16")}


def test_initial_spreads_are_those_of_t5x():
    config = T5Config(
        emb_dim=256,
        num_heads=4,
        head_dim=16,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=0,
        vocab_size=1000,
        logits_via_embedding=True,
    )
    params = jax.jit(t5.init_params, static_argnums=0)(config, cheap_key(0))
    attention = params["encoder"]["layers_0"]["attention"]
    for array, want in (
        (params["token_embedder"]["embedding"], 1.0),
        (attention["key"]["kernel"], 256**-0.5),
        (attention["query"]["kernel"], (256 * 16) ** -0.5),
        (attention["out"]["kernel"], 64**-0.5),
    ):
        np.testing.assert_allclose(np.std(array), want, rtol=0.05)


def test_biases_of_their_own_move_into_each_layer_and_nothing_else_changes():
    config, _ = load("v1_1")
    own = dataclasses.replace(config, relpos_bias_per_layer=True)
    want = shapes_by_path(t5.param_shapes(config))
    for stack in ("encoder", "decoder"):
        shape = want.pop(f"{stack}/relpos_bias/rel_embedding")
        for i in range(2):
            want[f"{stack}/layers_{i}/relpos_bias/rel_embedding"] = shape
    assert shapes_by_path(t5.param_shapes(own)) == want
    assert shapes_by_path(load("v1_1_scan")[1]) == want


@VERSIONS
def test_names_and_shapes_of_weights_are_on_file(version):
    config, _ = load(version)
    want = {path: tuple(shape) for path, shape in WEIGHTS[f"t5_{version}"].items()}
    assert shapes_by_path(t5.param_shapes(config)) == want


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t5.v1_1("huge"), "no size 'huge'.*xxl"),
        (lambda: T5Config(mlp_activations=("swish",)), "swish"),
        (lambda: T5Config(dtype="float16"), "float16"),
    ],
)
def test_a_config_that_cannot_be_built_is_an_error(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
