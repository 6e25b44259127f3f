import dataclasses
import pathlib

import pytest
import safetensors

from art_jax.checkpoints import names
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError
from art_jax.models import bert, t5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
BERT = bert.BertConfig(
    vocab_size=272,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=64,
    max_positions=64,
    add_pooler=True,
)
MEGATRON = dataclasses.replace(BERT, pre_layer_norm=True, embedding_layer_norm=False)
TOWER = dataclasses.replace(BERT, add_pooler=False)
T5 = t5.T5Config(
    vocab_size=272,
    emb_dim=16,
    num_heads=4,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
T5_1_0 = dataclasses.replace(T5, mlp_activations=("relu",), logits_via_embedding=True)

MODELS = {
    "bert": (names.bert_weights(BERT), bert.param_shapes(BERT)),
    "megatron_bert": (names.bert_weights(MEGATRON), bert.param_shapes(MEGATRON)),
    "dpr_question_encoder": (
        names.dpr_weights(TOWER, 0, "question_encoder"),
        {"encoder": bert.param_shapes(TOWER)},
    ),
    "t5_v1_1": (names.t5_weights(T5), t5.param_shapes(T5)),
    "t5_v1_0": (names.t5_weights(T5_1_0), t5.param_shapes(T5_1_0)),
}


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_those_that_transformers_writes(name):
    weights, params = MODELS[name]
    shapes = shapes_by_path(params)
    assert len(weights) == len(shapes)
    ours = {}
    for weight in weights:
        shape = shapes[weight.path]
        ours[weight.name] = shape[::-1] if weight.transposed else shape
    path = GOLDEN / name / "model.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        theirs = {
            key: tuple(file.get_slice(key).get_shape())
            for key in file.keys()  # noqa: SIM118
        }
    assert ours == theirs


def test_a_projection_is_dprs_encode_proj():
    weights = names.dpr_weights(TOWER, 24, "ctx_encoder")
    assert [(w.path, w.name, w.transposed) for w in weights[-2:]] == [
        ("projection/kernel", "ctx_encoder.encode_proj.weight", True),
        ("projection/bias", "ctx_encoder.encode_proj.bias", False),
    ]


def test_each_kernel_is_transposed_and_no_table_is():
    for weights, _ in MODELS.values():
        for weight in weights:
            # T5's biases by distance are [heads, buckets] in T5X, turned in torch.
            turned = weight.path.endswith(("kernel", "rel_embedding"))
            assert weight.transposed == turned, weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_layer_norm": True}, "pre_layer_norm True and embedding_layer_norm True"),
        ({"embedding_layer_norm": False}, "pre_layer_norm False"),
        ({"use_positions": False}, "without use_positions"),
        ({"type_vocab_size": 0}, "type_vocab_size 0"),
        ({"head_dim": 4}, "head_dim 4"),
    ],
)
def test_a_bert_that_transformers_has_not_is_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        names.bert_weights(dataclasses.replace(BERT, **changes))


def test_dpr_has_no_pre_ln_form():
    with pytest.raises(ConfigError, match="DPR's encoders are post-LN"):
        names.dpr_weights(MEGATRON, 0, "ctx_encoder")
