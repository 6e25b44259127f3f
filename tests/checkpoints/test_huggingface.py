import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from art_jax.checkpoints import huggingface
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"


def read(name):
    return safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")


@pytest.fixture
def copy(tmp_path):
    """Copies a golden model, with tensors and settings changed."""

    def make(name, tensors=None, drop=(), **settings):
        shutil.copytree(GOLDEN / name, tmp_path / name)
        config = json.loads((GOLDEN / name / "config.json").read_text())
        config = {k: v for k, v in {**config, **settings}.items() if k not in drop}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        if tensors is not None:
            safetensors.numpy.save_file(
                tensors, str(tmp_path / name / "model.safetensors")
            )
        return tmp_path / name

    return make


def weights_of(name):
    if name == "bert":
        config, params = huggingface.load_bert(GOLDEN / name)
        return huggingface.bert_weights(config), params
    if name.startswith("dpr"):
        config, projection_dim, params = huggingface.load_dpr(GOLDEN / name)
        encoder = name.removeprefix("dpr_")
        return huggingface.dpr_weights(config, projection_dim, encoder), params
    config, params = huggingface.load_t5(GOLDEN / name)
    return huggingface.t5_weights(config), params


@pytest.mark.parametrize(
    "name", ["bert", "dpr_question_encoder", "dpr_ctx_encoder", "t5_v1_1", "t5_v1_0"]
)
def test_every_tensor_comes_in_and_goes_out_under_its_name(name):
    weights, params = weights_of(name)
    tensors = huggingface.to_tensors(weights, params)
    want = read(name)
    assert tensors.keys() == want.keys()
    for key, tensor in want.items():
        np.testing.assert_array_equal(tensors[key], tensor)
        # safetensors writes an array's memory as it lies, whatever its strides.
        assert tensors[key].flags.c_contiguous
    assert len(shapes_by_path(params)) == len(want)


def test_kernels_are_transposed_and_tables_are_not():
    _, params = weights_of("bert")
    tensors = read("bert")
    np.testing.assert_array_equal(
        params["layers_1"]["mlp"]["wi"]["kernel"],
        tensors["encoder.layer.1.intermediate.dense.weight"].T,
    )
    np.testing.assert_array_equal(
        params["token_embedder"]["embedding"],
        tensors["embeddings.word_embeddings.weight"],
    )


def test_the_bert_inside_a_model_with_a_head_is_found(copy):
    # As transformers' older releases and TensorFlow's converter wrote it: under
    # "bert.", with gamma and beta, without pooler, with a head.
    tensors = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in read("bert").items()
        if "pooler" not in name
    }
    tensors["cls.predictions.bias"] = np.zeros(272, np.float32)
    tensors["bert.embeddings.position_ids"] = np.arange(64)[None]
    config, params = huggingface.load_bert(copy("bert", tensors), dtype="bfloat16")
    assert not config.add_pooler
    assert config.dtype == "bfloat16"
    _, want = huggingface.load_bert(GOLDEN / "bert", add_pooler=False)
    jax.tree.map(np.testing.assert_array_equal, params, want)


def test_shards_of_bfloat16_tensors_are_read(copy):
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in read("t5_v1_1").items()}
    folder = copy("t5_v1_1")
    (folder / "model.safetensors").unlink()
    shard_of = {
        name: f"model-0000{1 + i % 2}-of-00002.safetensors"
        for i, name in enumerate(sorted(tensors))
    }
    for shard in set(shard_of.values()):
        part = {name: tensors[name] for name, file in shard_of.items() if file == shard}
        safetensors.numpy.save_file(part, str(folder / shard))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shard_of}))
    _, params = huggingface.load_t5(folder)
    head = params["decoder"]["logits_dense"]["kernel"]
    assert head.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(head, tensors["lm_head.weight"].T)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptError, match="model-00002-of-00002"):
        huggingface.load_t5(folder)


@pytest.mark.parametrize(
    ("name", "drop", "settings", "tied"),
    [
        ("t5_v1_1", (), {}, False),
        ("t5_v1_0", (), {}, True),
        # transformers 4 has the one key, with its old meaning.
        ("t5_v1_1", ("scale_decoder_outputs",), {"tie_word_embeddings": False}, False),
        ("t5_v1_0", ("scale_decoder_outputs", "tie_word_embeddings"), {}, True),
    ],
)
def test_logits_are_tied_as_file_and_config_say(copy, name, drop, settings, tied):
    config, _ = huggingface.load_t5(copy(name, drop=drop, **settings))
    assert config.logits_via_embedding == tied


def test_a_head_equal_to_the_embeddings_is_tied(copy):
    tensors = read("t5_v1_0")
    tensors["lm_head.weight"] = tensors["shared.weight"].copy()
    config, _ = huggingface.load_t5(copy("t5_v1_0", tensors))
    assert config.logits_via_embedding


def test_file_and_config_that_contradict_each_other_are_an_error(copy):
    with pytest.raises(ConfigError, match="not tied.*scaled.*scale_decoder_outputs"):
        huggingface.load_t5(copy("t5_v1_1", scale_decoder_outputs=True))


@pytest.mark.parametrize("load", ["load_bert", "load_dpr", "load_t5"])
def test_another_kind_of_model_is_an_error(load, copy):
    folder = copy("bert", model_type="roberta")
    with pytest.raises(ConfigError, match="'roberta'"):
        getattr(huggingface, load)(folder)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bert", {"hidden_act": "gelu_new"}, "gelu_new"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("t5_v1_1", {"feed_forward_proj": "gated-silu"}, "gated-silu"),
    ],
)
def test_a_form_that_is_not_computed_is_an_error(copy, name, settings, message):
    load = huggingface.load_bert if name == "bert" else huggingface.load_t5
    with pytest.raises(ConfigError, match=message):
        load(copy(name, **settings))


def test_a_missing_tensor_is_named(copy):
    tensors = read("bert")
    del tensors["encoder.layer.1.output.dense.weight"]
    with pytest.raises(CorruptError, match="encoder.layer.1.output.dense.weight"):
        huggingface.load_bert(copy("bert", tensors))


@pytest.mark.parametrize("name", ["bert", "t5_v1_0"])
def test_a_tensor_of_another_shape_is_named_by_its_parameter(copy, name):
    load = huggingface.load_bert if name == "bert" else huggingface.load_t5
    with pytest.raises(CorruptError, match=r"token_embedder/embedding.*272.*300"):
        load(copy(name, vocab_size=300))


def test_a_file_cut_short_is_an_error(copy):
    folder = copy("bert")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:5000])
    with pytest.raises(CorruptError, match="model.safetensors cannot be read"):
        huggingface.load_bert(folder)


def test_a_folder_of_pickles_is_refused(copy):
    folder = copy("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="can run code"):
        huggingface.load_bert(folder)


def test_a_folder_without_config_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no config.json"):
        huggingface.load_bert(tmp_path)


def test_a_config_that_is_not_json_is_an_error(copy):
    folder = copy("bert")
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptError, match="config.json is not JSON"):
        huggingface.load_bert(folder)


@pytest.mark.parametrize(
    "changes",
    [{"pre_layer_norm": True}, {"use_positions": False}, {"type_vocab_size": 0}],
)
def test_a_bert_that_hugging_face_has_not_is_an_error(changes):
    with pytest.raises(ConfigError, match="Hugging Face's BertModel"):
        huggingface.bert_weights(bert.tiny(**changes))
