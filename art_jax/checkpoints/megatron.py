"""Retrievers of ART, EMDR2 and MSS: checkpoints of Megatron, read without torch.

    <folder>/latest_checkpointed_iteration.txt        "1000", or "release"
    <folder>/iter_0001000/mp_rank_00/model_optim_rng.pt

The file is a dict of args, checkpoint_version, iteration and model. Model is the
retriever, {query_model, context_model}, or holds it under "retriever/biencoder_model"
(a training checkpoint). A tower is {language_model: {embedding, encoder}}; the encoder
may be called transformer, and its self_attention attention, as in older files. The
architecture is bert.megatron_base: no embedding LayerNorm, pre-LN, erf GELU.

Queries, keys and values are one tensor; the order of its 3D rows changed with
checkpoint_version, always in the same shape:

    0      [3, heads, head_dim]
    1.0    [heads, head_dim, 3]
    >= 2   [heads, 3, head_dim]

ART and EMDR2 write 1.0, and read a file that says nothing as 1.0. Format facts:
megatron/model/{transformer,language_model,dualencoder_model}.py of EMDR2 and ART.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from art_jax.checkpoints import tensors
from art_jax.checkpoints.pickles import Record
from art_jax.checkpoints.pretrained import PretrainedRetriever, require_towers
from art_jax.checkpoints.tensors import FileTensor
from art_jax.checkpoints.torch_files import named_tensors, open_torch
from art_jax.checkpoints.weights import Weight, to_params
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import bert
from art_jax.models.bert import BertConfig
from art_jax.types import Params

_TRACKER = "latest_checkpointed_iteration.txt"
_FILE = "model_optim_rng.pt"
_RETRIEVER = "retriever/biencoder_model"
_READER = "encoder/t5_model"
_TOWERS = {"query_model": "query", "context_model": "passage"}
# bert-large-uncased has 30522 word pieces; two more and padding make a multiple of 128.
_PADDED_ROWS, _WORD_PIECES = 30592, 30522
_HEAD_DIM = 64
_BERT = "BERT"

# Settings of the run that wrote a file.
_LENGTH = "seq_length_retriever"  # queries and passages were padded and cut to it
_RATES = (
    ("dropout_rate", "hidden_dropout"),
    ("attention_dropout_rate", "attention_dropout"),
    ("layer_norm_eps", "layernorm_epsilon"),
)

# The first two are the tanh GELU.
_OTHER_FORMS = (
    "openai_gelu",
    "bias_gelu_fusion",
    "apply_residual_connection_post_layernorm",
)

_WORDS = "embedding.word_embeddings.weight"
_POSITIONS = "embedding.position_embeddings.weight"
_TYPES = "embedding.tokentype_embeddings.weight"
_MLP = "encoder.layers.0.mlp.dense_h_to_4h.weight"
_QKV = "self_attention.query_key_value"
_LAYER = (
    ("attention_norm", "input_layernorm"),
    # These three are what becomes of _QKV.
    ("attention/query", "self_attention.query"),
    ("attention/key", "self_attention.key"),
    ("attention/value", "self_attention.value"),
    ("attention/out", "self_attention.dense"),
    ("mlp_norm", "post_attention_layernorm"),
    ("mlp/wi", "mlp.dense_h_to_4h"),
    ("mlp/wo", "mlp.dense_4h_to_h"),
)
# BERT's own, of no use to a retriever.
_POOLER = "pooler."
# Heads on top of a tower's [CLS]: Megatron's biencoder, its ICT model, its older one.
_HEADS = ("projection_enc", "ict_head", "head")


def open_retriever(
    path: str | pathlib.Path, vocab_size: int | None = None
) -> PretrainedRetriever:
    """Opens a retriever, or the BERT to start one from; no tensor is read.

    Args:
        path: model_optim_rng.pt, the folder of an iteration, or the folder of a run.
        vocab_size: rows of the token table to keep, the rest being padding; None:
            30522 of bert-large-uncased's 30592, all of any other table.

    Raises:
        ConfigError: there is no checkpoint, or it is of another kind of model, or
            split over several files.
        CorruptError: files are damaged, ask for code, or do not fit each other.
    """
    file = _find_file(pathlib.Path(path))
    checkpoint = open_torch(file)
    if not isinstance(checkpoint, dict):
        raise CorruptError(f"{file} holds no dict: it is no checkpoint of Megatron.")
    settings = _settings(checkpoint.get("args"))
    _require_known_form(settings, file)
    kind, models = _find_models(checkpoint.get("model", checkpoint), file)
    models = {
        side: _cut_vocabulary(_current_names(model), vocab_size, file)
        for side, model in models.items()
    }
    config, *others = {_config(model, settings, file) for model in models.values()}
    if others:
        raise CorruptError(f"{file}: its two towers are not of one size.")
    version = _qkv_version(checkpoint.get("checkpoint_version"), file)
    towers = {
        side: _open_tower(config, model, version, file)
        for side, model in models.items()
    }
    return _describe(kind, config, towers, settings, checkpoint, version, file)


def _find_file(path: pathlib.Path) -> pathlib.Path:
    """The file that holds the weights, given it or a folder around it."""
    if not path.is_file():
        folder = _iteration_folder(path)
        if not any(folder.glob("mp_rank_*")):
            raise ConfigError(
                f"{folder} holds no mp_rank_00/{_FILE}: give a checkpoint of Megatron, "
                f"the folder that has {_TRACKER}, or the file itself."
            )
        path = folder / "mp_rank_00" / _FILE
    if path.parent.name.startswith("mp_rank_"):
        ranks = sorted(rank.name for rank in path.parent.parent.glob("mp_rank_*"))
        if ranks != ["mp_rank_00"]:
            raise ConfigError(
                f"{path.parent.parent} holds a model split over {', '.join(ranks)}: "
                "merge it with Megatron's own tools into mp_rank_00 first."
            )
    return path


def _iteration_folder(path: pathlib.Path) -> pathlib.Path:
    tracker = path / _TRACKER
    if not tracker.is_file():
        return path
    text = tracker.read_bytes()[:100].decode("ascii", "replace").strip()
    if text == "release":
        return path / text
    if not re.fullmatch("[0-9]{1,12}", text):
        raise CorruptError(
            f"{tracker} says {text!r}, where the number of an iteration or 'release' "
            "must stand: write there which of the folders iter_* is meant."
        )
    return path / f"iter_{int(text):07d}"


def _settings(args: Any) -> Mapping:
    """The settings of the run that wrote a file: an argparse.Namespace."""
    if isinstance(args, Record):
        args = args.state
    return args if isinstance(args, dict) else {}


def _require_known_form(settings: Mapping, file: pathlib.Path) -> None:
    forms = [name for name in _OTHER_FORMS if settings.get(name)]
    if settings.get("num_unique_layers") not in (None, settings.get("num_layers")):
        forms.append("num_unique_layers")
    if forms:
        raise ConfigError(
            f"{file}: the model was trained with {', '.join(forms)}, which this BERT "
            "does not compute: it has erf GELU, residuals around each LayerNorm, and "
            "weights of its own in each layer."
        )
    parts = [
        settings.get(f"{kind}model_parallel_size") or 1
        for kind in ("", "tensor_", "pipeline_")
    ]
    if parts != [1, 1, 1]:
        raise ConfigError(
            f"{file} is one part of a model that was split (model parallel sizes "
            f"{parts}): merge it with Megatron's own tools first."
        )


def _find_models(model: Any, file: pathlib.Path) -> tuple[str, dict[str, dict]]:
    """What kind of checkpoint it is, and the tensors of each tower by their names."""
    named = named_tensors(model, file)
    kind = "retriever"
    if _below(named, _RETRIEVER):
        is_emdr2 = bool(_below(named, _READER))
        kind = f"{'EMDR2' if is_emdr2 else 'ART'} training checkpoint"
        named = _below(named, _RETRIEVER)
    towers = {ours: _below(named, theirs) for theirs, ours in _TOWERS.items()}
    towers = {name: tower for name, tower in towers.items() if tower}
    if len(towers) == 2:
        return kind, towers
    # One tower for both sides: Megatron names it so, or leaves the other one out.
    shared = _below(named, "shared_model") or next(iter(towers.values()), None)
    if shared:
        return kind, {"shared": shared}
    if _below(named, "language_model"):
        return "BERT", {"shared": _below(named, "language_model")}
    raise ConfigError(
        f"{file} holds no retriever: its model has neither query_model and "
        "context_model nor language_model. Give a checkpoint of ART, EMDR2 or MSS."
    )


def _below(named: Mapping[str, FileTensor], prefix: str) -> dict[str, FileTensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in named.items()
        if name.startswith(f"{prefix}.")
    }


def _qkv_version(version: Any, file: pathlib.Path) -> int | float:
    if version is None:
        return 1.0
    if type(version) in (int, float) and version in (0, 1, 2, 3):
        return version
    raise ConfigError(
        f"{file}: checkpoint_version is {version!r:.50}, and the order of queries, "
        "keys and values is known for 0, 1.0, 2.0 and 3.0 only."
    )


def _current_names(model: Mapping[str, FileTensor]) -> dict[str, FileTensor]:
    """A tower's tensors by the names that Megatron has given them since 2021."""
    renamed = {}
    for name, tensor in model.items():
        name = name.removeprefix("language_model.")
        name = re.sub(r"^transformer\.", "encoder.", name)
        renamed[name.replace(".attention.", ".self_attention.")] = tensor
    return renamed


