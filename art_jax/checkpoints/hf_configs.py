"""Hugging Face's config.json beside our configurations, every value checked."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from art_jax.checkpoints.json_files import read_object
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5
from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config

# No model is near these; what is beyond them was made to use up memory or time.
_MOST = 2**24
_MOST_LAYERS = 2**10

# What both writers of T5 files say of its tokens.
T5_TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}

_REQUIRED = object()
_T5_ACTIVATIONS = {"relu": ("relu",), "gated-gelu": ("gelu", "linear")}
# What every T5 has, and nothing else is computed here.
_T5_FORM = {
    "relative_attention_num_buckets": t5.RELATIVE_BUCKETS,
    "relative_attention_max_distance": t5.MAX_DISTANCE,
    "layer_norm_epsilon": 1e-6,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a config.json says.

    path: of the file, for errors.
    values: by key.
    """

    path: pathlib.Path
    values: Mapping[str, Any] = dataclasses.field(repr=False)

    @property
    def model_type(self) -> object:
        """Which kind of model it is."""
        return self.values.get("model_type")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of transformers' classes, as far as they are given."""
        names = self.values.get("architectures")
        return tuple(names) if isinstance(names, list) else ()

    def size(self, key: str, *, least=1, most=_MOST, default=_REQUIRED) -> int:
        """The whole number under a key.

        Raises:
            CorruptError: it is missing, of another type or out of range.
        """
        value = self._value(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def fraction(self, key: str, default=_REQUIRED) -> float:
        """The number from 0 to 1 under a key; errors as `size`."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise self._wrong(key, value, "a number from 0 to 1")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Whether a key is true; errors as `size`."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self._wrong(key, value, "true or false")
        return value

    def require(self, key: str, only: object, what: str) -> None:
        """Checks the value under a key, where it is given.

        Raises:
            ConfigError: it is another one than `only`, so nothing here computes it.
        """
        value = self.values.get(key, only)
        if value != only:
            raise ConfigError(
                f"{self.path}: {key} is {_shown(value)}: {what} here has {only!r}, and "
                "nothing else is computed."
            )

    def _value(self, key: str, default: object) -> object:
        if key not in self.values and default is _REQUIRED:
            raise CorruptError(
                f"{self.path}: {key} is missing: copy the file again from its source."
            )
        return self.values.get(key, default)

    def _wrong(self, key: str, value: object, rule: str) -> CorruptError:
        return CorruptError(
            f"{self.path}: {key} is {_shown(value)}: it must be {rule}. Copy the file "
            "again from its source."
        )


def read_settings(folder: str | os.PathLike, *kinds: str) -> Settings:
    """What the config.json of a model folder says.

    Args:
        folder: of the model.
        *kinds: which `model_type`s will do.

    Raises:
        ConfigError: there is no such file, or it is of another kind of model.
        CorruptError: it is damaged.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(
            f"{folder} holds no config.json: point to a Hugging Face model folder."
        )
    settings = Settings(path, read_object(path))
    if settings.model_type not in kinds:
        raise ConfigError(
            f"{path}: model_type is {_shown(settings.model_type)} where "
            f"{' or '.join(map(repr, kinds))} is needed: point to a model of that kind."
        )
    return settings


def bert_config(settings: Settings) -> BertConfig:
    """The BertConfig of a "bert", "megatron-bert" or "dpr" model.

    Raises:
        ConfigError: the model computes something else than BertConfig can say.
        CorruptError: a value is missing, of a wrong type or absurd.
    """
    settings.require("hidden_act", "gelu", "the erf GELU of a BERT")
    settings.require("position_embedding_type", "absolute", "a BERT")
    settings.require("is_decoder", False, "a BERT")
    hidden_size = settings.size("hidden_size")
    num_heads = settings.size("num_attention_heads")
    if hidden_size % num_heads:
        raise CorruptError(
            f"{settings.path}: hidden_size {hidden_size} is no multiple of "
            f"num_attention_heads {num_heads}: copy the file again from its source."
        )
    megatron = settings.model_type == "megatron-bert"
    return BertConfig(
        vocab_size=settings.size("vocab_size"),
        hidden_size=hidden_size,
        num_layers=settings.size("num_hidden_layers", least=0, most=_MOST_LAYERS),
        num_heads=num_heads,
        intermediate_size=settings.size("intermediate_size"),
        max_positions=settings.size("max_position_embeddings"),
        type_vocab_size=settings.size("type_vocab_size"),
        dropout_rate=settings.fraction("hidden_dropout_prob", 0.1),
        attention_dropout_rate=settings.fraction("attention_probs_dropout_prob", 0.1),
        layer_norm_eps=settings.fraction("layer_norm_eps", 1e-12),
        initializer_range=settings.fraction("initializer_range", 0.02),
        pre_layer_norm=megatron,
        embedding_layer_norm=not megatron,
    )


def t5_config(settings: Settings) -> T5Config:
    """The T5Config of a "t5" model; whether logits are tied is `t5_is_scaled`'s.

    Raises:
        ConfigError: the model computes something else than T5Config can say.
        CorruptError: a value is missing, of a wrong type or absurd.
    """
    kind = settings.values.get("feed_forward_proj", "relu")
    if not isinstance(kind, str) or kind not in _T5_ACTIVATIONS:
        raise ConfigError(
            f"{settings.path}: feed_forward_proj is {_shown(kind)}: T5 v1.0 has 'relu' "
            "and v1.1 'gated-gelu'; nothing else is computed here."
        )
    for key, value in _T5_FORM.items():
        settings.require(key, value, "a T5")
    num_layers = settings.size("num_layers", most=_MOST_LAYERS)
    num_decoder_layers = num_layers
    if settings.values.get("num_decoder_layers") is not None:
        num_decoder_layers = settings.size("num_decoder_layers", most=_MOST_LAYERS)
    return T5Config(
        vocab_size=settings.size("vocab_size"),
        emb_dim=settings.size("d_model"),
        num_heads=settings.size("num_heads"),
        head_dim=settings.size("d_kv"),
        mlp_dim=settings.size("d_ff"),
        num_encoder_layers=num_layers,
        num_decoder_layers=num_decoder_layers,
        mlp_activations=_T5_ACTIVATIONS[kind],
        logits_via_embedding=t5_is_scaled(settings),
        dropout_rate=settings.fraction("dropout_rate", 0.0),
    )


def t5_is_scaled(settings: Settings) -> bool:
    """Whether a T5's decoder output is scaled before the logits, as v1.0's is.

    Transformers 5 says tie_word_embeddings of every T5, and scale_decoder_outputs
    of v1.0 only; transformers 4 says the first of v1.0 only.
    """
    old_meaning = settings.flag("tie_word_embeddings", True)
    return settings.flag("scale_decoder_outputs", old_meaning)


def bert_settings(config: BertConfig) -> dict[str, Any]:
    """The keys of config.json that say what `bert_config` reads."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.type_vocab_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }


def t5_settings(config: T5Config) -> dict[str, Any]:
    """The keys of config.json that say what `t5_config` reads.

    Raises:
        ConfigError: transformers' T5 has no such form.
    """
    if config.relpos_bias_per_layer:
        raise ConfigError(
            "Hugging Face's T5 has one table of relative position biases a stack: a "
            "T5Config with relpos_bias_per_layer has no such form."
        )
    kinds = {activations: kind for kind, activations in _T5_ACTIVATIONS.items()}
    if config.mlp_activations not in kinds:
        raise ConfigError(
            f"T5Config.mlp_activations is {config.mlp_activations}: Hugging Face's T5 "
            f"has {' and '.join(map(str, kinds))} only."
        )
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": kinds[config.mlp_activations],
        "dropout_rate": config.dropout_rate,
        **_T5_FORM,
        # The first is transformers 4's name for both, the second transformers 5's.
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.logits_via_embedding,
        "is_encoder_decoder": True,
        **T5_TOKENS,
    }


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
