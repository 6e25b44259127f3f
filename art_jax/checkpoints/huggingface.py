"""Hugging Face weights in and out: BERT, DPR towers and T5, in safetensors files.

A model's correspondence is a list of `Weight`s, one a tensor, used in both
directions: `to_params` reads, `to_tensors` writes. Nothing here runs code from a
file: safetensors and JSON only.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import jax
import ml_dtypes  # noqa: F401 (its import gives NumPy the name "bfloat16")
import numpy as np
import safetensors

from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert, t5
from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config
from art_jax.types import Params

_BERT_NAMES = (
    ("token_embedder/embedding", "embeddings.word_embeddings.weight"),
    ("position_embedder/embedding", "embeddings.position_embeddings.weight"),
    ("type_embedder/embedding", "embeddings.token_type_embeddings.weight"),
    ("embedding_norm", "embeddings.LayerNorm"),
)
_BERT_LAYER_NAMES = (
    ("attention/query", "attention.self.query"),
    ("attention/key", "attention.self.key"),
    ("attention/value", "attention.self.value"),
    ("attention/out", "attention.output.dense"),
    ("attention_norm", "attention.output.LayerNorm"),
    ("mlp/wi", "intermediate.dense"),
    ("mlp/wo", "output.dense"),
    ("mlp_norm", "output.LayerNorm"),
)
_T5_ATTENTION_NAMES = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))


@dataclasses.dataclass(frozen=True)
class Weight:
    """One tensor under its two names.

    Attributes:
        path: ours, parts joined by "/".
        name: Hugging Face's.
        transposed: theirs is the transpose of ours.
    """

    path: str
    name: str
    transposed: bool = False


def bert_weights(config: BertConfig, prefix: str = "") -> list[Weight]:
    """The weights of a post-LN BERT; `prefix` goes before their names.

    Raises:
        ConfigError: the configuration is not of Hugging Face's BertModel.
    """
    if config.pre_layer_norm or not config.embedding_layer_norm:
        raise ConfigError(
            "Hugging Face's BertModel normalises embeddings and is post-LN: a "
            "BertConfig with pre_layer_norm, or without embedding_layer_norm, has "
            "no such form."
        )
    if not (config.use_positions and config.type_vocab_size):
        raise ConfigError(
            "Hugging Face's BertModel has positions and token types: a BertConfig "
            "without use_positions, or with type_vocab_size 0, has no such form."
        )

    def both(path: str, name: str) -> Iterator[Weight]:
        norm = path.endswith("norm")
        yield Weight(
            f"{path}/{'scale' if norm else 'kernel'}", f"{name}.weight", not norm
        )
        yield Weight(f"{path}/bias", f"{name}.bias")

    weights = [Weight(path, name) for path, name in _BERT_NAMES[:3]]
    weights += both(*_BERT_NAMES[3])
    for i in range(config.num_layers):
        for path, name in _BERT_LAYER_NAMES:
            weights += both(f"layers_{i}/{path}", f"encoder.layer.{i}.{name}")
    if config.add_pooler:
        weights += both("pooler", "pooler.dense")
    return [dataclasses.replace(w, name=prefix + w.name) for w in weights]


def dpr_weights(config: BertConfig, projection_dim: int, encoder: str) -> list[Weight]:
    """The weights of one tower of a dual encoder, as DPR's encoders name them.

    Args:
        config: the tower's BERT.
        projection_dim: the tower's; 0: no projection.
        encoder: "question_encoder" or "ctx_encoder".
    """
    weights = [
        dataclasses.replace(weight, path=f"encoder/{weight.path}")
        for weight in bert_weights(config, f"{encoder}.bert_model.")
    ]
    if projection_dim:
        weights += [
            Weight("projection/kernel", f"{encoder}.encode_proj.weight", True),
            Weight("projection/bias", f"{encoder}.encode_proj.bias"),
        ]
    return weights


def t5_weights(config: T5Config) -> list[Weight]:
    """The weights of a T5, v1.0 or v1.1."""
    gated = len(config.mlp_activations) > 1
    inner = ("wi_0", "wi_1") if gated else ("wi",)

    def attention(path: str, name: str) -> Iterator[Weight]:
        for ours, theirs in _T5_ATTENTION_NAMES:
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
    weights = [Weight("token_embedder/embedding", "shared.weight")]
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
        weights.append(Weight("decoder/logits_dense/kernel", "lm_head.weight", True))
    return weights


def to_params(
    weights: Iterable[Weight], tensors: Mapping[str, np.ndarray], source: object
) -> Params:
    """The parameter tree that named tensors hold; tensors left over are ignored.

    Args:
        weights: which tensor goes where.
        tensors: by Hugging Face's names.
        source: where they came from, for errors.

    Raises:
        CorruptError: tensors are missing; the message names the first of them.
    """
    weights = list(weights)
    missing = [weight.name for weight in weights if weight.name not in tensors]
    if missing:
        raise CorruptError(
            f"{source}: {len(missing)} of {len(weights)} tensors are missing, the "
            f"first is {missing[0]!r}: the file is cut short, or of another model."
        )
    params: dict = {}
    for weight in weights:
        *parents, leaf = weight.path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        tensor = tensors[weight.name]
        node[leaf] = np.ascontiguousarray(tensor.T if weight.transposed else tensor)
    return params


def to_tensors(weights: Iterable[Weight], params: Params) -> dict[str, np.ndarray]:
    """The named tensors of a parameter tree; the inverse of `to_params`."""
    tensors = {}
    for weight in weights:
        leaf = params
        for part in weight.path.split("/"):
            leaf = leaf[part]
        leaf = np.asarray(leaf)
        tensors[weight.name] = np.ascontiguousarray(
            leaf.T if weight.transposed else leaf
        )
    return tensors


def read_tensors(directory: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a model folder: model.safetensors, or the shards of its index.

    Raises:
        ConfigError: the folder holds no safetensors file.
        CorruptError: a file is missing or damaged.
    """
    directory = pathlib.Path(directory)
    index = directory / "model.safetensors.index.json"
    files = [directory / "model.safetensors"]
    if index.exists():
        names = sorted(set(_read_json(index)["weight_map"].values()))
        files = [directory / pathlib.PurePosixPath(name).name for name in names]
    elif not files[0].exists():
        raise ConfigError(
            f"{directory} holds neither model.safetensors nor {index.name}: point to "
            "a folder that does (files of torch.save are not read: they can run code)."
        )
    tensors = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="numpy") as reader:
                for name in reader.keys():  # noqa: SIM118 (no mapping)
                    # Files converted from TensorFlow keep its names of the two.
                    modern = name.replace("LayerNorm.gamma", "LayerNorm.weight")
                    modern = modern.replace("LayerNorm.beta", "LayerNorm.bias")
                    tensors[modern] = reader.get_tensor(name)
        except (OSError, safetensors.SafetensorError) as error:
            raise CorruptError(
                f"{file} cannot be read ({error}): copy it again from its source."
            ) from error
    return tensors