def _cut_vocabulary(
    model: Mapping[str, FileTensor], vocab_size: int | None, file: pathlib.Path
) -> dict[str, FileTensor]:
    """The same tensors, the padding of the token table left out."""
    rows, width = _matrix_shape(model, _WORDS, file)
    kept = vocab_size or (_WORD_PIECES if rows == _PADDED_ROWS else rows)
    if kept > rows:
        raise ConfigError(
            f"{file}: its token table has {rows} rows, fewer than the vocab_size "
            f"{kept}: give the vocabulary that the model was trained with."
        )
    # An index counts from row 0, so a part of the first rows is a part of the table.
    words = FileTensor((kept, width), model[_WORDS].dtype, model[_WORDS].read)
    return {**model, _WORDS: words}


def _matrix_shape(
    model: Mapping[str, FileTensor], name: str, file: pathlib.Path
) -> tuple[int, int]:
    if name not in model or model[name].ndim != 2:
        raise CorruptError(
            f"{file}: a tower has no matrix {name!r}: the file was cut short, or is of "
            "another model."
        )
    return model[name].shape


def _config(
    model: Mapping[str, FileTensor], settings: Mapping, file: pathlib.Path
) -> BertConfig:
    """The sizes of a tower, from its tensors; heads and rates from the settings."""
    vocab_size, hidden_size = _matrix_shape(model, _WORDS, file)
    num_heads = settings.get("num_attention_heads")
    if type(num_heads) is not int:
        num_heads = hidden_size // _HEAD_DIM
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(
            f"{file}: {num_heads} heads do not divide the hidden size {hidden_size}."
        )
    layer_of = re.compile(r"encoder\.layers\.(\d+)\.").match
    rates = {
        ours: float(settings[theirs])
        for ours, theirs in _RATES
        if type(settings.get(theirs)) in (int, float)
    }
    return bert.megatron_base(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=len({match[1] for match in map(layer_of, model) if match}),
        num_heads=num_heads,
        intermediate_size=_matrix_shape(model, _MLP, file)[0],
        max_positions=_matrix_shape(model, _POSITIONS, file)[0],
        type_vocab_size=_matrix_shape(model, _TYPES, file)[0],
        **rates,
    )


