import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.checkpoints import hf_tokenizers, huggingface, t5x, tensors
from art_jax.data import tokenizers
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert, t5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
T5X = pathlib.Path(__file__).parents[1] / "golden" / "t5x"
# Sums in another order than torch's differ by less; see tests/golden/README.md.
ATOL = 1e-5
TINY_BERT = bert.BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=6,
    max_positions=10,
)
TINY_T5 = t5.T5Config(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=4,
    mlp_dim=5,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype="float32",
)
OPENERS = {
    "bert": huggingface.open_bert,
    "megatron_bert": huggingface.open_bert,
    "dpr_question_encoder": huggingface.open_dpr,
    "dpr_ctx_encoder": huggingface.open_dpr,
    "t5_v1_1": huggingface.open_t5,
    "t5_v1_0": huggingface.open_t5,
    "t5_v1_1_bf16_sharded": huggingface.open_t5,
}
WORDS = tokenizers.train_wordpiece(["some words to know"], 30, min_count=1)


def held(folder):
    """All tensors of a folder of safetensors, read by the library."""
    found = {}
    for path in folder.glob("*.safetensors"):
        found.update(safetensors.numpy.load_file(path))
    return found


def random_params(shapes, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), shapes)


def assert_same(got, want):
    """Two trees of arrays are equal: names, shapes, dtypes and every bit."""
    got, want = tensors.to_host(got), tensors.to_host(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    same = jax.tree.map(lambda one, other: one.dtype == other.dtype, got, want)
    assert all(jax.tree.leaves(same))


@pytest.fixture
def copy(tmp_path):
    """Copies a golden model, with tensors and settings changed."""

    def make(name, held=None, drop=(), into=None, **changes):
        folder = tmp_path / (into or name)
        shutil.copytree(GOLDEN / name, folder)
        config = json.loads((folder / "config.json").read_text())
        config = {k: v for k, v in {**config, **changes}.items() if k not in drop}
        (folder / "config.json").write_text(json.dumps(config))
        if held is not None:
            safetensors.numpy.save_file(held, folder / "model.safetensors")
        return folder

    return make


def saved_again(name, folder):
    """Opens a golden model and writes it as what it was."""
    if name.startswith("dpr"):
        config, projection_dim, tower = huggingface.open_dpr(GOLDEN / name)
        encoder = name.removeprefix("dpr_")
        huggingface.save_dpr(folder, config, projection_dim, tower, encoder)
        return
    save = huggingface.save_t5 if name.startswith("t5") else huggingface.save_bert
    save(folder, *OPENERS[name](GOLDEN / name))


@pytest.mark.parametrize("name", OPENERS)
def test_what_comes_in_goes_out_bit_for_bit(tmp_path, name):
    saved_again(name, tmp_path)
    assert_same(held(tmp_path), held(GOLDEN / name))
    read = json.loads((tmp_path / "config.json").read_text())
    want = json.loads((GOLDEN / name / "config.json").read_text())
    for key in read.keys() & want.keys() - {"tie_word_embeddings"}:
        assert read[key] == want[key], key
    # What transformers says beyond that is how it was called, or its default.
    assert want.keys() - read.keys() <= {
        *("add_cross_attention", "bos_token_id", "classifier_dropout", "dense_act_fn"),
        *("eos_token_id", "initializer_factor", "is_decoder", "is_gated_act"),
        *("tie_word_embeddings", "transformers_version", "use_cache"),
    }
    assert read["torch_dtype"] == read["dtype"]


@pytest.mark.parametrize("name", OPENERS)
def test_nothing_is_read_before_it_is_asked_for(monkeypatch, name):
    def read(self, dtype=None, copy=None):
        raise AssertionError(f"{self} was read")

    monkeypatch.setattr(tensors.FileTensor, "__array__", read)
    params = OPENERS[name](GOLDEN / name)[-1]
    assert all(isinstance(leaf, tensors.FileTensor) for leaf in jax.tree.leaves(params))


def test_a_megatron_bert_computes_what_transformers_does():
    config, params = huggingface.open_bert(GOLDEN / "megatron_bert")
    assert (config.pre_layer_norm, config.embedding_layer_norm) == (True, False)
    golden = np.load(GOLDEN / "megatron_bert.npz")
    mask = golden["attention_mask"] > 0
    tokens, types = (
        golden[name].astype(np.int32) for name in ("input_ids", "token_type_ids")
    )
    variables = {"params": tensors.to_host(params)}
    hidden = jax.jit(bert.BertEncoder(config).apply)(variables, tokens, mask, types)
    want = golden["last_hidden_state"]
    np.testing.assert_allclose(hidden[mask], want[mask], atol=ATOL, rtol=0)


def test_a_bfloat16_t5_computes_what_transformers_does():
    # The outputs of float32 files are compared in tests/models/test_t5.py.
    name = "t5_v1_1_bf16_sharded"
    config, params = huggingface.open_t5(GOLDEN / name, dtype="float32")
    golden = np.load(GOLDEN / f"{name}.npz")
    tokens = golden["input_ids"].astype(np.int32)
    targets = golden["decoder_target_tokens"].astype(np.int32)
    variables = {"params": tensors.to_host(params, "float32")}
    logits = jax.jit(t5.T5(config).apply)(variables, tokens, t5.shift_right(targets))
    used = targets > 0
    got, want = np.asarray(logits)[used], golden["logits"][used]
    np.testing.assert_allclose(got, want, atol=ATOL, rtol=0)
    chosen = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), targets[..., None], axis=-1
    )[..., 0]
    scores = (chosen * used).sum(axis=1)
    np.testing.assert_allclose(scores, golden["scores"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("version", ["v1_1", "v1_0"])
@pytest.mark.parametrize("config", ["config.json", "config.transformers4.json"])
def test_a_t5x_checkpoint_becomes_the_file_transformers_made_of_it(
    tmp_path, version, config
):
    golden = GOLDEN / f"t5_from_t5x_{version}"
    want_config, want = t5x.open_t5(T5X / f"{version}_f32" / "checkpoint_1234")
    huggingface.save_t5(tmp_path, want_config, want)
    assert_same(held(tmp_path), held(golden))
    shutil.copy(golden / config, tmp_path / "config.json")
    got_config, got = huggingface.open_t5(tmp_path)
    assert_same(got, want)
    # Only transformers says how much dropout there is.
    assert got_config == dataclasses.replace(want_config, dropout_rate=0.0)


def test_a_pytorch_bin_holds_what_safetensors_does():
    config, params = huggingface.open_bert(GOLDEN / "bert_pytorch_bin")
    want_config, want = huggingface.open_bert(GOLDEN / "bert")
    assert config == want_config
    assert_same(params, want)


def test_shards_of_torch_files_are_read(copy):
    folder = copy("bert_pytorch_bin")
    names = huggingface.open_tensors(folder)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": dict.fromkeys(names, "pytorch_model-00001-of-00001.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    _, want = huggingface.open_bert(GOLDEN / "bert")
    assert_same(huggingface.open_bert(folder)[1], want)


def test_safetensors_come_before_torch_files(copy):
    folder = copy("bert")
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    huggingface.open_bert(folder)


def test_the_bert_inside_a_model_with_a_head_is_found(copy):
    # As transformers' older releases and TensorFlow's converter wrote it: under
    # "bert.", with gamma and beta, without pooler, with a head.
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in held(GOLDEN / "bert").items()
        if "pooler" not in name
    }
    old["cls.predictions.bias"] = np.zeros(272, np.float32)
    old["bert.embeddings.position_ids"] = np.arange(64)[None]
    config, params = huggingface.open_bert(copy("bert", old), dtype="bfloat16")
    assert not config.add_pooler
    assert config.dtype == "bfloat16"
    assert_same(params, huggingface.open_bert(GOLDEN / "bert", add_pooler=False)[1])


def test_old_t5_files_hold_copies_of_what_is_tied(copy):
    old = held(GOLDEN / "t5_v1_0")
    shared = old.pop("shared.weight")
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        old[f"{name}.weight"] = shared.copy()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    old[unused] = np.zeros((32, 4), np.float32)
    folder = copy("t5_v1_0", {"shared.weight": shared, **old})
    config, params = huggingface.open_t5(folder)
    assert config.logits_via_embedding
    want = huggingface.open_t5(GOLDEN / "t5_v1_0")[1]
    assert_same(params, want)
    # Some keep the copies and not what they are of.
    safetensors.numpy.save_file(old, folder / "model.safetensors")
    assert_same(huggingface.open_t5(folder)[1], want)


BERT_FORMS = st.builds(
    dataclasses.replace,
    st.just(TINY_BERT),
    vocab_size=st.integers(1, 40),
    hidden_size=st.sampled_from([4, 12]),
    num_layers=st.integers(0, 2),
    num_heads=st.sampled_from([1, 2, 4]),
    intermediate_size=st.integers(1, 9),
    max_positions=st.integers(1, 9),
    type_vocab_size=st.integers(1, 3),
    dropout_rate=st.floats(0, 1),
    layer_norm_eps=st.sampled_from([1e-12, 1e-5]),
    add_pooler=st.booleans(),
)
T5_FORMS = st.builds(
    dataclasses.replace,
    st.just(TINY_T5),
    vocab_size=st.integers(2, 40),
    emb_dim=st.integers(1, 8),
    num_heads=st.integers(1, 3),
    head_dim=st.integers(1, 5),
    mlp_dim=st.integers(1, 9),
    num_encoder_layers=st.integers(1, 2),
    num_decoder_layers=st.integers(1, 2),
    mlp_activations=st.sampled_from([("relu",), ("gelu", "linear")]),
    logits_via_embedding=st.booleans(),
)
FILE_DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])


