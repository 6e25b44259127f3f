"""Files that say what they are, fitted to the encoder that training asks for."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import pretrained, tensors
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

CONFIG = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=8,
    max_positions=16,
)
MESH = partitioning.make_mesh(2)


@functools.cache
def init(encoder, seed):
    return jax.jit(encoder.init)(jax.random.key(seed))


def in_files(tree):
    return jax.tree.map(lambda leaf: tensors.from_array(np.asarray(leaf)), tree)


def make_found(seed=0, two=False, **fields):
    encoder = DualEncoder(
        fields.get("config", CONFIG),
        fields.get("pooling") or "cls",
        shared=True,
        projection_dim=fields.get("projection_dim", 0),
    )
    towers = init(encoder, seed)
    if two:
        other = init(encoder, seed + 1)
        towers = {"query": towers["shared"], "passage": other["shared"]}
    return PretrainedRetriever(
        **{"format": "a test", "config": CONFIG, "towers": in_files(towers), **fields}
    )


def load(found, encoder, key=None):
    return pretrained.load_params(found, encoder, MESH, "there", key=key)


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, tensors.to_host(want))


def test_the_encoder_is_what_the_files_say():
    found = make_found(two=True, pooling="mean", normalize=True, projection_dim=4)
    want = DualEncoder(CONFIG, "mean", shared=False, projection_dim=4, normalize=True)
    assert pretrained.encoder_of(found) == want
    silent = make_found()
    assert pretrained.encoder_of(silent) == DualEncoder(CONFIG, "cls", shared=True)
    assert pretrained.encoder_of(silent, pooling="mean").pooling == "mean"


def test_every_array_is_on_every_device_in_float32():
    found = make_found(two=True)
    halves = jax.tree.map(
        lambda leaf: tensors.from_array(np.asarray(leaf).astype(np.float16)),
        found.towers["query"],
    )
    found = dataclasses.replace(found, towers={**found.towers, "query": halves})
    params = load(found, pretrained.encoder_of(found))
    assert_equal(params, found.towers)
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == "float32"
        assert leaf.sharding == partitioning.replicated(MESH)


def test_one_tower_becomes_two_equal_ones():
    found = make_found()
    encoder = pretrained.fit_encoder(found, DualEncoder(CONFIG, "mean"), "there")
    assert encoder == DualEncoder(CONFIG, "mean")
    params = load(found, encoder, key=jax.random.key(9))
    assert_equal(params["query"], found.towers["shared"])
    assert_equal(params["passage"], found.towers["shared"])


def test_two_towers_do_not_become_one():
    with pytest.raises(ConfigError, match=r"set DualEncoder.shared to False"):
        pretrained.fit_encoder(
            make_found(two=True), DualEncoder(CONFIG, shared=True), "there"
        )


def test_what_the_files_say_of_their_use_counts():
    found = make_found(pooling="mean", normalize=True, projection_dim=4)
    wanted = DualEncoder(CONFIG, "cls", shared=True, projection_dim=6)
    encoder = pretrained.fit_encoder(found, wanted, "there")
    assert (encoder.pooling, encoder.normalize, encoder.projection_dim) == (
        "mean",
        True,
        4,
    )
    silent = make_found()
    wanted = DualEncoder(CONFIG, "mean", True, projection_dim=6, normalize=True)
    assert pretrained.fit_encoder(silent, wanted, "there") == wanted


def test_how_to_train_is_up_to_the_encoder_that_was_asked_for():
    held = dataclasses.replace(
        CONFIG, layer_norm_eps=1e-5, type_vocab_size=3, dropout_rate=0.1
    )
    asked = dataclasses.replace(
        CONFIG, vocab_size=99, dropout_rate=0.3, dtype="bfloat16", remat=True
    )
    found = make_found(config=held)
    encoder = pretrained.fit_encoder(found, DualEncoder(asked), "there")
    assert encoder.config == dataclasses.replace(
        asked, vocab_size=20, layer_norm_eps=1e-5, type_vocab_size=3
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 12),
        ("num_layers", 2),
        ("num_heads", 4),
        ("intermediate_size", 16),
        ("max_positions", 32),
        ("pre_layer_norm", True),
        ("embedding_layer_norm", False),
        ("use_positions", False),
        ("head_dim", 8),
    ],
)
def test_another_size_or_form_is_named(field, value):
    asked = DualEncoder(dataclasses.replace(CONFIG, **{field: value}))
    name = "width_of_head" if field == "head_dim" else field
    with pytest.raises(ConfigError, match=f"there .a test. holds .* its {name} is"):
        pretrained.fit_encoder(make_found(), asked, "there")


def test_a_new_projection_is_drawn_and_the_rest_is_the_files():
    found = make_found()
    wanted = DualEncoder(CONFIG, "weighted_mean", True, projection_dim=3)
    encoder = pretrained.fit_encoder(found, wanted, "there")
    params = load(found, encoder, key=jax.random.key(7))
    assert_equal(params["shared"]["encoder"], found.towers["shared"]["encoder"])
    fresh = init(encoder, 7)
    for part in ("projection", "pooling"):
        assert_equal(params["shared"][part], in_files(fresh["shared"][part]))
    with pytest.raises(CorruptError, match=r"nothing of \['pooling', 'projection'\]"):
        load(found, encoder)


def test_a_pooler_nobody_asked_for_is_left_in_its_file():
    config = dataclasses.replace(CONFIG, add_pooler=True)
    found = make_found(config=config)
    kept = load(found, pretrained.encoder_of(found))
    assert "pooler" in kept["shared"]["encoder"]
    encoder = pretrained.fit_encoder(found, DualEncoder(CONFIG, shared=True), "there")
    assert "pooler" not in load(found, encoder)["shared"]["encoder"]


def test_arrays_of_other_shapes_than_their_config_are_corrupt():
    found = make_found()
    wide = dataclasses.replace(CONFIG, vocab_size=21)
    found = dataclasses.replace(found, config=wide)
    with pytest.raises(CorruptError, match="token_embedder/embedding"):
        load(found, pretrained.encoder_of(found))


def test_an_array_that_is_gone_is_never_drawn_anew():
    found = make_found()
    encoder = dict(found.towers["shared"]["encoder"])
    del encoder["embedding_norm"]
    found = dataclasses.replace(found, towers={"shared": {"encoder": encoder}})
    with pytest.raises(CorruptError, match="embedding_norm.*missing"):
        load(found, pretrained.encoder_of(found), key=jax.random.key(0))


def test_question_towers_start_from_the_one_there_is():
    found = make_found(two=True)
    wanted = DualEncoder(CONFIG, query_towers=("a", "b", "c"))
    encoder = pretrained.fit_encoder(found, wanted, "there")
    assert encoder.query_towers == ("a", "b", "c")
    params = load(found, encoder)
    want = tensors.to_host(found.towers["query"])
    for tower in range(3):
        part = jax.tree.map(lambda leaf: leaf[tower], params["query"])  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, part, want)
    assert_equal(params["passage"], found.towers["passage"])


def test_question_towers_of_files_are_kept_as_they_are():
    encoder = DualEncoder(CONFIG, query_towers=("a", "b"), query_token_id=4)
    params = init(encoder, 0)
    found = make_found(
        towers=in_files(params), query_towers=("a", "b"), query_token_id=4
    )
    assert pretrained.encoder_of(found) == encoder
    wanted = dataclasses.replace(encoder, query_token_id=None)
    assert pretrained.fit_encoder(found, wanted, "there") == encoder
    assert_equal(load(found, encoder), params)
    for towers in ((), ("b", "a")):
        other = dataclasses.replace(encoder, query_towers=towers)
        with pytest.raises(ConfigError, match="has question towers a, b, not"):
            pretrained.fit_encoder(found, other, "there")
