"""A path's format is told from its files."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from art_jax.checkpoints import formats, tensors
from art_jax.errors import ConfigError, CorruptError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("hf/t5_v1_1", "Hugging Face T5ForConditionalGeneration"),
        ("hf/t5_v1_0", "Hugging Face T5ForConditionalGeneration"),
        ("t5x/v1_1_f32/checkpoint_1234", "T5X checkpoint_1234"),
        ("t5x/v1_1_f32", "T5X checkpoint_1234"),
        ("t5x/v1_0_orbax_f32", "T5X checkpoint_1234"),
        ("t5x/v1_1_scan_f32/checkpoint_1234", "T5X checkpoint_1234"),
    ],
)
def test_a_t5_is_recognised(path, format):
    assert formats.is_t5(GOLDEN / path)
    found = formats.open_t5(GOLDEN / path, dtype="float32")
    assert (found.format, found.config.dtype) == (format, "float32")
    assert found.config.vocab_size == 272
    assert found.vocabulary is None
    table = np.asarray(found.params["token_embedder"]["embedding"])
    assert table.shape == (272, 16)
    with pytest.raises(ConfigError, match="holds a T5, where a retriever"):
        formats.open_retriever(GOLDEN / path)


@pytest.mark.parametrize(
    ("path", "words", "pooling"),
    [
        ("hf/bert", "Hugging Face BertModel", None),
        ("hf/bert_pytorch_bin", "Hugging Face BertModel", None),
        ("hf/dpr_question_encoder", "Hugging Face DPR encoder", "cls"),
        ("hf/dpr_ctx_encoder", "Hugging Face DPR encoder", "cls"),
    ],
)
def test_a_bert_is_recognised(path, words, pooling):
    assert not formats.is_t5(GOLDEN / path)
    found = formats.open_retriever(GOLDEN / path)
    assert words in found.format
    assert found.pooling == pooling
    assert found.is_shared
    leaves = jax.tree.leaves(found.towers)
    assert all(isinstance(leaf, tensors.FileTensor) for leaf in leaves)
    with pytest.raises(ConfigError, match="holds no T5 but a retriever or a BERT"):
        formats.open_t5(GOLDEN / path)


def test_two_encoders_in_one_folder_are_two_towers(tmp_path):
    for name in ("dpr_question_encoder", "bert"):
        shutil.copytree(GOLDEN / "hf" / name, tmp_path / name)
    shutil.copytree(GOLDEN / "hf/dpr_question_encoder", tmp_path / "question_encoder")
    (tmp_path / "pair").mkdir()
    for name in ("query_encoder", "passage_encoder"):
        shutil.copytree(GOLDEN / "hf" / "bert", tmp_path / "pair" / name)
    found = formats.open_retriever(tmp_path / "pair")
    assert found.towers.keys() == {"query", "passage"}


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.txt"])
def test_what_is_nothing_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("weights")
    for call in (formats.open_retriever, formats.open_t5):
        with pytest.raises((ConfigError, CorruptError), match=name):
            call(tmp_path / name)


def test_what_can_be_read_is_said_where_nothing_was_recognised(tmp_path):
    with pytest.raises(ConfigError) as caught:
        formats.open_retriever(tmp_path)
    for word in ("Hugging Face", "sentence-transformers", "T5X", "Megatron", "DPR"):
        assert word in str(caught.value)


def test_a_damaged_config_is_left_to_its_reader(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptError, match=r"config\.json"):
        formats.open_retriever(tmp_path)
