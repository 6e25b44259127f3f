"""The modules a folder of sentence-transformers lists, and what they compute.

Each kind of module has a reader that adds it to the tower; the code of a folder is
never run. `sentence_transformers` writes the same kinds.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from art_jax.checkpoints import hf_tokenizers, huggingface, tensors
from art_jax.checkpoints.json_files import read_array, read_object
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.checkpoints.weights import Weight, to_params
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.types import Params

# Our sides by the names of their routes; the first is what we write. Asym, which the
# Router once was, had no fixed names.
ROUTES = {
    "query": ("query", "question"),
    "passage": ("document", "passage", "doc", "corpus"),
}
MODULES = "modules.json"
TRANSFORMER_CONFIG = "sentence_bert_config.json"

WEIGHTED_MEAN = "weighted_mean.WeightedMean"
IDENTITY = "torch.nn.modules.linear.Identity"
DENSE_WEIGHTS = (
    Weight("kernel", "linear.weight", True),
    Weight("bias", "linear.bias"),
)
WEIGHTED_MEAN_WEIGHTS = (
    Weight("token_weights/embedding", "token_weights.weight"),
    Weight("hidden_weights/kernel", "hidden_weights.weight", True),
)

# Names of classes, older ones too, by what they are here.
_KINDS = {
    "Transformer": "Transformer",
    "Pooling": "Pooling",
    "Dense": "Dense",
    "Normalize": "Normalize",
    "Router": "Router",
    "Asym": "Router",
}
# Pooling's older settings, one a mode, in the order in which it joins their vectors.
OLD_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = ("cls", "mean")

# No size is near this; what is beyond was made to use up memory.
_MOST = 2**24


@dataclasses.dataclass(frozen=True)
class Module:
    """One entry of modules.json or router_config.json.

    kind: the last part of its type: "Transformer", "Pooling", ...
    folder: where its files are.
    """

    kind: str
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Tower:
    """What one chain of modules computes; `params` as dual_encoder.py has a tower."""

    config: BertConfig
    params: Params
    pooling: str
    normalize: bool
    projection_dim: int
    tokenizer: WordPieceTokenizer | None
    max_query_tokens: int
    max_passage_tokens: int


def read_chains(folder: pathlib.Path) -> dict[str, list[Module]]:
    """The modules that a query, and that a passage, goes through."""
    path = folder / MODULES
    modules = []
    for entry in read_array(path):
        if not isinstance(entry, dict):
            raise wrong(path, "an entry is not an object")
        reference, name = entry.get("type"), entry.get("path", "")
        modules.append(Module(_kind(reference, path), _inside(folder, name, path)))
    chains: dict[str, list[Module]] = {"query": [], "passage": []}
    for module in modules:
        routes = dict.fromkeys(chains, [module])
        if module.kind == "Router":
            routes = _read_routes(module.folder)
        for side, route in routes.items():
            chains[side] += route
    return chains


def _read_routes(folder: pathlib.Path) -> dict[str, list[Module]]:
    """The modules of each route of a Router."""
    path = folder / "router_config.json"
    if not path.exists():
        path = folder / "config.json"  # as Asym had it
    settings = read_object(path)
    types, structure = settings.get("types"), settings.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise wrong(path, "types or structure is not an object")
    mappings = settings.get("parameters")
    if isinstance(mappings, dict) and mappings.get("route_mappings"):
        raise ConfigError(
            f"{path} has route_mappings: only routes named after their task, query "
            "and document, are read here."
        )
    routes = {}
    for side, names in ROUTES.items():
        found = [name for name in names if name in structure]
        if len(found) != 1:
            raise ConfigError(
                f"{path} has the routes {', '.join(map(repr, structure))}: there must "
                f"be one for each {side}, called {' or '.join(names)}."
            )
        chain = structure[found[0]]
        if not isinstance(chain, list) or not all(
            isinstance(name, str) and name in types for name in chain
        ):
            raise wrong(path, f"route {found[0]!r} lists modules without a type")
        routes[side] = [
            Module(_kind(types[name], path), _inside(folder, name, path))
            for name in chain
        ]
    return routes


def _kind(reference: object, path: pathlib.Path) -> str:
    """The name of a module's class, where it is one that is known."""
    if not isinstance(reference, str):
        raise wrong(path, f"the type {reference!r} is not a string")
    if reference == WEIGHTED_MEAN:
        return "WeightedMean"
    name = reference.split(".")[-1]
    if not reference.startswith("sentence_transformers.") or name not in _KINDS:
        raise ConfigError(
            f"{path} has a module of type {reference!r}: only Transformer, Pooling, "
            "Dense, Normalize and Router are read here, and art_jax's own weighted "
            "mean; code in a folder is never run."
        )
    return _KINDS[name]


