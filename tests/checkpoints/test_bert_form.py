"""A BERT given the parts that other tools expect computes the same, and comes back."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax.checkpoints import bert_form, tensors
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert

# One head of width 4 where BertModel wants four; neither positions nor types.
BARE = bert.BertConfig(
    vocab_size=11,
    hidden_size=16,
    num_layers=2,
    num_heads=1,
    head_dim=4,
    intermediate_size=8,
    max_positions=12,
    type_vocab_size=0,
    pre_layer_norm=True,
    embedding_layer_norm=False,
    use_positions=False,
    initializer_range=0.5,
)
TOKENS = np.array([[2, 3, 4, 5], [2, 6, 0, 0]], np.int32)


def random_params(config, seed=0):
    """Parameters without a zero or a one."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        bert.param_shapes(config),
    )


def run(config, params):
    encoder = bert.BertEncoder(config)
    hidden = encoder.apply({"params": params}, TOKENS, jnp.asarray(TOKENS != 0))
    return np.asarray(hidden)[TOKENS != 0]


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def unread(params):
    return jax.tree.map(tensors.from_array, params)


def test_what_is_added_changes_no_output():
    params = random_params(BARE)
    config, published = bert_form.published_form(BARE, params)
    assert config == dataclasses.replace(
        BARE,
        num_heads=4,
        head_dim=None,
        type_vocab_size=2,
        use_positions=True,
        add_pooler=True,
    )
    shapes = bert.param_shapes(config)
    assert jax.tree.map(np.shape, published) == jax.tree.map(lambda x: x.shape, shapes)
    # Sums over more zeros may be taken in another order: a few last bits.
    np.testing.assert_allclose(run(config, published), run(BARE, params), rtol=2e-5)


def test_a_bert_that_has_all_of_it_is_left_alone():
    config = dataclasses.replace(
        BARE,
        num_heads=4,
        head_dim=None,
        type_vocab_size=2,
        use_positions=True,
        add_pooler=True,
    )
    params = random_params(config)
    published_config, published = bert_form.published_form(config, params)
    assert published_config == config
    assert_equal(published, params)
    assert bert_form.form_changes(config, published_config) == {}


@hypothesis.given(
    num_heads=st.integers(1, 3),
    head_dim=st.sampled_from([None, 2, 4]),
    types=st.sampled_from([0, 1, 3]),
    positions=st.booleans(),
    pooler=st.booleans(),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_every_form_comes_back_bit_for_bit(
    num_heads, head_dim, types, positions, pooler
):
    config = dataclasses.replace(
        BARE,
        hidden_size=12,
        num_layers=1,
        num_heads=num_heads,
        head_dim=head_dim,
        type_vocab_size=types,
        use_positions=positions,
        add_pooler=pooler,
    )
    params = random_params(config)
    published_config, published = bert_form.published_form(config, params)
    changes = bert_form.form_changes(config, published_config)
    own_config, own = bert_form.own_form(
        published_config, unread(published), changes, "it"
    )
    assert own_config == config
    assert_equal(own, params)
    # Parts of an unread part are the right ones too.
    kernel = own["layers_0"]["attention"]["out"]["kernel"]
    want = params["layers_0"]["attention"]["out"]["kernel"]
    np.testing.assert_array_equal(
        kernel.read((slice(1, 2), slice(0, 3))), want[1:2, 0:3]
    )


@pytest.mark.parametrize(
    "path",
    [
        ("position_embedder", "embedding"),
        ("type_embedder", "embedding"),
        ("layers_1", "attention", "key", "kernel"),
        ("layers_1", "attention", "value", "bias"),
        ("layers_0", "attention", "out", "kernel"),
    ],
    ids="/".join,
)
def test_what_somebody_trained_is_kept(path):
    published_config, published = bert_form.published_form(BARE, random_params(BARE))
    changes = bert_form.form_changes(BARE, published_config)
    *parents, leaf = path
    node = published
    for name in parents:
        node = node[name]
    node[leaf] = node[leaf].copy()
    node[leaf].flat[-1] = 1e-8
    config, params = bert_form.own_form(published_config, published, changes, "it")
    assert config == published_config
    assert_equal(params, published)


@pytest.mark.parametrize(
    ("pre_layer_norm", "embedding_layer_norm"), [(True, True), (False, False)]
)
def test_a_form_that_nobody_else_has_is_refused(pre_layer_norm, embedding_layer_norm):
    config = dataclasses.replace(
        BARE, pre_layer_norm=pre_layer_norm, embedding_layer_norm=embedding_layer_norm
    )
    with pytest.raises(ConfigError, match="MegatronBertModel"):
        bert_form.published_form(config, random_params(config))


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 5), (3, 8)])
def test_heads_that_do_not_fit_are_refused(num_heads, head_dim):
    config = dataclasses.replace(BARE, num_heads=num_heads, head_dim=head_dim)
    with pytest.raises(ConfigError, match="fill hidden_size"):
        bert_form.published_form(config, random_params(config))


@pytest.mark.parametrize(
    "changes",
    [
        [],
        {"vocab_size": 3},
        {"num_heads": 0, "head_dim": 4},
        {"num_heads": 5, "head_dim": 4},
        {"num_heads": True, "head_dim": 4},
        {"num_heads": 1},
        {"num_heads": 1, "head_dim": 8},
        {"head_dim": 0},
        {"type_vocab_size": 1},
        {"use_positions": True},
        {"use_positions": 0},
    ],
    ids=str,
)
def test_changes_of_no_such_model_are_refused(changes):
    config, published = bert_form.published_form(BARE, random_params(BARE))
    with pytest.raises(CorruptError, match="config.json: its art_jax_form"):
        bert_form.own_form(config, published, changes, "config.json")
