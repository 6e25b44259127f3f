"""Hugging Face's names of tensors beside our paths of parameters."""

import dataclasses
from collections.abc import Iterator

from art_jax.checkpoints.weights import Weight
from art_jax.errors import ConfigError
from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
T5_EMBEDDINGS = "shared.weight"
T5_HEAD = "lm_head.weight"

_EMBEDDINGS = (
    ("token_embedder/embedding", WORD_EMBEDDINGS),
    ("position_embedder/embedding", "embeddings.position_embeddings.weight"),
    ("type_embedder/embedding", "embeddings.token_type_embeddings.weight"),
)
_LAYER = (
    ("attention/query", "attention.self.query"),
    ("attention/key", "attention.self.key"),
    ("attention/value", "attention.self.value"),
    ("attention/out", "attention.output.dense"),
    ("mlp/wi", "intermediate.dense"),
    ("mlp/wo", "output.dense"),
)
# What normalises what: BERT each half's sum, Megatron's BERT what enters a half.
_BERT_NORMS = (
    ("attention_norm", "attention.output.LayerNorm"),
    ("mlp_norm", "output.LayerNorm"),
)
_MEGATRON_NORMS = (("attention_norm", "attention.ln"), ("mlp_norm", "ln"))
_T5_ATTENTION = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))


def bert_weights(config: BertConfig, prefix: str = "") -> list[Weight]:
    """The weights of a BertModel, or MegatronBertModel; `prefix` precedes each name.

    Raises:
        ConfigError: the configuration is of neither.
    """
    _require_form(config)
    megatron = config.pre_layer_norm
    norms = _MEGATRON_NORMS if megatron else _BERT_NORMS
    weights = [Weight(path, name) for path, name in _EMBEDDINGS]
    if not megatron:
        weights += _layer_norm("embedding_norm", "embeddings.LayerNorm")
    for i in range(config.num_layers):
        for path, name in _LAYER:
            weights += _dense(f"layers_{i}/{path}", f"encoder.layer.{i}.{name}")
        for path, name in norms:
            weights += _layer_norm(f"layers_{i}/{path}", f"encoder.layer.{i}.{name}")
    if megatron:
        weights += _layer_norm("final_norm", "encoder.ln")
    if config.add_pooler:
        weights += _dense("pooler", "pooler.dense")
    return [dataclasses.replace(w, name=prefix + w.name) for w in weights]


def dpr_weights(config: BertConfig, projection_dim: int, encoder: str) -> list[Weight]:
    """The weights of one tower of a dual encoder, as DPR's encoders name them.

    Args:
        config: the tower's BERT.
        projection_dim: the tower's; 0: no projection.
        encoder: "question_encoder" or "ctx_encoder".

    Raises:
        ConfigError: the configuration is not of a BertModel.
    """
    if config.pre_layer_norm:
        raise ConfigError(
            "DPR's encoders are post-LN: a BertConfig with pre_layer_norm has no such "
            "form."
        )
    weights = [
        dataclasses.replace(weight, path=f"encoder/{weight.path}")
        for weight in bert_weights(config, f"{encoder}.bert_model.")
    ]
    if projection_dim:
        weights += _dense("projection", f"{encoder}.encode_proj")
    return weights


def t5_weights(config: T5Config) -> list[Weight]:
    """The weights of a T5ForConditionalGeneration, v1.0 or v1.1."""
    gated = len(config.mlp_activations) > 1
    inner = ("wi_0", "wi_1") if gated else ("wi",)

    def attention(path: str, name: str) -> Iterator[Weight]:
        for ours, theirs in _T5_ATTENTION:
            yield Weight(f"{path}/{ours}/kernel", f"{name}.{theirs}.weight", True)

    def stack(ours: str, num_layers: int, sublayers) -> Iterator[Weight]:
        table = f"{ours}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield Weight(f"{ours}/relpos_bias/rel_embedding", table, True)
        for i in range(num_layers):
            path, name = f"{ours}/layers_{i}", f"{ours}.block.{i}.layer"
            for j, (norm, module, theirs) in enumerate(sublayers):
                yield Weight(f"{path}/{norm}/scale", f"{name}.{j}.layer_norm.weight")
                if module != "mlp":
                    yield from attention(f"{path}/{module}", f"{name}.{j}.{theirs}")
                    continue
                for kernel in (*inner, "wo"):
                    yield Weight(
                        f"{path}/mlp/{kernel}/kernel",
                        f"{name}.{j}.DenseReluDense.{kernel}.weight",
                        True,
                    )
        yield Weight(f"{ours}/{ours}_norm/scale", f"{ours}.final_layer_norm.weight")

    mlp = ("pre_mlp_layer_norm", "mlp", None)
    weights = [Weight("token_embedder/embedding", T5_EMBEDDINGS)]
    weights += stack(
        "encoder",
        config.num_encoder_layers,
        [("pre_attention_layer_norm", "attention", "SelfAttention"), mlp],
    )
    weights += stack(
        "decoder",
        config.num_decoder_layers,
        [
            ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
            (
                "pre_cross_attention_layer_norm",
                "encoder_decoder_attention",
                "EncDecAttention",
            ),
            mlp,
        ],
    )
    if not config.logits_via_embedding:
        weights.append(Weight("decoder/logits_dense/kernel", T5_HEAD, True))
    return weights


def _dense(path: str, name: str) -> Iterator[Weight]:
    yield Weight(f"{path}/kernel", f"{name}.weight", True)
    yield Weight(f"{path}/bias", f"{name}.bias")


def _layer_norm(path: str, name: str) -> Iterator[Weight]:
    yield Weight(f"{path}/scale", f"{name}.weight")
    yield Weight(f"{path}/bias", f"{name}.bias")


def _require_form(config: BertConfig) -> None:
    """Raises where neither BertModel nor MegatronBertModel computes what this does."""
    if config.pre_layer_norm == config.embedding_layer_norm:
        raise ConfigError(
            "Hugging Face's BertModel is post-LN with embedding_layer_norm, its "
            "MegatronBertModel pre-LN without: a BertConfig with pre_layer_norm "
            f"{config.pre_layer_norm} and embedding_layer_norm "
            f"{config.embedding_layer_norm} has neither form."
        )
    if not (config.use_positions and config.type_vocab_size):
        raise ConfigError(
            "Hugging Face's BertModel has positions and token types: a BertConfig "
            "without use_positions, or with type_vocab_size 0, has no such form."
        )
    if config.width_of_head * config.num_heads != config.hidden_size:
        raise ConfigError(
            "Hugging Face's BertModel has heads of hidden_size / num_heads: a "
            f"BertConfig with head_dim {config.head_dim}, {config.num_heads} heads and "
            f"hidden_size {config.hidden_size} has no such form."
        )
