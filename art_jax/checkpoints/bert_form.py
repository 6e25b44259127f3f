"""A BERT in a form that other tools have a class for, and back.

Hugging Face's BertModel and MegatronBertModel have tables of positions and of token
types, heads as wide as hidden_size / num_heads, and a pooler. A BERT without them
computes the same with tables of zeros, with heads that give zero added to its own, and
with a pooler of zeros, which transformers would otherwise draw at random.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from art_jax.checkpoints.tensors import FileTensor, Index
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.types import Params

# A row for each of BERT's two segments, which some tools look up unasked.
_TYPE_VOCAB_SIZE = 2

# The fields that the published form may change, with the types of their values.
_FIELDS = {
    "num_heads": (int,),
    "head_dim": (int, type(None)),
    "type_vocab_size": (int,),
    "use_positions": (bool,),
    "add_pooler": (bool,),
}


def published_form(
    config: BertConfig, params: Params, *, with_pooler: bool = True
) -> tuple[BertConfig, Params]:
    """Returns a BERT that computes the same and has all that BertModel has.

    Args:
        config: post-LN with a normalised embedding (BertModel), or pre-LN without
            (MegatronBertModel).
        params: its parameters, arrays.
        with_pooler: whether the class it is for has one.

    Returns:
        Both unchanged where nothing is missing.

    Raises:
        ConfigError: no other tool has a class that computes it.
    """
    if config.pre_layer_norm == config.embedding_layer_norm:
        raise ConfigError(
            f"BertConfig has pre_layer_norm {config.pre_layer_norm} and "
            f"embedding_layer_norm {config.embedding_layer_norm}: Hugging Face has "
            "BertModel (False and True) and MegatronBertModel (True and False) only, "
            "so this one cannot be exported."
        )
    num_heads = _published_heads(config)
    tables = {}
    like = params["token_embedder"]["embedding"]
    if not config.use_positions:
        tables["position_embedder"] = _zeros(config.max_positions, like)
    if not config.type_vocab_size:
        tables["type_embedder"] = _zeros(_TYPE_VOCAB_SIZE, like)
    if with_pooler and not config.add_pooler:
        tables["pooler"] = _zero_pooler(like)
    if num_heads > config.num_heads:
        missing = (num_heads - config.num_heads) * config.width_of_head
        params = _map_heads(params, lambda leaf, axis: _pad(leaf, axis, missing))
    published = dataclasses.replace(
        config,
        num_heads=num_heads,
        head_dim=None,
        type_vocab_size=config.type_vocab_size or _TYPE_VOCAB_SIZE,
        use_positions=True,
        add_pooler=config.add_pooler or with_pooler,
    )
    return published, {**params, **tables}


def form_changes(config: BertConfig, published: BertConfig) -> dict[str, Any]:
    """The fields of `config` that its published form changed: JSON values."""
    return {
        name: getattr(config, name)
        for name in _FIELDS
        if getattr(config, name) != getattr(published, name)
    }


def own_form(
    published: BertConfig, params: Params, changes: Any, source: object
) -> tuple[BertConfig, Params]:
    """Returns the BERT that `published_form` was given; what is unread stays unread.

    What it added is read, to see that it is still zero: where somebody has trained
    it, the published form is the model, and is returned.

    Args:
        published: of the files.
        params: of the files.
        changes: what `form_changes` gave, as a file holds it.
        source: the file, for errors.

    Raises:
        CorruptError: `changes` are none of a BERT with these sizes.
    """
    _check_changes(published, changes, source)
    config = dataclasses.replace(published, **changes)
    own, added = dict(params), []
    if not config.use_positions:
        added.append(own.pop("position_embedder")["embedding"])
    if not config.type_vocab_size:
        added.append(own.pop("type_embedder")["embedding"])
    if published.add_pooler and not config.add_pooler:
        added += own.pop("pooler").values()
    if config.num_heads < published.num_heads:
        width = config.num_heads * config.width_of_head

        def cut(leaf, axis: int):
            added.append(_part(leaf, axis, width, leaf.shape[axis]))
            return _part(leaf, axis, 0, width)

        own = _map_heads(own, cut)
    if any(np.any(np.asarray(leaf)) for leaf in added):
        return published, params
    return config, own


def _published_heads(config: BertConfig) -> int:
    """How many heads as wide as its own make hidden_size, where others need zeros."""
    width = config.width_of_head
    num_heads, rest = divmod(config.hidden_size, width)
    if rest or num_heads < config.num_heads:
        raise ConfigError(
            f"BertConfig has {config.num_heads} heads of width {width} and hidden_size "
            f"{config.hidden_size}: Hugging Face's heads fill hidden_size exactly. To "
            "export, choose head_dim so that hidden_size is a multiple of it, with as "
            "many heads or fewer."
        )
    return num_heads


def _check_changes(published: BertConfig, changes: Any, source: object) -> None:
    """Raises CorruptError unless `changes` undo something `published_form` does."""
    is_one = isinstance(changes, Mapping) and all(
        name in _FIELDS and type(value) in _FIELDS[name]
        for name, value in changes.items()
    )
    if is_one:
        num_heads = changes.get("num_heads", published.num_heads)
        is_one = (
            0 < num_heads <= published.num_heads
            and changes.get("head_dim") in (None, published.width_of_head)
            and (num_heads == published.num_heads or changes.get("head_dim"))
            and changes.get("type_vocab_size", 0) == 0
            and not changes.get("use_positions", False)
            and not changes.get("add_pooler", False)
        )
    if not is_one:
        raise CorruptError(
            f"{source}: its art_jax_form, {changes!r}, describes no BERT that this "
            "file could hold: remove it, and the model is read as Hugging Face reads "
            "it."
        )


def _map_heads(params: Params, change) -> Params:
    """`change(leaf, axis)` of every attention's arrays along the axis of heads."""

    def changed_layer(layer: Params) -> Params:
        attention = {
            name: {
                part: change(leaf, 0 if name == "out" or part == "bias" else 1)
                if (name, part) != ("out", "bias")
                else leaf
                for part, leaf in dense.items()
            }
            for name, dense in layer["attention"].items()
        }
        return {**layer, "attention": attention}

    return {
        name: changed_layer(part) if name.startswith("layers_") else part
        for name, part in params.items()
    }


def _zeros(num_rows: int, like) -> Params:
    """A table of zeros, of the width and dtype of another."""
    return {"embedding": np.zeros((num_rows, like.shape[1]), like.dtype)}


def _zero_pooler(like) -> Params:
    size = like.shape[1]
    return {
        "kernel": np.zeros((size, size), like.dtype),
        "bias": np.zeros(size, like.dtype),
    }


def _pad(leaf, axis: int, size: int) -> np.ndarray:
    leaf = np.asarray(leaf)
    widths = [(0, size if i == axis else 0) for i in range(leaf.ndim)]
    return np.pad(leaf, widths)


def _part(leaf, axis: int, start: int, stop: int):
    """Items `start` to `stop` of one axis, unread where the tensor is."""
    where = tuple(
        slice(start, stop) if i == axis else slice(0, size)
        for i, size in enumerate(leaf.shape)
    )
    if not isinstance(leaf, FileTensor):
        return leaf[where]
    shape = tuple(part.stop - part.start for part in where)

    def read(index: Index) -> np.ndarray:
        moved = [
            slice(part.start + own.start, part.start + own.stop)
            for part, own in zip(where, index, strict=True)
        ]
        return leaf.read(tuple(moved))

    return FileTensor(shape, leaf.dtype, read)