@given(config=BERT_FORMS, megatron=st.booleans(), dtype=FILE_DTYPES)
@settings(max_examples=10, deadline=None)
def test_a_bert_of_any_size_survives_a_folder(config, megatron, dtype):
    config = dataclasses.replace(
        config, pre_layer_norm=megatron, embedding_layer_norm=not megatron
    )
    params = random_params(bert.param_shapes(config), dtype)
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_bert(folder, config, params)
        got_config, got = huggingface.open_bert(folder)
        assert got_config == config
        assert_same(got, params)
        # Transformers would draw a pooler that is not there.
        written = huggingface.open_tensors(folder)["pooler.dense.weight"]
        assert np.asarray(written).any() == config.add_pooler


@given(config=BERT_FORMS, projection_dim=st.integers(0, 3), dtype=FILE_DTYPES)
@settings(max_examples=10, deadline=None)
def test_a_dpr_tower_of_any_size_survives_a_folder(config, projection_dim, dtype):
    tower = {"encoder": random_params(bert.param_shapes(config), dtype)}
    if projection_dim:
        tower["projection"] = {
            "kernel": np.ones((config.hidden_size, projection_dim), dtype),
            "bias": np.full(projection_dim, 2, dtype),
        }
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_dpr(folder, config, projection_dim, tower, "ctx_encoder")
        got_config, got_dim, got = huggingface.open_dpr(folder)
        tower["encoder"].pop("pooler", None)
        assert got_config == dataclasses.replace(config, add_pooler=False)
        assert got_dim == projection_dim
        assert_same(got, tower)


