"""Tensors that stay in their file until a part of them is asked for.

A model may be larger than a host's memory, so the readers of every format return
trees of `FileTensor`s: shapes and dtypes at once, values a tensor at a time.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from art_jax import partitioning

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor in a file; `np.asarray` reads it whole.

    shape: its sizes.
    dtype: as the file holds it.
    read: given slices with step 1, one an axis, returns that part.
    source: what in the file it is a part of, where parts are cheaper to read one
        after the other; None: nothing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray] = dataclasses.field(repr=False)
    source: Hashable = dataclasses.field(default=None, repr=False)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def T(self) -> "FileTensor":  # noqa: N802 (NumPy's name)
        """The tensor with its axes in reverse order, still unread."""
        return FileTensor(
            self.shape[::-1],
            self.dtype,
            lambda index: self.read(index[::-1]).T,
            self.source,
        )

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The whole tensor, in C order."""
        if copy is False:
            raise ValueError("a tensor in a file cannot be read without a copy.")
        whole = tuple(slice(0, size) for size in self.shape)
        return np.asarray(self.read(whole), dtype, order="C")


def from_array(array: np.ndarray) -> FileTensor:
    """Returns an array in memory as a `FileTensor`."""
    array = np.asarray(array)
    return FileTensor(array.shape, array.dtype, array.__getitem__)


def derived(
    source: FileTensor,
    shape: tuple[int, ...],
    compute: Callable[[np.ndarray], np.ndarray],
) -> FileTensor:
    """Returns what is computed from a tensor, unread; each part reads all of it.

    Args:
        source: the tensor in the file.
        shape: of the result.
        compute: makes the result, of the source's dtype, from the source's values.
    """
    return FileTensor(
        shape, source.dtype, lambda index: compute(np.asarray(source))[index]
    )


def to_host(tree: Any, dtype: str | None = None) -> Any:
    """Returns a tree of tensors, read whole, as NumPy arrays in C order.

    Args:
        tree: of `FileTensor`s and arrays.
        dtype: to cast to; None: as the files have them.
    """
    return map_by_source(lambda leaf: _cast(np.asarray(leaf), dtype), tree)


def to_devices(tree: Any, shardings: Any, dtype: str | None = None) -> Any:
    """Returns a tree of tensors laid out on devices, read one after the other.

    Each process reads what its devices hold, once: a format's chunk is as a rule a
    whole tensor, and reading the devices' parts apart would decompress it for each.
    Host memory holds one tensor at a time, however large the model is.

    Args:
        tree: of `FileTensor`s and arrays.
        shardings: how to lay them out: one NamedSharding for all, or a tree.
        dtype: to cast to; None: as the files have them.

    Raises:
        ValueError: a sharding does not divide a shape.
    """
    if isinstance(shardings, NamedSharding):
        sharding = shardings
        shardings = jax.tree.map(lambda _: sharding, tree)

    def put(leaf, sharding: NamedSharding) -> jax.Array:
        if not isinstance(leaf, FileTensor):
            leaf = from_array(leaf)
        indices = sharding.addressable_devices_indices_map(leaf.shape).values()
        box = _bounding_box([_explicit(index, leaf.shape) for index in indices])
        held = _cast(np.asarray(leaf.read(box), order="C"), dtype)

        def part(index: Index) -> np.ndarray:
            return held[_within(box, _explicit(index, leaf.shape))]

        array = partitioning.make_array(leaf.shape, sharding, part)
        # The copy to the devices may still be reading from host memory, and the next
        # tensor must not join this one there.
        return array.block_until_ready()

    return map_by_source(put, tree, shardings)


def _explicit(index: Index, shape: tuple[int, ...]) -> Index:
    """The same slices with start and stop."""
    pairs = zip(index, shape, strict=True)
    return tuple(slice(*item.indices(size)[:2]) for item, size in pairs)


def _bounding_box(indices: list[Index]) -> Index:
    """The smallest part of a tensor that holds all of these."""
    axes = zip(*indices, strict=True)
    return tuple(
        slice(min(item.start for item in axis), max(item.stop for item in axis))
        for axis in axes
    )


def _within(box: Index, index: Index) -> Index:
    """The slices of a tensor as slices of the part `box` of it."""
    pairs = zip(index, box, strict=True)
    return tuple(
        slice(wanted.start - whole.start, wanted.stop - whole.start)
        for wanted, whole in pairs
    )


def map_by_source(function: Callable, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map`, parts of one source one after the other."""
    leaves, treedef = jax.tree.flatten(tree)
    others = [treedef.flatten_up_to(other) for other in rest]
    sources = [getattr(leaf, "source", None) for leaf in leaves]
    first: dict[Hashable, int] = {}
    for i, source in enumerate(sources):
        first.setdefault(source, i)
    places = [
        i if source is None else first[source] for i, source in enumerate(sources)
    ]
    results: list = [None] * len(leaves)
    for i in sorted(range(len(leaves)), key=places.__getitem__):
        results[i] = function(leaves[i], *(other[i] for other in others))
    return treedef.unflatten(results)


def _cast(array: np.ndarray, dtype: str | None) -> np.ndarray:
    return array if dtype is None else array.astype(dtype, copy=False)