def _open_tower(
    config: BertConfig,
    model: Mapping[str, FileTensor],
    version: float,
    file: pathlib.Path,
) -> Params:
    """One tower's tree, as dual_encoder.py describes it."""
    split = dict(model)
    for name, tensor in model.items():
        if _QKV in name:
            parts = _split_qkv(tensor, config, version, f"{file}: {name!r}")
            for part, rows in parts.items():
                split[name.replace("query_key_value", part)] = rows
    tower = {"encoder": to_params(_weights(config), split, file)}
    below = ("encoder.", "embedding.", _POOLER)
    after = {name for name in model if not name.startswith(below)}
    for head in _HEADS:
        if after == {f"{head}.weight", f"{head}.bias"}:
            projection = [
                Weight("kernel", f"{head}.weight", True),
                Weight("bias", f"{head}.bias"),
            ]
            return {**tower, "projection": to_params(projection, model, file)}
    if after:
        raise ConfigError(
            f"{file}: a tower goes on after BERT with {', '.join(sorted(after))}, "
            "where one linear layer with a bias is all that is known."
        )
    return tower


def _split_qkv(
    tensor: FileTensor, config: BertConfig, version: float, name: str
) -> dict[str, FileTensor]:
    """Queries', keys' and values' weights [D, D], or biases [D], of all in one."""
    size = config.hidden_size
    if tensor.shape not in ((3 * size, size), (3 * size,)):
        raise CorruptError(
            f"{name} has shape {list(tensor.shape)}, where {3 * size} rows of queries, "
            "keys and values must be."
        )
    order = [config.num_heads, config.width_of_head]
    axis = {0: 0, 1: 2}.get(version, 1)
    order.insert(axis, 3)

    def part(i: int) -> FileTensor:
        def compute(rows: np.ndarray) -> np.ndarray:
            apart = rows.reshape(*order, *rows.shape[1:])
            return np.take(apart, i, axis).reshape(size, *rows.shape[1:])

        return tensors.derived(tensor, (size, *tensor.shape[1:]), compute)

    return {name: part(i) for i, name in enumerate(("query", "key", "value"))}