def _inside(folder: pathlib.Path, name: object, path: pathlib.Path) -> pathlib.Path:
    """A folder within `folder`.

    Raises:
        CorruptError: it is outside.
    """
    if not isinstance(name, str) or "\0" in name or "\\" in name or ":" in name:
        raise wrong(path, f"{name!r} is not the path of a folder in it")
    inner = folder / name
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise wrong(path, f"the path {name!r} leads out of the folder")
    return inner


def open_tower(chain: Sequence[Module]) -> Tower:
    """What a chain of modules computes.

    Raises:
        ConfigError: nothing here computes such a chain, or such a module.
        CorruptError: files are missing, damaged or do not fit each other.
    """
    kinds = [module.kind for module in chain]
    if kinds not in _ENCODERS:
        place = chain[0].folder if chain else MODULES
        raise ConfigError(
            f"{place}: the modules {', '.join(kinds) or '(none)'} are no encoder that "
            "is computed here: a Transformer, Pooling, then Dense or Normalize or both "
            "in this order."
        )
    fields: dict[str, Any] = {"normalize": False, "projection_dim": 0}
    params: Params = {}
    for module in chain:
        part = _READERS[module.kind](module.folder, fields.get("config"))
        params |= part.pop("params", {})
        fields |= part
    return Tower(params=params, **fields)


# Each reader returns the fields of `Tower` that its module decides; `config` is that
# of the Transformer before it.


def _open_transformer(folder: pathlib.Path, config: None) -> dict[str, Any]:
    config, params = huggingface.open_bert(folder)
    tokenizer = hf_tokenizers.open_tokenizer(folder)
    if not isinstance(tokenizer, WordPieceTokenizer | None):
        raise ConfigError(f"{folder}: its tokeniser is not of word pieces, as BERT's.")
    path = folder / TRANSFORMER_CONFIG
    settings = read_object(path) if path.exists() else {}
    require_value(path, settings, "transformer_task", "feature-extraction")
    require_value(path, settings, "module_output_name", "token_embeddings")
    if settings.get("do_lower_case") and tokenizer and not tokenizer.lowercase:
        raise ConfigError(
            f"{path}: do_lower_case is set beside a tokeniser that keeps case and "
            "accents: texts would lose their case and keep their accents, which no "
            "tokeniser here does."
        )
    limit = size_or_none(path, settings, "max_seq_length") or _tokenizer_limit(folder)

    def tokens(key: str) -> int:
        given = size_or_none(path, settings, key) or limit or config.max_positions
        return min(given, config.max_positions)

    return {
        "config": config,
        "params": {"encoder": params},
        "tokenizer": tokenizer,
        "max_query_tokens": tokens("query_length"),
        "max_passage_tokens": tokens("document_length"),
    }


def _open_pooling(folder: pathlib.Path, config: BertConfig) -> dict[str, Any]:
    path = folder / "config.json"
    settings = read_object(path)
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_POOLING_MODES.items() if settings.get(key)]
        modes = modes or "mean"
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ConfigError(
            f"{path}: its pooling is {' and '.join(map(str, modes))}: only "
            f"{' or '.join(_POOLINGS)} is computed here."
        )
    width = settings.get(
        "embedding_dimension", settings.get("word_embedding_dimension")
    )
    if width not in (None, config.hidden_size):
        raise wrong(path, f"it pools vectors of {width}, not {config.hidden_size}")
    return {"pooling": modes[0]}


