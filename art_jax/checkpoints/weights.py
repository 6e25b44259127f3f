"""How a format's tensors correspond to our parameters: one list, both directions."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import CorruptError
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Weight:
    """One tensor under its two names.

    Attributes:
        path: ours, parts joined by "/".
        name: the format's.
        transposed: theirs is the transpose of ours.
    """

    path: str
    name: str
    transposed: bool = False


def to_params(
    weights: Iterable[Weight],
    tensors: Mapping[str, FileTensor | np.ndarray],
    source: object,
) -> Params:
    """The parameter tree that named tensors hold; tensors left over are ignored.

    Args:
        weights: which tensor goes where.
        tensors: by the format's names; what is unread stays unread.
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
        node[leaf] = tensor.T if weight.transposed else tensor
    return params


def to_tensors(
    weights: Iterable[Weight], params: Params
) -> dict[str, FileTensor | np.ndarray]:
    """The named tensors of a parameter tree; the inverse of `to_params`."""
    tensors = {}
    for weight in weights:
        leaf = params
        for part in weight.path.split("/"):
            leaf = leaf[part]
        tensors[weight.name] = leaf.T if weight.transposed else leaf
    return tensors
