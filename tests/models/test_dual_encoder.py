import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.checkpoints import huggingface, tensors
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError
from art_jax.models import dual_encoder
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
WEIGHTS = json.loads(
    (pathlib.Path(__file__).parent / "weights.json").read_text(encoding="utf-8")
)

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=12,
    max_positions=10,
    initializer_range=0.5,
    pre_layer_norm=True,
    embedding_layer_norm=False,
)
TOKENS = np.array(
    [[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 9, 9, 30, 41, 3]], np.int32
)
# Where what is tested comes after the encoder.
NO_LAYERS = dataclasses.replace(CONFIG, num_layers=0)
POOLINGS = pytest.mark.parametrize("pooling", dual_encoder.POOLINGS)

encode_query_jitted = jax.jit(DualEncoder.encode_query, static_argnums=0)
encode_passage_jitted = jax.jit(DualEncoder.encode_passage, static_argnums=0)

# Programs that draw with it compile faster than those of the default generator.
cheap_key = functools.partial(jax.random.key, impl="unsafe_rbg")


def encode_query(encoder, params, tokens, key=None):
    return np.asarray(encode_query_jitted(encoder, params, tokens, key=key))


def encode_passage(encoder, params, tokens):
    return np.asarray(encode_passage_jitted(encoder, params, tokens))


def hidden_states(config, params, tokens):
    apply = jax.jit(dual_encoder.BertEncoder(config).apply)
    return np.asarray(apply({"params": params}, tokens, tokens != 0))


@functools.cache
def built(pooling, config=NO_LAYERS, **fields):
    """An encoder and parameters of which none is zero or one."""
    encoder = DualEncoder(config, pooling=pooling, **fields)
    leaves, treedef = jax.tree.flatten(jax.eval_shape(encoder.init, cheap_key(0)))
    rng = np.random.default_rng(0)
    leaves = [rng.normal(0, 0.5, x.shape).astype(x.dtype) for x in leaves]
    return encoder, treedef.unflatten(leaves)


@pytest.mark.parametrize(
    ("name", "side"), [("question_encoder", "query"), ("ctx_encoder", "passage")]
)
def test_embeddings_are_those_of_dpr(name, side):
    config, projection_dim, tower = huggingface.open_dpr(GOLDEN / f"dpr_{name}")
    params = {side: tensors.to_host(tower)}
    encoder = DualEncoder(config, projection_dim=projection_dim)
    golden = np.load(GOLDEN / f"dpr_{name}.npz")
    # DPR's towers never see a token of type 1 in use; the file has rows that do.
    rows = ~golden["token_type_ids"].any(axis=1)
    assert rows.any()
    encode = encode_query if side == "query" else encode_passage
    got = encode(encoder, params, golden["input_ids"][rows].astype(np.int32))
    want = golden["pooler_output"][rows]
    assert got.shape[1] == encoder.width == want.shape[1]
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


@POOLINGS
def test_padding_and_neighbours_change_nothing(pooling):
    encoder, params = built(pooling)
    together = encode_passage(encoder, params, TOKENS)
    alone = encode_passage(encoder, params, TOKENS[1:2, :3])
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "want"),
    [([1, 1, 0], [2.0, 3.0]), ([3, 1, 0], [1.5, 2.5]), ([0, 0, 0], [0.0, 0.0])],
)
def test_weighted_mean_by_hand(weights, want):
    hidden = np.array([[[1.0, 2.0], [3.0, 4.0], [50.0, 9.0]]], np.float32)
    weights = np.array([weights], np.float32)
    got = jax.jit(dual_encoder.weighted_mean)(hidden, weights)
    np.testing.assert_allclose(got, [want])


def test_cls_is_the_first_token_and_mean_leaves_padding_out():
    cls, params = built("cls")
    mean = dataclasses.replace(cls, pooling="mean")
    tokens = TOKENS[:1]
    hidden = hidden_states(NO_LAYERS, params["query"]["encoder"], tokens)
    got = encode_query(cls, params, tokens)
    np.testing.assert_allclose(got, hidden[:, 0], atol=1e-6, rtol=1e-6)
    want = (hidden[0, 0] + hidden[0, 1] + hidden[0, 2] + hidden[0, 3]) / 4
    got = encode_query(mean, params, tokens)
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-6)


def test_weighted_mean_starts_as_the_mean_and_learns_both_weights():
    weighted = DualEncoder(NO_LAYERS, pooling="weighted_mean", shared=True)
    mean = dataclasses.replace(weighted, pooling="mean")
    tower = built("weighted_mean", shared=True)[1]["shared"]
    at_start = jax.tree.map(np.zeros_like, tower["pooling"])
    params = {"shared": {**tower, "pooling": at_start}}
    np.testing.assert_allclose(
        encode_query(weighted, params, TOKENS),
        encode_query(mean, params, TOKENS),
        rtol=1e-5,
        atol=1e-6,
    )
    target = np.ones((3, 8), np.float32)

    def loss(params):
        vectors = weighted.encode_query(params, TOKENS)
        return jnp.sum(jnp.square(vectors - target))

    grads = jax.jit(jax.grad(loss))(params)["shared"]["pooling"]
    by_token = np.asarray(grads["token_weights"]["embedding"])[:, 0]
    assert set(np.flatnonzero(by_token)) == set(np.unique(TOKENS)) - {0}
    assert np.abs(grads["hidden_weights"]["kernel"]).min() > 0


