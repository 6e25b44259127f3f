import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import t5x, tensors
from art_jax.generation import t5_decoding
from art_jax.models import fid, t5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ATOL = 1e-5  # see golden/README.md
# Two questions of five slots: the first has four passages, the second three, apart.
LENGTHS = np.array([[4, 6, 2, 5, 0], [3, 0, 6, 1, 0]])
INPUTS = np.array([[0, 7, 9], [0, 8, 5]], np.int32)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs here run a few times each: optimising them takes longer than that."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@functools.cache
def load():
    folder = GOLDEN / "t5x" / "v1_1_f32" / "checkpoint_1234"
    config, params = t5x.open_t5(folder, dtype="float32")
    return config, tensors.to_host(params)


def load_one_layer():
    config, params = load()
    return dataclasses.replace(
        config, num_encoder_layers=1, num_decoder_layers=1
    ), params


def passages():
    tokens = np.random.default_rng(0).integers(3, 200, (2, 5, 6)).astype(np.int32)
    return np.where(np.arange(6) < LENGTHS[..., None], tokens, 0)


@functools.partial(jax.jit, static_argnums=(0,), static_argnames="passages_at_once")
def run(config, params, tokens, inputs, passages_at_once=None):
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    return encoded, mask, fid.decode(params, config, encoded, mask, inputs)


@functools.partial(jax.jit, static_argnums=0)
def run_t5(config, params, tokens, inputs):
    encoded = t5.encode(params, config, tokens)
    return encoded, t5.decode(params, config, encoded, tokens, inputs)


def test_of_one_passage_it_is_t5_to_the_bit():
    config, params = load()
    tokens = passages()[:, 0]
    want_encoded, want = run_t5(config, params, tokens, INPUTS)
    encoded, mask, logits = run(config, params, tokens[:, None], INPUTS)
    np.testing.assert_array_equal(encoded, want_encoded)
    np.testing.assert_array_equal(mask, tokens > 0)
    np.testing.assert_array_equal(logits, want)


def test_passages_are_read_apart_and_decoded_together():
    config, params = load()
    tokens = passages()
    apart, _ = run_t5(
        config, params, tokens.reshape(10, 6), np.zeros((10, 1), np.int32)
    )
    want_encoded = np.asarray(apart).reshape(2, 30, -1)
    encoded, mask, logits = run(config, params, tokens, INPUTS)
    where = tokens.reshape(2, 30) > 0
    np.testing.assert_array_equal(mask, where)
    np.testing.assert_allclose(encoded[where], want_encoded[where], atol=ATOL)
    # Only tokens count: of each question alone, without slots between them.
    together, length = np.zeros((2, 17, 16), np.float32), where.sum(axis=1)
    for place in range(2):
        together[place, : length[place]] = want_encoded[place][where[place]]
    is_token = (np.arange(17) < length[:, None]).astype(np.int32)
    decode = jax.jit(t5.decode, static_argnums=1)
    want = decode(params, config, together, is_token, INPUTS)
    np.testing.assert_allclose(logits, want, atol=ATOL)


@pytest.mark.parametrize("passages_at_once", [2, 9])
def test_chunks_change_nothing(passages_at_once):
    config, params = load()
    want = run(config, params, passages(), INPUTS)
    got = run(config, params, passages(), INPUTS, passages_at_once=passages_at_once)
    where = np.asarray(want[1])
    np.testing.assert_array_equal(got[1], where)
    np.testing.assert_allclose(got[0][where], want[0][where], atol=ATOL)
    np.testing.assert_allclose(got[2], want[2], atol=ATOL)


def test_the_order_of_passages_does_not_matter_to_the_decoder():
    config, params = load()
    _, _, want = run(config, params, passages(), INPUTS)
    _, _, logits = run(config, params, passages()[:, [4, 2, 0, 3, 1]], INPUTS)
    np.testing.assert_allclose(logits, want, atol=ATOL)


def loss(params, config, tokens, passages_at_once=None):
    encoded, mask = fid.encode(
        params, config, tokens, passages_at_once=passages_at_once
    )
    logits = fid.decode(params, config, encoded, mask, INPUTS)
    return -jnp.mean(jax.nn.log_softmax(logits)[..., 3])


grad = jax.jit(jax.grad(loss), static_argnums=(1, 3))


