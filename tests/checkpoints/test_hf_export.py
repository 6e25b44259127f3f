"""Which folders a retriever becomes, and which retrievers have no such form."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from art_jax.checkpoints import hf_export, huggingface, tensors
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.data import tokenizers
from art_jax.errors import ConfigError
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

TOKENIZER = tokenizers.train_wordpiece(["a passage of words"] * 2, 60)
CONFIG = BertConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=64,
    num_layers=1,
    num_heads=1,
    intermediate_size=8,
    max_positions=24,
)


def make(seed=0, config=CONFIG, **fields):
    encoder = DualEncoder(config, **fields)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
    )
    return SavedRetriever(encoder, params, TOKENIZER, 8, 24)


def limit(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())[
        "model_max_length"
    ]


def assert_tower(got, want):
    got = tensors.to_host(got)
    got.pop("pooler", None)  # of zeros, which other tools look for
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_two_towers_are_two_folders(tmp_path):
    made = make()
    hf_export.save_berts(tmp_path, made)
    assert {path.name for path in tmp_path.iterdir()} == {
        "query_encoder",
        "passage_encoder",
    }
    for side, tokens in (("query", 8), ("passage", 24)):
        folder = tmp_path / f"{side}_encoder"
        _, params = huggingface.open_bert(folder)
        assert_tower(params, made.params[side]["encoder"])
        assert limit(folder) == tokens


def test_one_tower_is_the_folder_itself(tmp_path):
    made = make(shared=True, pooling="mean", normalize=True)
    hf_export.save_berts(tmp_path, made)
    _, params = huggingface.open_bert(tmp_path)
    assert_tower(params, made.params["shared"]["encoder"])
    assert limit(tmp_path) == 24


@pytest.mark.parametrize("shared", [False, True])
def test_dprs_classes_get_their_encoders(tmp_path, shared):
    made = make(shared=shared, projection_dim=5)
    hf_export.save_dpr(tmp_path, made)
    for side, name, tokens in (
        ("query", "question_encoder", 8),
        ("passage", "ctx_encoder", 24),
    ):
        _, projection_dim, tower = huggingface.open_dpr(tmp_path / name)
        want = made.params["shared" if shared else side]
        assert projection_dim == 5
        assert_tower(tower["encoder"], want["encoder"])
        assert_tower(tower["projection"], want["projection"])
        assert limit(tmp_path / name) == tokens


PRE_LN = dataclasses.replace(CONFIG, pre_layer_norm=True, embedding_layer_norm=False)


@pytest.mark.parametrize(
    ("save", "fields", "message"),
    [
        ("save_berts", {"pooling": "weighted_mean"}, "has learned pooling weights"),
        ("save_berts", {"projection_dim": 4}, "has a projection"),
        ("save_dpr", {"pooling": "mean"}, "has pooling 'mean' in place of 'cls'"),
        ("save_dpr", {"normalize": True}, "divided by their lengths"),
        ("save_dpr", {"config": PRE_LN}, "has pre-LN blocks"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, save, fields, message):
    with pytest.raises(ConfigError, match=message):
        getattr(hf_export, save)(tmp_path, make(**fields))
    assert not list(tmp_path.iterdir())


def test_a_pre_ln_tower_is_a_megatron_bert(tmp_path):
    hf_export.save_berts(tmp_path, make(config=PRE_LN, shared=True))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model_type"] == "megatron-bert"