def test_weights_of_tokens_are_softplus_of_both_terms():
    encoder, params = built("weighted_mean")
    tower = params["query"]
    tokens = TOKENS[:1, :4]
    hidden = np.asarray(hidden_states(NO_LAYERS, tower["encoder"], tokens))[0]
    table = np.asarray(tower["pooling"]["token_weights"]["embedding"])[:, 0]
    kernel = np.asarray(tower["pooling"]["hidden_weights"]["kernel"])[:, 0]
    weights = np.log1p(np.exp(table[np.asarray(tokens[0])] + hidden @ kernel))
    want = weights @ hidden / weights.sum()
    got = encode_query(encoder, params, tokens)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True], ids=["two towers", "one tower"])
def test_sides_use_their_own_tower(shared):
    encoder, params = built("mean", shared=shared)
    assert set(params) == ({"shared"} if shared else {"query", "passage"})
    query = encode_query(encoder, params, TOKENS)
    passage = encode_passage(encoder, params, TOKENS)
    assert (np.abs(query - passage).max() < 1e-6) == shared
    moved = {**params}
    moved["shared" if shared else "query"] = jax.tree.map(
        lambda x: x + 1, query_of(params)
    )
    assert np.abs(encode_query(encoder, moved, TOKENS) - query).max() > 0.01
    unmoved = encode_passage(encoder, moved, TOKENS)
    assert (np.abs(unmoved - passage).max() > 0.01) == shared


def query_of(params):
    return params.get("shared", params.get("query"))


def test_towers_start_equal_in_arrays_of_their_own():
    encoder = DualEncoder(NO_LAYERS, pooling="weighted_mean", projection_dim=4)
    params = encoder.init(cheap_key(0))
    jax.tree.map(np.testing.assert_array_equal, params["query"], params["passage"])
    # So that the weighted mean starts as the mean.
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["query"]["pooling"]))
    # A training step donates its state, and a buffer cannot be donated twice.
    doubled = jax.jit(lambda x: jax.tree.map(lambda y: 2 * y, x), donate_argnums=0)
    jax.block_until_ready(doubled(params))


def test_projection_and_unit_length():
    encoder, params = built("mean", projection_dim=4, normalize=True)
    vectors = encode_query(encoder, params, TOKENS)
    assert vectors.shape == (3, encoder.width) == (3, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    plain = encode_query(dataclasses.replace(encoder, normalize=False), params, TOKENS)
    want = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, want, rtol=1e-5, atol=1e-6)


def test_the_length_of_a_zero_vector_has_a_finite_gradient():
    def loss(vectors):
        return jnp.sum(dual_encoder.unit_length(vectors))

    value, grad = jax.jit(jax.value_and_grad(loss))(np.zeros((1, 3), np.float32))
    assert value == 0
    assert np.isfinite(grad).all()


def test_works_under_jit_of_vmap_and_eval_shape():
    encoder, params = built("weighted_mean")
    want = encode_query(encoder, params, TOKENS)
    mapped = jax.vmap(encoder.encode_query, in_axes=(None, 0))
    got = jax.jit(mapped)(params, TOKENS[:, None])
    np.testing.assert_allclose(got[:, 0], want, atol=1e-6, rtol=1e-6)
    shape = jax.eval_shape(encoder.encode_passage, params, TOKENS)
    assert (shape.shape, shape.dtype) == ((3, 8), jnp.float32)


def test_embeddings_are_float32_from_a_bfloat16_encoder():
    encoder, params = built("weighted_mean")
    low = dataclasses.replace(
        encoder, config=dataclasses.replace(NO_LAYERS, dtype="bfloat16")
    )
    vectors = encode_query(low, params, TOKENS)
    assert vectors.dtype == jnp.float32
    error = np.abs(vectors - encode_query(encoder, params, TOKENS))
    assert 0 < error.max() < 0.1


def test_dropout_is_a_function_of_the_key():
    encoder, params = built("mean")
    drop = functools.partial(encode_query, encoder, params, TOKENS)
    first = drop(key=cheap_key(0))
    np.testing.assert_array_equal(first, drop(key=cheap_key(0)))
    assert np.abs(first - drop(key=cheap_key(1))).max() > 0.01
    assert np.abs(first - drop()).max() > 0.01
    np.testing.assert_array_equal(drop(), drop())


