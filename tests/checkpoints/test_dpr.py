import functools
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from art_jax.checkpoints import dpr, tensors
from art_jax.checkpoints.pretrained import encoder_of
from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertEncoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
HEADS = 4
OLD_PARAMS = {
    "do_lower_case": True,
    "pretrained_model_cfg": "bert-base-uncased",
    "encoder_model_type": "hf_bert",
    "pretrained_file": None,
    "projection_dim": 0,
    "sequence_length": 48,
}


def golden_tower(folder, encoder, model):
    """A golden encoder's tensors by DPR's own names."""
    weights = safetensors.numpy.load_file(GOLDEN / folder / "model.safetensors")
    named = {}
    for name, array in weights.items():
        rest = name.removeprefix(f"{encoder}.").removeprefix("bert_model.")
        named[f"{model}.{rest}"] = array
    # What every file of DPR has beside them.
    width = 32
    named[f"{model}.pooler.dense.weight"] = np.ones((width, width), np.float32)
    named[f"{model}.pooler.dense.bias"] = np.ones(width, np.float32)
    named[f"{model}.embeddings.position_ids"] = np.arange(64)[None]
    return named


QUESTION = ("dpr_question_encoder", "question_encoder")
CTX = ("dpr_ctx_encoder", "ctx_encoder")


def model_dict(question=QUESTION, ctx=QUESTION):
    return {
        **golden_tower(*question, "question_model"),
        **golden_tower(*ctx, "ctx_model"),
    }


@pytest.fixture(params=["save_legacy", "save_zip"])
def save(request, torch_writer, tmp_path):
    """Writes a checkpoint; DPR's own files are of the legacy form."""

    def write(model, encoder_params=OLD_PARAMS, **changes):
        tree = {
            "model_dict": torch_writer.ordered(model),
            "optimizer_dict": {"state": {}, "param_groups": [{"lr": 2e-5}]},
            "scheduler_dict": {"last_epoch": 7, "lr_lambdas": [None]},
            "offset": 0,
            "epoch": 38,
            "encoder_params": encoder_params,
            **changes,
        }
        return getattr(torch_writer, request.param)(tmp_path / "bert.cp", tree)

    return write


@pytest.mark.parametrize("side", ["query", "passage"])
@pytest.mark.parametrize("encoder", [QUESTION, CTX], ids=["plain", "projected"])
def test_a_file_computes_what_transformers_does(save, encoder, side):
    golden = np.load(GOLDEN / f"{encoder[0]}.npz")
    found = dpr.open_retriever(save(model_dict(encoder, encoder)), num_heads=HEADS)
    assert found.projection_dim == (24 if encoder is CTX else 0)
    assert encoder_of(found).width == golden["pooler_output"].shape[1]
    got = embed(
        found.config,
        tensors.to_host(found.towers[side]),
        golden["input_ids"].astype(np.int32),
        golden["attention_mask"].astype(bool),
        golden["token_type_ids"].astype(np.int32),
    )
    np.testing.assert_allclose(got, golden["pooler_output"], rtol=0, atol=1e-5)


# A DualEncoder has no token types, which the golden inputs have.
@functools.partial(jax.jit, static_argnums=0)
def embed(config, tower, *arrays):
    vectors = BertEncoder(config).apply({"params": tower["encoder"]}, *arrays)[:, 0]
    if "projection" in tower:
        vectors = (
            vectors @ tower["projection"]["kernel"] + tower["projection"]["bias"][None]
        )
    return vectors


def test_each_encoder_is_its_own_tower(save):
    model = model_dict()
    name = "ctx_model.encoder.layer.1.output.dense.bias"
    model[name] = model[name] + 1
    found = tensors.to_host(dpr.open_retriever(save(model), num_heads=HEADS).towers)
    for side, key in (("query", "question_model"), ("passage", "ctx_model")):
        got = found[side]["encoder"]["layers_1"]["mlp"]["wo"]["bias"]
        want = model[f"{key}.encoder.layer.1.output.dense.bias"]
        np.testing.assert_array_equal(got, want)


def test_opening_reads_nothing_and_says_how_it_is_used(save):
    found = dpr.open_retriever(save(model_dict()), num_heads=HEADS)
    leaves = jax.tree.leaves(found.towers)
    assert all(isinstance(leaf, FileTensor) for leaf in leaves)
    assert found.format == "DPR biencoder checkpoint, epoch 38"
    assert (found.pooling, found.normalize, found.projection_dim) == ("cls", False, 0)
    assert (found.max_query_tokens, found.max_passage_tokens) == (48, 48)
    assert found.tokenizer is None
    assert found.training == {
        "epoch": 38,
        "do_lower_case": True,
        "pretrained_model_cfg": "bert-base-uncased",
        "sequence_length": 48,
    }
    config = found.config
    assert (config.pre_layer_norm, config.embedding_layer_norm) == (False, True)
    assert config.layer_norm_eps == 1e-12
    assert (config.num_layers, config.num_heads, config.hidden_size) == (2, HEADS, 32)
    assert (config.intermediate_size, config.max_positions) == (64, 64)
    assert (config.vocab_size, config.type_vocab_size) == (272, 2)
    # BERT's pooler is in the file, and of no use.
    assert not config.add_pooler