@given(config=T5_FORMS, dtype=FILE_DTYPES)
@settings(max_examples=6, deadline=None)
def test_a_t5_of_any_size_survives_a_folder(config, dtype):
    params = random_params(t5.param_shapes(config), dtype)
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_t5(folder, config, params)
        got_config, got = huggingface.open_t5(folder, dtype="float32")
        assert got_config == config
        assert_same(got, params)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_positions": False, "type_vocab_size": 0},
        {"num_heads": 1, "head_dim": 4},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bert_with_less_than_transformers_has_survives_too(tmp_path, changes, dtype):
    config = dataclasses.replace(TINY_BERT, add_pooler=True, **changes)
    params = random_params(bert.param_shapes(config), dtype)
    huggingface.save_bert(tmp_path, config, params)
    got_config, got = huggingface.open_bert(tmp_path)
    assert got_config == config
    assert_same(got, params)
    assert {np.dtype(dtype)} == {leaf.dtype for leaf in held(tmp_path).values()}


def test_a_pooler_is_written_where_transformers_has_one(tmp_path):
    config = dataclasses.replace(TINY_BERT, add_pooler=True)
    params = random_params(bert.param_shapes(config))
    huggingface.save_dpr(tmp_path, config, 0, {"encoder": params}, "ctx_encoder")
    assert not [name for name in held(tmp_path) if "pooler" in name]
    params.pop("pooler")
    huggingface.save_bert(tmp_path, TINY_BERT, params)
    written = held(tmp_path)
    assert written["pooler.dense.weight"].shape == (8, 8)
    assert not written["pooler.dense.weight"].any()
    assert not written["pooler.dense.bias"].any()


