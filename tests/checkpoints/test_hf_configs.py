import dataclasses
import json
import pathlib

import pytest

from art_jax.checkpoints import hf_configs
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert, t5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
BERT = bert.tiny(dropout_rate=0.3, attention_dropout_rate=0.2, layer_norm_eps=1e-7)
T5 = t5.v1_1("small", num_decoder_layers=3, dropout_rate=0.1)


def settings(values, path="a/config.json"):
    return hf_configs.Settings(pathlib.Path(path), values)


def bert_values(**changes):
    return {"model_type": "bert", **hf_configs.bert_settings(BERT), **changes}


def t5_values(**changes):
    return {"model_type": "t5", **hf_configs.t5_settings(T5), **changes}


def written(folder, value):
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "config.json").write_text(text)
    return folder


def test_a_config_that_transformers_wrote_is_read():
    found = hf_configs.read_settings(GOLDEN / "dpr_ctx_encoder", "dpr")
    assert found.model_type == "dpr"
    assert found.architectures == ("DPRContextEncoder",)
    assert found.size("projection_dim", least=0) == 24
    assert hf_configs.bert_config(found) == bert.BertConfig(
        vocab_size=272,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=64,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )


@pytest.mark.parametrize("kind", ["bert", "dpr", "megatron-bert"])
def test_a_bert_is_read_as_it_was_written(kind):
    megatron = kind == "megatron-bert"
    config = dataclasses.replace(
        BERT, pre_layer_norm=megatron, embedding_layer_norm=not megatron
    )
    values = {"model_type": kind, **hf_configs.bert_settings(config)}
    assert hf_configs.bert_config(settings(values)) == config


@pytest.mark.parametrize(
    "config",
    [T5, t5.v1_0("base"), dataclasses.replace(T5, logits_via_embedding=True)],
    ids=["v1.1", "v1.0", "gated and tied"],
)
def test_a_t5_is_read_as_it_was_written(config):
    values = {"model_type": "t5", **hf_configs.t5_settings(config)}
    assert hf_configs.t5_config(settings(values)) == config


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        ({}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True}, True),
        # Transformers 5 ties every T5, and says here what the other key once meant.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
    ],
)
def test_a_t5_is_scaled_as_either_transformers_says_it(values, scaled):
    assert hf_configs.t5_is_scaled(settings(values)) == scaled


@pytest.mark.parametrize("tied", [True, False])
def test_a_t5_is_written_for_both_transformers(tied):
    config = dataclasses.replace(T5, logits_via_embedding=tied)
    values = hf_configs.t5_settings(config)
    assert values["tie_word_embeddings"] is tied  # transformers 4's
    assert values["scale_decoder_outputs"] is tied  # transformers 5's


@pytest.mark.parametrize("key", ["tie_word_embeddings", "scale_decoder_outputs"])
def test_a_flag_that_is_none_is_named(key):
    with pytest.raises(CorruptError, match=f"{key} is 'false': it must be true or"):
        hf_configs.t5_config(settings(t5_values(**{key: "false"})))


def test_a_decoder_has_as_many_layers_as_the_encoder_unless_said():
    for values in ({}, {"num_decoder_layers": None}):
        values = {**t5_values(num_layers=5, num_decoder_layers=None), **values}
        config = hf_configs.t5_config(settings(values))
        assert (config.num_encoder_layers, config.num_decoder_layers) == (5, 5)


BERT_SIZES = [
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
]
T5_SIZES = ["vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"]


@pytest.mark.parametrize(
    "value", [10**12, 2**63, -1, 0.5, 2.0, "768", None, True, [768], {}], ids=repr
)
@pytest.mark.parametrize("key", BERT_SIZES)
def test_an_absurd_size_of_a_bert_is_named(key, value):
    with pytest.raises(CorruptError, match=rf"config\.json: {key} is .* whole number"):
        hf_configs.bert_config(settings(bert_values(**{key: value})))


