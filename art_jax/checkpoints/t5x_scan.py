"""Scanned layers, as T5X's examples/scalable_t5 stores them, and ours, one by one.

Scanned, a parameter of all L layers is one array with the layers on axis 1, under
`encoder/encoder` or `decoder/decoder`, and heads are not joined. Each layer has its own
table of relative position biases:

    encoder/encoder/attention/query/kernel  [D, L, H, K]   layers_i/...  [D, H * K]
    encoder/encoder/attention/out/kernel    [H, L, K, D]   layers_i/...  [H * K, D]
    encoder/encoder/mlp/wi_0/kernel         [D, L, F]      layers_i/...  [D, F]
    encoder/encoder/relpos_bias/...         [H, L, 32]     layers_i/...  [H, 32]

Both directions are lazy. T5X stores a scanned array in chunks of all layers, so a layer
by itself would cost as much as all of them: a part of a layer is read with the same
part of its fellows, which are kept until another array is read. Whoever reads layers
of one array one after the other, as `tensors.to_devices` does, reads it once.
"""

import dataclasses

import jax
import numpy as np

from art_jax.checkpoints.tensors import FileTensor, Index
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.t5 import T5Config
from art_jax.types import Params

_STACKS = ("encoder", "decoder")
_MAX_LAYERS = 1024


def split_layers(target: Params, source: object) -> Params:
    """T5X's parameters with each layer by itself and heads joined, as ours are.

    Args:
        target: of T5X, `FileTensor`s; what is not scanned passes through.
        source: where it came from, for errors.

    Raises:
        CorruptError: scanned arrays differ in how many layers they have.
    """
    result, last_read = dict(target), _LastRead()
    for name in _STACKS:
        stack = target.get(name)
        if isinstance(stack, dict) and isinstance(stack.get(name), dict):
            rest = {key: value for key, value in stack.items() if key != name}
            where = f"{source}: {name}/{name}"
            result[name] = rest | _split(stack[name], where, last_read)
    return result


def stack_layers(params: Params, config: T5Config) -> Params:
    """The inverse of `split_layers`; a table that layers share is repeated in each.

    Args:
        params: a T5's; `FileTensor`s or arrays.
        config: of the T5.

    Returns:
        A tree whose scanned leaves are `FileTensor`s.

    Raises:
        ConfigError: a stack has no layers.
    """
    result = dict(params)
    for name in _STACKS:
        stack = dict(params[name])
        num_layers = sum(key.startswith("layers_") for key in stack)
        if not num_layers:
            raise ConfigError(
                f"the {name} has no layers, and nothing cannot be scanned: save with "
                "scanned=False."
            )
        layers = [stack.pop(f"layers_{i}") for i in range(num_layers)]
        if not config.relpos_bias_per_layer:
            shared = stack.pop("relpos_bias")
            layers = [{**layer, "relpos_bias": shared} for layer in layers]

        stack[name] = jax.tree_util.tree_map_with_path(
            lambda path, *leaves: _stacked(path, leaves, config), *layers
        )
        result[name] = stack
    return result


def _split(scanned: Params, source: str, last_read: "_LastRead") -> Params:
    leaves = jax.tree.leaves(scanned)
    counts = sorted({leaf.shape[1] if leaf.ndim > 1 else 0 for leaf in leaves})
    if len(counts) != 1 or not 1 <= counts[0] <= _MAX_LAYERS:
        raise CorruptError(
            f"{source}: its arrays have {counts} layers on axis 1: they must agree, on "
            f"1 to {_MAX_LAYERS}. A checkpoint scanned over another axis is not read."
        )

    def layer(i: int) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _joined(path, _layer(leaf, i, last_read)), scanned
        )

    return {f"layers_{i}": layer(i) for i in range(counts[0])}


@dataclasses.dataclass
class _LastRead:
    """What was read of the scanned array that was read last, by the parts' bounds."""

    tensor: FileTensor | None = None
    parts: dict[tuple, np.ndarray] = dataclasses.field(default_factory=dict)

    def read(self, tensor: FileTensor, index: Index) -> np.ndarray:
        """A part of a scanned array."""
        if self.tensor is not tensor:
            self.tensor, self.parts = tensor, {}
        bounds = tuple((part.start, part.stop) for part in index)
        if bounds not in self.parts:
            self.parts[bounds] = tensor.read(index)
        return self.parts[bounds]


def _layer(tensor: FileTensor, layer: int, last_read: _LastRead) -> FileTensor:
    """One layer of a scanned array, without the axis of layers."""
    layers = slice(0, tensor.shape[1])

    def read(index: Index) -> np.ndarray:
        return last_read.read(tensor, (index[0], layers, *index[1:]))[:, layer]

    shape = (tensor.shape[0], *tensor.shape[2:])
    return FileTensor(shape, tensor.dtype, read, source=tensor)


def _head_axis(path: tuple) -> int | None:
    """The axis of heads of a layer's parameter, before its width of a head; or None."""
    names = [entry.key for entry in path]
    if names[-1] != "kernel" or not names[0].endswith("attention"):
        return None
    return 0 if names[-2] == "out" else 1


def _joined(path: tuple, tensor: FileTensor) -> FileTensor:
    """A layer's tensor with its heads and their width as one axis, still unread."""
    axis = _head_axis(path)
    if axis is None or tensor.ndim != 3:
        return tensor
    num_heads, head_dim = tensor.shape[axis : axis + 2]
    others = tensor.shape[:axis], tensor.shape[axis + 2 :]

    def read(index: Index) -> np.ndarray:
        wanted = index[axis]
        # Whole heads, of which the first and the last may be cut.
        first, end = wanted.start // head_dim, -(-wanted.stop // head_dim)
        heads = slice(first, end), slice(0, head_dim)
        part = tensor.read((*index[:axis], *heads, *index[axis + 1 :]))
        sizes = part.shape[:axis], part.shape[axis + 2 :]
        part = part.reshape(*sizes[0], (end - first) * head_dim, *sizes[1])
        begin = wanted.start - first * head_dim
        cut = slice(begin, begin + wanted.stop - wanted.start)
        return part[(slice(None),) * axis + (cut,)]

    shape = (*others[0], num_heads * head_dim, *others[1])
    return FileTensor(shape, tensor.dtype, read, tensor.source)


def _unjoined_shape(path: tuple, shape: tuple[int, ...], config: T5Config) -> tuple:
    """The shape of a layer's parameter with its heads and their width apart."""
    axis = _head_axis(path)
    if axis is None:
        return tuple(shape)
    return (*shape[:axis], config.num_heads, config.head_dim, *shape[axis + 1 :])


def _stacked(path: tuple, leaves: tuple, config: T5Config) -> FileTensor:
    """A parameter of all layers as one array, heads apart and layers on axis 1."""
    shape = _unjoined_shape(path, leaves[0].shape, config)
    whole = (shape[0], len(leaves), *shape[1:])
    dtype = np.dtype(leaves[0].dtype)

    def read(index: Index) -> np.ndarray:
        array = np.empty(whole, dtype)
        for i, leaf in enumerate(leaves):
            array[:, i] = np.asarray(leaf).reshape(shape)
        return array[index]

    return FileTensor(whole, dtype, read)