def test_dtypes_that_are_mixed_are_said_to_be_float32(tmp_path):
    params = random_params(bert.param_shapes(TINY_BERT), "bfloat16")
    table = params["token_embedder"]["embedding"].astype(np.float32)
    mixed = {**params, "token_embedder": {"embedding": table}}
    for tree, dtype in ((params, "bfloat16"), (mixed, "float32")):
        huggingface.save_bert(tmp_path, TINY_BERT, tree)
        config = json.loads((tmp_path / "config.json").read_text())
        assert (config["dtype"], config["torch_dtype"]) == (dtype, dtype)
    assert_same(huggingface.open_bert(tmp_path, add_pooler=False)[1], mixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_layer_norm": True}, "pre_layer_norm True"),
        ({"embedding_layer_norm": False}, "embedding_layer_norm False"),
        ({"head_dim": 3}, "heads of width 3"),
    ],
)
def test_a_bert_that_transformers_has_not_is_an_error(tmp_path, changes, message):
    config = dataclasses.replace(TINY_BERT, **changes)
    params = random_params(bert.param_shapes(config))
    with pytest.raises(ConfigError, match=message):
        huggingface.save_bert(tmp_path, config, params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extra", "projection_dim", "encoder", "message"),
    [
        ({"pooling": {}}, 0, "ctx_encoder", "a tower of encoder, pooling"),
        ({}, 3, "ctx_encoder", "projection_dim 3"),
        ({"projection": {}}, 0, "ctx_encoder", "projection_dim 0"),
        ({}, 0, "reader", "encoder is 'reader'"),
    ],
)
def test_a_tower_that_dpr_has_not_is_an_error(
    tmp_path, extra, projection_dim, encoder, message
):
    tower = {"encoder": random_params(bert.param_shapes(TINY_BERT)), **extra}
    with pytest.raises(ConfigError, match=message):
        huggingface.save_dpr(tmp_path, TINY_BERT, projection_dim, tower, encoder)


def test_parameters_of_another_model_are_not_written(tmp_path):
    params = random_params(bert.param_shapes(TINY_BERT))
    larger = dataclasses.replace(TINY_BERT, hidden_size=16)
    with pytest.raises(CorruptError, match="the parameters to write"):
        huggingface.save_bert(tmp_path, larger, params)
    with pytest.raises(CorruptError, match="the tower to write"):
        huggingface.save_dpr(tmp_path, larger, 0, {"encoder": params}, "ctx_encoder")
    with pytest.raises(CorruptError, match="the parameters to write"):
        huggingface.save_t5(tmp_path, TINY_T5, params)


@pytest.mark.parametrize(
    ("name", "drop", "changes", "tied"),
    [
        ("t5_v1_1", (), {}, False),
        ("t5_v1_0", (), {}, True),
        # transformers 4 has the one key, with its old meaning.
        ("t5_v1_1", ("scale_decoder_outputs",), {"tie_word_embeddings": False}, False),
        ("t5_v1_0", ("scale_decoder_outputs", "tie_word_embeddings"), {}, True),
    ],
)
def test_logits_are_tied_as_file_and_config_say(copy, name, drop, changes, tied):
    config, _ = huggingface.open_t5(copy(name, drop=drop, **changes))
    assert config.logits_via_embedding == tied