def _open_weighted_mean(folder: pathlib.Path, config: BertConfig) -> dict[str, Any]:
    params = _open_weights(
        folder,
        WEIGHTED_MEAN_WEIGHTS,
        {
            "token_weights": {"embedding": (config.vocab_size, 1)},
            "hidden_weights": {"kernel": (config.hidden_size, 1)},
        },
    )
    return {"pooling": "weighted_mean", "params": {"pooling": params}}


def _open_dense(folder: pathlib.Path, config: BertConfig) -> dict[str, Any]:
    path = folder / "config.json"
    settings = read_object(path)
    # Where none is given it is Tanh.
    activation = settings.get("activation_function", "Tanh")
    if not isinstance(activation, str) or activation.split(".")[-1] != "Identity":
        raise ConfigError(
            f"{path}: its activation_function is {activation!r}: a projection here is "
            "linear, so only Identity is computed."
        )
    require_value(path, settings, "use_residual", False)
    _require_sentence_embedding(path, settings)
    width = size_or_none(path, settings, "out_features")
    if width is None:
        raise wrong(path, "out_features is missing")
    shapes = {"kernel": (config.hidden_size, width), "bias": (width,)}
    if settings.get("bias", True):
        params = _open_weights(folder, DENSE_WEIGHTS, shapes)
    else:
        del shapes["bias"]
        params = _open_weights(folder, DENSE_WEIGHTS[:1], shapes)
        params["bias"] = tensors.from_array(np.zeros(width, np.float32))
    return {"projection_dim": width, "params": {"projection": params}}


def _open_normalize(folder: pathlib.Path, config: BertConfig) -> dict[str, Any]:
    path = folder / "config.json"  # since version 6
    if path.exists():
        _require_sentence_embedding(path, read_object(path))
    return {"normalize": True}


_READERS = {
    "Transformer": _open_transformer,
    "Pooling": _open_pooling,
    "WeightedMean": _open_weighted_mean,
    "Dense": _open_dense,
    "Normalize": _open_normalize,
}
_ENCODERS = [
    ["Transformer", pooling, *dense, *normalize]
    for pooling in ("Pooling", "WeightedMean")
    for dense in ([], ["Dense"])
    for normalize in ([], ["Normalize"])
]


def _open_weights(
    folder: pathlib.Path, weights: Sequence[Weight], shapes: Params
) -> Params:
    """The tensors of a module, unread, in the shapes they must have."""
    params = to_params(weights, huggingface.open_tensors(folder), folder)
    wanted = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    require_shapes(params, wanted, folder)
    return params


def _require_sentence_embedding(path: pathlib.Path, settings: Mapping) -> None:
    for key in ("module_input_name", "module_output_name"):
        require_value(path, settings, key, "sentence_embedding")


def _tokenizer_limit(folder: pathlib.Path) -> int | None:
    """The limit that tokenizer_config.json states, where versions 5 and later do."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return None
    limit = read_object(path).get("model_max_length")
    # Without a limit it is 1e30, which older versions write as a float.
    return limit if type(limit) is int and limit > 0 else None


def size_or_none(
    path: pathlib.Path, settings: Mapping[str, Any], key: str
) -> int | None:
    """The number of tokens, or another size, under a key; None: none is given."""
    value = settings.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 < value < _MOST:
        raise wrong(path, f"{key} is {value!r}, not a size")
    return value


def require_value(
    path: pathlib.Path, settings: Mapping[str, Any], key: str, only: object
) -> None:
    """Raises ConfigError where a key is given with another value than `only`."""
    value = settings.get(key, only)
    if value not in (only, None):
        raise ConfigError(
            f"{path}: {key} is {value!r}: only {only!r} is computed here."
        )


def wrong(path: pathlib.Path, what: str) -> CorruptError:
    """The error of a file that holds what no version of the library writes."""
    return CorruptError(f"{path}: {what}: copy the folder again from its source.")