def load_bert(directory: str | pathlib.Path, **changes) -> tuple[BertConfig, Params]:
    """Reads a BertModel, or the BERT inside a model with a head.

    Args:
        directory: holds config.json and safetensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters as NumPy float32.

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = _read_config(directory, "bert")
    tensors = read_tensors(directory)
    prefix = _bert_prefix(tensors, directory)
    pooler = f"{prefix}pooler.dense.weight" in tensors
    config = bert_config(settings, **{"add_pooler": pooler, **changes})
    params = _float32(to_params(bert_weights(config, prefix), tensors, directory))
    _require_bert(config, params, directory)
    return config, params


def load_dpr(
    directory: str | pathlib.Path, **changes
) -> tuple[BertConfig, int, Params]:
    """Reads a DPRQuestionEncoder or DPRContextEncoder.

    Args:
        directory: holds config.json and safetensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, `projection_dim` and one tower's parameters (see
        dual_encoder.py) as NumPy float32; DPR's pooling is "cls".

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = _read_config(directory, "dpr")
    tensors = read_tensors(directory)
    encoder = _bert_prefix(tensors, directory).split(".")[0]
    config = bert_config(settings, **changes)
    projection_dim = settings.get("projection_dim", 0)
    weights = dpr_weights(config, projection_dim, encoder)
    params = _float32(to_params(weights, tensors, directory))
    _require_bert(config, params["encoder"], directory)
    return config, projection_dim, params


def load_t5(directory: str | pathlib.Path, **changes) -> tuple[T5Config, Params]:
    """Reads a T5ForConditionalGeneration: T5, LM-adapted T5, T0, Flan-T5.

    Args:
        directory: holds config.json and safetensors.
        **changes: fields of the configuration to replace, such as `dtype`.

    Returns:
        The configuration, and the parameters in T5X's tree, in the file's dtype.

    Raises:
        ConfigError: the folder is of another kind of model.
        CorruptError: files are missing, damaged or do not fit config.json.
    """
    settings = _read_config(directory, "t5")
    tensors = read_tensors(directory)
    tied = _logits_are_tied(settings, tensors, directory)
    config = t5_config(settings, **{"logits_via_embedding": tied, **changes})
    params = to_params(t5_weights(config), tensors, directory)
    require_shapes(params, t5.param_shapes(config), directory)
    return config, params