def test_a_head_is_tied_only_where_every_row_is(copy, monkeypatch):
    monkeypatch.setattr(huggingface, "_COMPARED_BYTES", 16 * 4 * 100)  # 100 rows of 272
    head = held(GOLDEN / "t5_v1_0")
    head["lm_head.weight"] = head["shared.weight"].copy()
    folder = copy("t5_v1_0", head)
    assert huggingface.open_t5(folder)[0].logits_via_embedding
    head["lm_head.weight"][271, 15] += 1
    safetensors.numpy.save_file(head, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="not tied .* and scaled"):
        huggingface.open_t5(folder)


def test_file_and_config_that_contradict_each_other_are_an_error(copy):
    with pytest.raises(ConfigError, match="not tied.*scaled.*scale_decoder_outputs"):
        huggingface.open_t5(copy("t5_v1_1", scale_decoder_outputs=True))


@pytest.mark.parametrize("name", ["bert", "dpr_ctx_encoder", "t5_v1_1"])
def test_another_kind_of_model_is_an_error(name, copy):
    with pytest.raises(ConfigError, match="'roberta'"):
        OPENERS[name](copy(name, model_type="roberta"))


def test_a_head_of_another_shape_is_not_the_embeddings(copy):
    longer = held(GOLDEN / "t5_v1_1")
    longer["lm_head.weight"] = np.pad(longer["shared.weight"], ((0, 28), (0, 0)))
    with pytest.raises(CorruptError, match=r"logits_dense/kernel.*300.*272"):
        huggingface.open_t5(copy("t5_v1_1", longer))


def test_empty_tables_are_named_and_not_divided_by(copy):
    hollow = held(GOLDEN / "t5_v1_0")
    hollow["shared.weight"] = hollow["lm_head.weight"] = np.zeros((0, 16), np.float32)
    with pytest.raises(CorruptError, match="token_embedder/embedding"):
        huggingface.open_t5(copy("t5_v1_0", hollow))


@pytest.mark.parametrize("name", ["bert", "dpr_ctx_encoder", "t5_v1_1"])
def test_quantised_parameters_are_not_taken_for_values(copy, name):
    rounded = held(GOLDEN / name)
    table = next(key for key in rounded if key.endswith(("o.weight", "dense.weight")))
    rounded[table] = rounded[table].astype(np.int8)
    with pytest.raises(ConfigError, match="of dtype int8"):
        OPENERS[name](copy(name, rounded))


def test_a_missing_tensor_is_named(copy):
    few = held(GOLDEN / "bert")
    del few["encoder.layer.1.output.dense.weight"]
    with pytest.raises(CorruptError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        huggingface.open_bert(copy("bert", few))


@pytest.mark.parametrize("name", ["bert", "dpr_ctx_encoder", "t5_v1_0"])
def test_a_tensor_of_another_shape_is_named_by_its_parameter(copy, name):
    with pytest.raises(CorruptError, match=r"token_embedder/embedding.*272.*300"):
        OPENERS[name](copy(name, vocab_size=300))


def test_a_projection_of_another_width_is_named(copy):
    with pytest.raises(CorruptError, match=r"projection/bias.*24.*23"):
        huggingface.open_dpr(copy("dpr_ctx_encoder", projection_dim=23))


def test_a_projection_that_config_and_tensors_do_not_both_have_is_damage(copy):
    with pytest.raises(CorruptError, match="projection_dim is 0, .* hold a projection"):
        huggingface.open_dpr(copy("dpr_ctx_encoder", projection_dim=0))
    with pytest.raises(CorruptError, match="projection_dim is 8, .* no projection"):
        huggingface.open_dpr(copy("dpr_question_encoder", projection_dim=8))


@pytest.mark.parametrize(
    ("name", "key", "layers"),
    [
        ("bert", "num_hidden_layers", 3),
        ("bert", "num_hidden_layers", 1),
        ("dpr_ctx_encoder", "num_hidden_layers", 1),
        ("t5_v1_1", "num_layers", 1),
        ("t5_v1_1", "num_decoder_layers", 1000),
    ],
)
def test_layers_that_the_tensors_have_not_are_damage(copy, name, key, layers):
    folder = copy(name, **{key: layers})
    with pytest.raises(CorruptError, match=rf"{key} is {layers}, .* of 2 layers"):
        OPENERS[name](folder)


def test_an_absurd_size_is_refused_before_any_tensor_is_opened(copy):
    folder = copy("bert", hidden_size=10**12)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptError, match="hidden_size is 1000000000000"):
        huggingface.open_bert(folder)