def test_settings_may_be_of_omegaconf(save, torch_writer):
    # As DPR writes them since 2021: each value a node, which points at its parent.
    def omegaconf(module, name, state):
        return torch_writer.Call(
            torch_writer.Global(f"omegaconf.{module}", name), (), state, new=True
        )

    values = {"pretrained_model_cfg": "bert-large-uncased", "sequence_length": 32}
    content = {
        name: omegaconf("nodes", "AnyNode", {"_val": value, "_parent": None})
        for name, value in values.items()
    }
    metadata = {
        "ref_type": torch_writer.Global("typing", "Any"),
        "object_type": torch_writer.Global("__builtin__", "dict"),
        "resolver_cache": torch_writer.Call(
            torch_writer.Global("collections", "defaultdict"),
            (torch_writer.Global("__builtin__", "dict"),),
        ),
    }
    encoder = omegaconf(
        "dictconfig",
        "DictConfig",
        {
            "_metadata": omegaconf("base", "ContainerMetadata", metadata),
            "_content": content,
        },
    )
    path = save(model_dict(), {"do_lower_case": False, "encoder": encoder})
    found = dpr.open_retriever(path, num_heads=HEADS)
    assert found.training == {"epoch": 38, "do_lower_case": False, **values}
    assert found.max_query_tokens == 32


@pytest.mark.parametrize(
    "encoder_params",
    [
        None,
        [],
        {"encoder": None},
        {"sequence_length": "48", "do_lower_case": 1, "pretrained_model_cfg": None},
        {"sequence_length": 65},
        {"sequence_length": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_say_nothing(save, encoder_params):
    found = dpr.open_retriever(save(model_dict(), encoder_params), num_heads=HEADS)
    assert (found.max_query_tokens, found.max_passage_tokens) == (None, None)
    assert not {"do_lower_case", "pretrained_model_cfg"} & found.training.keys()


def test_a_file_without_epoch_says_none(save):
    found = dpr.open_retriever(save(model_dict(), epoch=None), num_heads=HEADS)
    assert found.format == "DPR biencoder checkpoint"
    assert "epoch" not in found.training


def test_heads_are_64_wide_unless_told(save):
    with pytest.raises(ConfigError, match="0 heads do not divide the hidden size 32"):
        dpr.open_retriever(save(model_dict()))
    with pytest.raises(ConfigError, match="5 heads do not divide the hidden size 32"):
        dpr.open_retriever(save(model_dict()), num_heads=5)


def test_a_reader_is_refused_by_name(save):
    weights = safetensors.numpy.load_file(GOLDEN / "bert" / "model.safetensors")
    reader = {f"encoder.{name}": array for name, array in weights.items()}
    reader["qa_outputs.weight"] = np.ones((2, 32), np.float32)
    with pytest.raises(ConfigError, match=r"bert\.cp is a reader of DPR"):
        dpr.open_retriever(save(reader))


@pytest.mark.parametrize("model", ["question_model", "ctx_model"])
def test_one_encoder_alone_is_no_biencoder(save, model):
    half = {k: v for k, v in model_dict().items() if not k.startswith(model)}
    with pytest.raises(ConfigError, match=f"model_dict has no {model}"):
        dpr.open_retriever(save(half))


def test_another_file_of_torch_is_refused(torch_writer, tmp_path):
    for tree in ({"state_dict": {}}, ["model_dict"], None):
        path = torch_writer.save_zip(tmp_path / "model.pt", tree)
        with pytest.raises(ConfigError, match=r"model\.pt is a file .* no checkpoint"):
            dpr.open_retriever(path)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.1.attention.self.key.bias",
    ],
)
@pytest.mark.parametrize("model", ["question_model", "ctx_model"])
def test_a_missing_tensor_or_one_of_another_shape_is_an_error(save, model, name):
    tree = model_dict()
    whole = tree.pop(f"{model}.{name}")
    with pytest.raises(CorruptError, match=r"bert\.cp"):
        dpr.open_retriever(save(tree), num_heads=HEADS)
    for other in (whole[:-1].copy(), whole.reshape(-1, 1, 1)):
        tree[f"{model}.{name}"] = other
        with pytest.raises(CorruptError, match=r"bert\.cp"):
            dpr.open_retriever(save(tree), num_heads=HEADS)


def test_encoders_that_differ_are_an_error(save):
    with pytest.raises(CorruptError, match=r"bert\.cp"):
        dpr.open_retriever(save(model_dict(QUESTION, CTX)), num_heads=HEADS)
    deeper = model_dict()
    for name in [n for n in deeper if n.startswith("ctx_model.encoder.layer.1.")]:
        deeper[name.replace("layer.1.", "layer.2.")] = deeper[name]
    with pytest.raises(CorruptError, match="two encoders are not of one size"):
        dpr.open_retriever(save(deeper), num_heads=HEADS)


def test_settings_that_run_code_are_refused(save, torch_writer, tmp_path):
    canary = tmp_path / "canary"
    for code in torch_writer.attacks(f"touch {canary}").values():
        with pytest.raises(CorruptError, match="It was not run"):
            dpr.open_retriever(save({}, {"a": torch_writer.Raw(code)}))
        assert not canary.exists()