def test_chunks_take_less_memory_and_have_the_same_gradients():
    config, params = load_one_layer()
    tokens = np.random.default_rng(0).integers(3, 200, (2, 16, 12)).astype(np.int32)
    tokens[0, 3:5] = 0
    tokens[1] = 0  # A question without any passage: finite all the same.
    whole, chunked = (
        grad.lower(params, config, tokens, passages_at_once).compile()
        for passages_at_once in (None, 3)
    )
    for left, right in zip(
        jax.tree.leaves(chunked(params, tokens)),
        jax.tree.leaves(whole(params, tokens)),
        strict=True,
    ):
        assert np.isfinite(left).all()
        np.testing.assert_allclose(left, right, atol=1e-6)
    kernel = whole(params, tokens)["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert np.abs(kernel).max() > 1e-4
    bytes_held = [
        compiled.memory_analysis().temp_size_in_bytes for compiled in (chunked, whole)
    ]
    assert bytes_held[0] < 0.5 * bytes_held[1]


def test_dropout_is_a_function_of_its_key_and_differs_between_chunks():
    config, params = load()
    config = dataclasses.replace(config, dropout_rate=0.5)
    key = functools.partial(jax.random.key, impl="unsafe_rbg")
    tokens = np.tile(passages()[:, :1], (1, 2, 1))  # One passage twice.

    @jax.jit
    def encode(key):
        encoded, mask = fid.encode(
            params, config, tokens, passages_at_once=1, dropout_key=key
        )
        return encoded, fid.decode(
            params, config, encoded, mask, INPUTS, dropout_key=key
        )

    first, again, other = encode(key(0)), encode(key(0)), encode(key(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.abs(first[0] - other[0]).max() > 0.1
    assert np.abs(first[1] - other[1]).max() > 0.1
    assert np.abs(first[0][:, :6] - first[0][:, 6:]).max() > 0.1


def test_what_is_generated_is_what_decoding_at_once_prefers():
    config, params = load()
    encoded, mask, _ = run(config, params, passages(), INPUTS)
    found = t5_decoding.generate(params, config, encoded, mask, max_tokens=3)
    inputs = np.pad(found.tokens, ((0, 0), (1, 0)))[:, :3]
    _, _, logits = run(config, params, passages(), inputs)
    np.testing.assert_array_equal(found.tokens, np.argmax(logits, axis=-1))


def test_attention_to_a_passage_is_the_mean_logit_of_its_tokens():
    config, params = load_one_layer()
    encoded, mask, _ = run(config, params, passages(), INPUTS)
    encoded, mask = np.asarray(encoded), np.asarray(mask)
    attend = jax.jit(
        fid.passage_attention, static_argnums=1, static_argnames="num_passages"
    )
    start = np.zeros((2, 1), np.int32)
    got = attend(params, config, encoded, mask, start, num_passages=5)
    # The one layer by hand: its first token attends to itself alone.
    layer = params["decoder"]["layers_0"]

    def norm(inputs, name):
        squares = np.mean(np.square(inputs), axis=-1, keepdims=True)
        return inputs / np.sqrt(squares + 1e-6) * layer[name]["scale"]

    hidden = params["token_embedder"]["embedding"][:1]
    inputs = norm(hidden, "pre_self_attention_layer_norm")
    attention = layer["self_attention"]
    hidden = hidden + inputs @ attention["value"]["kernel"] @ attention["out"]["kernel"]
    attention = layer["encoder_decoder_attention"]
    query = norm(hidden, "pre_cross_attention_layer_norm")
    query = query @ attention["query"]["kernel"]
    # A sum over heads of products is one product; the mean is a fourth of it.
    logits = encoded @ attention["key"]["kernel"] @ query[0] / 4
    for question, place in np.ndindex(2, 5):
        where = slice(6 * place, 6 * place + LENGTHS[question, place])
        want = logits[question, where].mean() if LENGTHS[question, place] else 0.0
        np.testing.assert_allclose(got[question, place], want, atol=ATOL)


@pytest.mark.parametrize("devices", [2, 8])
def test_any_number_of_devices_gives_the_same_logits(devices):
    mesh = partitioning.make_mesh(devices)
    config, params = load_one_layer()
    tokens, inputs = np.tile(passages(), (4, 1, 1)), np.tile(INPUTS, (4, 1))
    tokens[4:, 0] = 0
    want = run(config, params, tokens, inputs)[2]
    placed = jax.device_put(params, partitioning.replicated(mesh))
    batch = jax.device_put((tokens, inputs), partitioning.batch_sharding(mesh))
    encoded, _, got = run(config, placed, *batch, passages_at_once=2)
    np.testing.assert_allclose(got, want, atol=ATOL)
    assert encoded.addressable_shards[0].data.shape[0] == 8 // mesh.size