def test_two_berts_in_one_file_are_an_error(copy):
    two = held(GOLDEN / "bert")
    two |= {f"other.{name}": tensor for name, tensor in two.items()}
    with pytest.raises(CorruptError, match="2 tensors are named"):
        huggingface.open_bert(copy("bert", two))


def test_dprs_reader_is_no_encoder(copy):
    reader = {
        name.replace("ctx_encoder.", "span_predictor.encoder."): tensor
        for name, tensor in held(GOLDEN / "dpr_ctx_encoder").items()
    }
    with pytest.raises(ConfigError, match="'span_predictor'.*reader"):
        huggingface.open_dpr(copy("dpr_ctx_encoder", reader))


def test_a_folder_without_tensors_is_an_error(copy):
    folder = copy("bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="neither model.safetensors nor pytorch_mod"):
        huggingface.open_bert(folder)


def sharded(copy, change):
    """A sharded T5 whose index is changed by `change(index)`."""
    folder = copy("t5_v1_1_bf16_sharded")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "file",
    [
        *("../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "."),
        *(
            "",
            r"..\model.safetensors",
            "model\n.safetensors",
            None,
            3,
            ["a"],
            ".hidden",
        ),
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(copy, file):
    folder = sharded(copy, lambda index: index["weight_map"].update({"x": file}))
    with pytest.raises(CorruptError, match=r"index\.json: tensor 'x' is said to be"):
        huggingface.open_t5(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, "model.safetensors"])
def test_an_index_without_a_map_is_damage(copy, weight_map):
    folder = sharded(copy, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(CorruptError, match=r"index\.json has no weight_map"):
        huggingface.open_t5(folder)


def test_a_tensor_that_is_not_where_the_index_says_is_named(copy):
    def swap(index):
        index["weight_map"]["shared.weight"] = "model-00001-of-00002.safetensors"

    with pytest.raises(CorruptError, match=r"00001.* holds no tensor 'shared.weight'"):
        huggingface.open_t5(sharded(copy, swap))


def test_a_missing_shard_is_named(copy):
    folder = copy("t5_v1_1_bf16_sharded")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptError, match="model-00002-of-00002"):
        huggingface.open_t5(folder)


def test_what_is_no_tensor_in_a_torch_file_is_left_out(copy, monkeypatch):
    folder = copy("bert_pytorch_bin")
    found = huggingface.torch_files.open_torch(folder / "pytorch_model.bin")
    more = {**found, "epoch": 3, 7: next(iter(found.values()))}
    monkeypatch.setattr(huggingface.torch_files, "open_torch", lambda path: more)
    assert huggingface.open_tensors(folder).keys() == found.keys()


def test_a_torch_file_that_holds_no_model_is_an_error(copy, monkeypatch):
    folder = copy("bert_pytorch_bin")
    monkeypatch.setattr(huggingface.torch_files, "open_torch", lambda path: [1, 2])
    with pytest.raises(CorruptError, match=r"pytorch_model\.bin holds a list"):
        huggingface.open_bert(folder)


def test_a_bert_folder_is_a_retriever_that_does_not_say_how_to_pool(copy):
    folder = copy("bert")
    hf_tokenizers.save_tokenizer(folder, WORDS, 64)
    found = huggingface.open_retriever(folder)
    assert found.format == "Hugging Face BertModel"
    assert (found.pooling, found.normalize, found.projection_dim) == (None, None, 0)
    assert found.tokenizer == WORDS
    assert found.config.add_pooler
    want = huggingface.open_bert(folder)[1]
    assert_same(found.towers, {"shared": {"encoder": want}})
    megatron = huggingface.open_retriever(GOLDEN / "megatron_bert")
    assert megatron.format == "Hugging Face MegatronBertModel"
    assert (megatron.pooling, megatron.tokenizer) == (None, None)


def test_contriever_takes_the_mean(copy):
    found = huggingface.open_retriever(copy("bert", architectures=["Contriever"]))
    assert found.format == "Hugging Face Contriever"
    assert (found.pooling, found.normalize) == ("mean", False)
    assert found.towers.keys() == {"shared"}


def test_one_dpr_encoder_embeds_both_sides():
    found = huggingface.open_retriever(GOLDEN / "dpr_ctx_encoder")
    assert found.format == "Hugging Face DPR encoder"
    assert (found.pooling, found.normalize, found.projection_dim) == ("cls", False, 24)
    want = huggingface.open_dpr(GOLDEN / "dpr_ctx_encoder")[2]
    assert_same(found.towers, {"shared": want})


@pytest.mark.parametrize(
    ("kind", "query", "passage"),
    [
        ("dpr_question_encoder", "question_encoder", "ctx_encoder"),
        ("bert", "query_encoder", "passage_encoder"),
    ],
)
def test_two_folders_are_two_towers(copy, kind, query, passage):
    one = copy(kind, into=f"both/{query}")
    changed = {name: tensor + 1 for name, tensor in held(GOLDEN / kind).items()}
    other = copy(kind, changed, into=f"both/{passage}")
    hf_tokenizers.save_tokenizer(other, WORDS, 64)
    found = huggingface.open_retriever(one.parent)
    want = {
        "query": huggingface.open_retriever(one).towers["shared"],
        "passage": huggingface.open_retriever(other).towers["shared"],
    }
    assert_same(found.towers, want)
    assert found.format == f"two towers, {huggingface.open_retriever(one).format}"
    assert found.tokenizer == WORDS


def test_two_towers_of_two_forms_are_an_error(copy):
    folder = copy("dpr_question_encoder", into="both/question_encoder").parent
    copy("dpr_ctx_encoder", into="both/ctx_encoder")
    with pytest.raises(ConfigError, match="projection_dim 0, the passage tower 24"):
        huggingface.open_retriever(folder)


def test_two_towers_of_two_poolings_are_an_error(copy):
    folder = copy("bert", into="both/query_encoder").parent
    copy("bert", architectures=["Contriever"], into="both/passage_encoder")
    with pytest.raises(ConfigError, match="pooling None, the passage tower mean"):
        huggingface.open_retriever(folder)


def test_two_vocabularies_are_an_error(copy):
    for side, texts in (("query", ["some words"]), ("passage", ["other things"])):
        folder = copy("bert", into=f"both/{side}_encoder")
        words = tokenizers.train_wordpiece(texts, 30, min_count=1)
        hf_tokenizers.save_tokenizer(folder, words, 64)
    with pytest.raises(ConfigError, match="different vocabularies"):
        huggingface.open_retriever(folder.parent)


def test_a_vocabulary_larger_than_the_table_is_damage(copy):
    folder = copy("bert")
    pieces = (*tokenizers.WORDPIECE_SPECIALS, *(f"w{i}" for i in range(300)))
    words = tokenizers.WordPieceTokenizer(pieces)
    hf_tokenizers.save_tokenizer(folder, words, 64)
    with pytest.raises(CorruptError, match="305 pieces and the model's table 272 rows"):
        huggingface.open_retriever(folder)


def test_a_bert_with_t5s_tokeniser_is_an_error(copy, monkeypatch):
    t5s = tokenizers.SentencePieceTokenizer(b"")
    monkeypatch.setattr(hf_tokenizers, "open_tokenizer", lambda folder: t5s)
    with pytest.raises(ConfigError, match="'sentencepiece', where a BERT has WordP"):
        huggingface.open_retriever(copy("bert"))


def test_a_t5_is_no_retriever():
    with pytest.raises(ConfigError, match="model_type is 't5'"):
        huggingface.open_retriever(GOLDEN / "t5_v1_1")