def _weights(config: BertConfig) -> list[Weight]:
    """The weights of one tower, as Megatron names them."""
    weights = [
        Weight("token_embedder/embedding", _WORDS),
        Weight("position_embedder/embedding", _POSITIONS),
        Weight("type_embedder/embedding", _TYPES),
    ]
    pairs = [
        (f"layers_{i}/{path}", f"encoder.layers.{i}.{name}")
        for i in range(config.num_layers)
        for path, name in _LAYER
    ]
    pairs.append(("final_norm", "encoder.final_layernorm"))
    for path, name in pairs:
        is_norm = path.endswith("norm")
        leaf = "scale" if is_norm else "kernel"
        weights.append(Weight(f"{path}/{leaf}", f"{name}.weight", not is_norm))
        weights.append(Weight(f"{path}/bias", f"{name}.bias"))
    return weights


def _describe(
    kind: str,
    config: BertConfig,
    towers: Mapping[str, Params],
    settings: Mapping,
    checkpoint: Mapping,
    version: float,
    file: pathlib.Path,
) -> PretrainedRetriever:
    """What is known of a checkpoint, its towers' shapes checked."""
    projection = next(iter(towers.values())).get("projection")
    is_retriever = kind != _BERT
    iteration, max_tokens = checkpoint.get("iteration"), settings.get(_LENGTH)
    if type(iteration) is not int:
        iteration = None
    if type(max_tokens) is not int or not 0 < max_tokens <= config.max_positions:
        max_tokens = None
    at = "" if iteration is None else f", iteration {iteration}"
    found = PretrainedRetriever(
        format=f"Megatron {kind}{at} (QKV of version {version})",
        config=config,
        towers=towers,
        pooling="cls" if is_retriever else None,
        normalize=False if is_retriever else None,
        projection_dim=projection["bias"].size if projection else 0,
        max_query_tokens=max_tokens,
        max_passage_tokens=max_tokens,
        training={} if iteration is None else {"iteration": iteration},
    )
    require_towers(found, file)
    return found