def test_pad_id_is_the_one_given():
    encoder, params = built("mean")
    other = dataclasses.replace(encoder, pad_id=49)
    np.testing.assert_array_equal(
        encode_query(other, params, np.where(TOKENS == 0, 49, TOKENS))[2],
        encode_query(encoder, params, TOKENS)[2],
    )
    short = encode_query(other, params, np.array([[2, 8, 3, 49]]))
    want = encode_query(encoder, params, np.array([[2, 8, 3, 0]]))
    np.testing.assert_array_equal(short, want)


def test_names_and_shapes_of_weights_are_on_file():
    encoder = DualEncoder(CONFIG, pooling="weighted_mean", projection_dim=4)
    shapes = shapes_by_path(jax.eval_shape(encoder.init, cheap_key(0)))
    want = {path: tuple(shape) for path, shape in WEIGHTS["dual_encoder"].items()}
    assert shapes == want


def test_an_unknown_pooling_is_an_error():
    with pytest.raises(ConfigError, match="'max'.*cls, mean, weighted_mean"):
        DualEncoder(CONFIG, pooling="max")


def test_token_importance_is_what_the_weighted_mean_counts_by():
    encoder = DualEncoder(
        BertConfig(vocab_size=6, hidden_size=8, num_layers=1, num_heads=1),
        "weighted_mean",
    )
    importance = jnp.array([0.0, 0.5, 1.0, 2.0, 7.0, 0.0])
    params = dual_encoder.with_token_importance(
        encoder.init(jax.random.key(0)), importance
    )
    for tower in params.values():
        weights = jax.nn.softplus(tower["pooling"]["token_weights"]["embedding"])
        np.testing.assert_allclose(weights[:, 0], importance, atol=2e-6)


def test_token_importance_needs_a_weighted_mean():
    encoder = DualEncoder(
        BertConfig(vocab_size=6, hidden_size=8, num_layers=1, num_heads=1), "mean"
    )
    with pytest.raises(ConfigError, match="weighted_mean"):
        dual_encoder.with_token_importance(encoder.init(jax.random.key(0)), jnp.ones(6))


def test_questions_go_through_one_of_several_towers():
    single, params = built("cls", projection_dim=3)
    _, other = built("cls", projection_dim=3, normalize=True)
    encoder = dataclasses.replace(single, query_towers=("a", "b"))
    stack = jax.tree.map(lambda *x: np.stack(x), other["query"], params["passage"])
    params = {**params, "query": stack}
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(encoder.init, cheap_key(0)))
    assert shapes == jax.tree.map(jnp.shape, params)

    @jax.jit
    def loss(params, tower):
        return encoder.encode_query(params, TOKENS, tower=tower)[:, 0].sum()

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    for number, name in enumerate(encoder.query_towers):
        tower = {**params, "query": jax.tree.map(lambda x: x[number], stack)}  # noqa: B023
        got_encoder, got = encoder.with_tower(params, name)
        assert got_encoder == single
        jax.tree.map(np.testing.assert_array_equal, got, tower)
        value, grads = value_and_grad(params, np.int32(number))
        want = encode_query(single, tower, TOKENS)[:, 0].sum()
        np.testing.assert_allclose(value, want, rtol=1e-6)
        for leaf in jax.tree.leaves(grads["query"]):
            assert not leaf[1 - number].any()
        assert grads["query"]["projection"]["kernel"][number].any()
    assert value_and_grad._cache_size() == 1
    with pytest.raises(ConfigError, match="question towers a, b, and nothing says"):
        encoder.encode_query(params, TOKENS)
    with pytest.raises(ConfigError, match="no question tower 'c': choose of a, b"):
        encoder.with_tower(params, "c")


def test_towers_of_a_new_retriever_start_equal():
    encoder = DualEncoder(NO_LAYERS, query_towers=("a", "b", "c"))
    params = encoder.init(cheap_key(0))
    for many, one in zip(
        jax.tree.leaves(params["query"]),
        jax.tree.leaves(params["passage"]),
        strict=True,
    ):
        for tower in many:
            np.testing.assert_array_equal(tower, one)


def test_a_question_may_be_read_off_at_a_token():
    encoder, params = built("cls")
    states = hidden_states(NO_LAYERS, params["query"]["encoder"], TOKENS)
    at_nine = dataclasses.replace(encoder, query_token_id=9)
    # Rows have a 9 at place 2, at none, and first at place 1.
    want = states[np.arange(3), [2, 0, 1]]
    np.testing.assert_allclose(encode_query(at_nine, params, TOKENS), want, rtol=1e-6)
    np.testing.assert_array_equal(
        encode_passage(at_nine, params, TOKENS), encode_passage(encoder, params, TOKENS)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shared": True, "query_towers": ["a"]}, "choose one of the two"),
        ({"query_towers": ["a", "a"]}, "each needs a name of its own"),
        ({"query_token_id": 1, "pooling": "mean"}, "with pooling 'cls', not 'mean'"),
    ],
)
def test_towers_that_make_no_sense(fields, message):
    with pytest.raises(ConfigError, match=message):
        DualEncoder(CONFIG, **fields)