def bert_config(settings: Mapping, **changes) -> BertConfig:
    """The BertConfig of a Hugging Face config.json, `changes` replacing fields."""
    activation = settings.get("hidden_act", "gelu")
    positions = settings.get("position_embedding_type", "absolute")
    if activation != "gelu" or positions != "absolute":
        raise ConfigError(
            f"config.json has hidden_act {activation!r} and position_embedding_type "
            f"{positions!r}: this BERT computes 'gelu' (erf) and 'absolute' only."
        )
    config = BertConfig(
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
        num_layers=settings["num_hidden_layers"],
        num_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_positions=settings["max_position_embeddings"],
        type_vocab_size=settings["type_vocab_size"],
        dropout_rate=settings["hidden_dropout_prob"],
        attention_dropout_rate=settings["attention_probs_dropout_prob"],
        layer_norm_eps=settings["layer_norm_eps"],
        initializer_range=settings.get("initializer_range", 0.02),
    )
    return dataclasses.replace(config, **changes)


def t5_config(settings: Mapping, **changes) -> T5Config:
    """The T5Config of a Hugging Face config.json, `changes` replacing fields."""
    activations = {"relu": ("relu",), "gated-gelu": ("gelu", "linear")}
    kind = settings.get("feed_forward_proj", "relu")
    if kind not in activations:
        raise ConfigError(
            f"config.json has feed_forward_proj {kind!r}: T5 v1.0 has 'relu' and "
            "v1.1 'gated-gelu'; nothing else is computed here."
        )
    num_layers = settings["num_layers"]
    config = T5Config(
        vocab_size=settings["vocab_size"],
        emb_dim=settings["d_model"],
        num_heads=settings["num_heads"],
        head_dim=settings["d_kv"],
        mlp_dim=settings["d_ff"],
        num_encoder_layers=num_layers,
        num_decoder_layers=settings.get("num_decoder_layers") or num_layers,
        mlp_activations=activations[kind],
        dropout_rate=settings.get("dropout_rate", 0.0),
    )
    return dataclasses.replace(config, **changes)


def _read_config(directory: str | pathlib.Path, kind: str) -> dict:
    path = pathlib.Path(directory) / "config.json"
    if not path.exists():
        raise ConfigError(
            f"{directory} holds no config.json: point to a Hugging Face model folder."
        )
    settings = _read_json(path)
    if settings.get("model_type") != kind:
        raise ConfigError(
            f"{path}: model_type is {settings.get('model_type')!r} where {kind!r} is "
            "needed: point to a model of that kind."
        )
    return settings


def _read_json(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(
            f"{path} is not JSON ({error}): copy it again from its source."
        ) from error


def _bert_prefix(tensors: Mapping[str, np.ndarray], source: object) -> str:
    """What stands before BERT's own names, such as "ctx_encoder.bert_model."."""
    anchor = _BERT_NAMES[0][1]
    prefixes = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    if len(prefixes) != 1:
        raise CorruptError(
            f"{source}: {len(prefixes)} tensors are named {anchor!r}, with or without "
            "a prefix, where a BERT has one: this is another kind of model."
        )
    return prefixes[0]


def _logits_are_tied(
    settings: Mapping, tensors: Mapping[str, np.ndarray], source: object
) -> bool:
    """Whether a T5's logits come from its embeddings (v1.0), from file and config.

    Transformers 5 says tie_word_embeddings of every T5, and scale_decoder_outputs
    of v1.0 only; transformers 4 says the first of v1.0 only.
    """
    head, shared = tensors.get("lm_head.weight"), tensors.get("shared.weight")
    tied = head is None or (shared is not None and np.array_equal(head, shared))
    old_meaning = settings.get("tie_word_embeddings", True)
    scaled = settings.get("scale_decoder_outputs", old_meaning)
    if tied != scaled:
        raise ConfigError(
            f"{source}: logits are {'' if tied else 'not '}tied to the embeddings and "
            f"{'' if scaled else 'not '}scaled. T5 v1.0 does both, v1.1 neither: "
            "compare scale_decoder_outputs and tie_word_embeddings of config.json "
            "with the model's own."
        )
    return tied


def _require_bert(config: BertConfig, params: Params, source: object) -> None:
    require_shapes(params, bert.param_shapes(config), source)


def _float32(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