@pytest.mark.parametrize("value", [10**12, -1, 0, 2.0, "8", False], ids=repr)
@pytest.mark.parametrize("key", [*T5_SIZES, "num_decoder_layers"])
def test_an_absurd_size_of_a_t5_is_named(key, value):
    with pytest.raises(CorruptError, match=rf"config\.json: {key} is .* whole number"):
        hf_configs.t5_config(settings(t5_values(**{key: value})))


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_layers"])
def test_a_billion_layers_are_refused_before_a_list_of_them_is_made(key):
    read, values = {
        "num_hidden_layers": (hf_configs.bert_config, bert_values),
        "num_layers": (hf_configs.t5_config, t5_values),
    }[key]
    with pytest.raises(CorruptError, match=f"{key} is 1000000000: .* to 1024"):
        read(settings(values(**{key: 10**9})))


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf"), "0.1", None])
@pytest.mark.parametrize(
    ("key", "read", "values"),
    [
        ("hidden_dropout_prob", hf_configs.bert_config, bert_values),
        ("attention_probs_dropout_prob", hf_configs.bert_config, bert_values),
        ("layer_norm_eps", hf_configs.bert_config, bert_values),
        ("initializer_range", hf_configs.bert_config, bert_values),
        ("dropout_rate", hf_configs.t5_config, t5_values),
    ],
)
def test_a_rate_out_of_range_is_named(key, read, values, value):
    with pytest.raises(CorruptError, match=rf"config\.json: {key} is .* from 0 to 1"):
        read(settings(values(**{key: value})))


@pytest.mark.parametrize("key", [*BERT_SIZES, *T5_SIZES])
def test_a_missing_size_is_named(key):
    is_bert = key in BERT_SIZES
    values = bert_values() if is_bert else t5_values()
    read = hf_configs.bert_config if is_bert else hf_configs.t5_config
    del values[key]
    with pytest.raises(CorruptError, match=rf"config\.json: {key} is missing"):
        read(settings(values))


def test_heads_that_do_not_divide_the_width_are_damage():
    with pytest.raises(CorruptError, match="hidden_size 128 .* num_attention_heads 3"):
        hf_configs.bert_config(settings(bert_values(num_attention_heads=3)))


@pytest.mark.parametrize(
    ("read", "values", "key", "value"),
    [
        (hf_configs.bert_config, bert_values, "hidden_act", "gelu_new"),
        (hf_configs.bert_config, bert_values, "hidden_act", ["gelu"]),
        (hf_configs.bert_config, bert_values, "position_embedding_type", "relative"),
        (hf_configs.bert_config, bert_values, "is_decoder", True),
        (hf_configs.t5_config, t5_values, "feed_forward_proj", "gated-silu"),
        (hf_configs.t5_config, t5_values, "feed_forward_proj", ["relu"]),
        (hf_configs.t5_config, t5_values, "relative_attention_num_buckets", 64),
        (hf_configs.t5_config, t5_values, "relative_attention_max_distance", 256),
        (hf_configs.t5_config, t5_values, "layer_norm_epsilon", 1e-5),
    ],
)
def test_a_form_that_is_not_computed_is_an_error(read, values, key, value):
    with pytest.raises(ConfigError, match=rf"config\.json: {key} is "):
        read(settings(values(**{key: value})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_activations": ("gelu",)}, r"mlp_activations is \('gelu',\)"),
        ({"relpos_bias_per_layer": True}, "relpos_bias_per_layer"),
    ],
)
def test_a_t5_that_transformers_has_not_is_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        hf_configs.t5_settings(dataclasses.replace(T5, **changes))


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(CorruptError) as error:
        hf_configs.bert_config(settings(bert_values(vocab_size="9" * 10_000)))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("architectures", [None, "BertModel", 3, {}])
def test_architectures_that_are_no_list_are_none(architectures):
    assert settings({"architectures": architectures}).architectures == ()


def test_another_kind_of_model_is_an_error(tmp_path):
    folder = written(tmp_path, {"model_type": "roberta"})
    with pytest.raises(ConfigError, match="'roberta' where 'bert' or 'dpr'"):
        hf_configs.read_settings(folder, "bert", "dpr")
    with pytest.raises(ConfigError, match="model_type is None"):
        hf_configs.read_settings(written(tmp_path, {}), "bert")


def test_a_folder_without_config_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        hf_configs.read_settings(tmp_path, "bert")


@pytest.mark.parametrize("text", ["{", "[]", '"bert"', '{"a":' * 100_000])
def test_a_config_that_is_no_object_is_damage(tmp_path, text):
    with pytest.raises(CorruptError, match=r"config\.json "):
        hf_configs.read_settings(written(tmp_path, text), "bert")
