"""Where a T5's weights go, and which T5s are not the one asked for."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import t5_params
from art_jax.errors import ConfigError
from art_jax.models import t5

CONFIG = t5.T5Config(
    vocab_size=8,
    emb_dim=4,
    num_heads=2,
    head_dim=2,
    mlp_dim=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(t5.init_params(CONFIG, jax.random.key(0)))


def test_weights_are_split_over_the_model_axis_and_stay_what_they_are(params):
    mesh = partitioning.make_mesh(4, model_parallelism=2)
    placed = t5_params.place_params(params, CONFIG, mesh, "float32")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(placed), params)
    embedding = placed["token_embedder"]["embedding"]
    assert embedding.sharding.shard_shape(embedding.shape) == (4, 4)


def test_an_axis_that_divides_no_head_is_refused(params):
    mesh = partitioning.make_mesh(8, model_parallelism=8)
    with pytest.raises(ConfigError, match=r"MODEL_PARALLELISM 8 .* heads, 2\."):
        t5_params.place_params(params, CONFIG, mesh, "float32")


def test_another_t5_is_named_by_what_differs():
    free = dataclasses.replace(CONFIG, dropout_rate=0.5, dtype="float32", remat=True)
    t5_params.require_same_sizes(CONFIG, free, "here", "mine")
    other = dataclasses.replace(CONFIG, mlp_dim=9, num_heads=1)
    with pytest.raises(
        ConfigError,
        match="here holds another T5 than mine: its num_heads is 2, not 1, its mlp_dim "
        "is 4, not 9",
    ):
        t5_params.require_same_sizes(CONFIG, other, "here", "mine")
