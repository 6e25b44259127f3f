"""Chunks of a batch: the gradient of a large one in the memory of a small one.

Chunk i of C takes examples i, i + C, i + 2 C, ...: every device has an equal share of
each chunk, so the batch axis stays split over devices as it is and nothing moves.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def chunk_key(key: jax.Array, index: jax.Array | int, num_chunks: int) -> jax.Array:
    """Returns the key of one chunk; of a batch in one chunk, the step's own.

    What draws by it in a step's first pass and again in a later one draws the same.
    """
    return key if num_chunks == 1 else jax.random.fold_in(key, index)


def split(batch: Any, num_chunks: int) -> Any:
    """Returns a tree of [B, ...] arrays as [num_chunks, B / num_chunks, ...]."""

    def split_array(array):
        rest = array.shape[1:]
        return array.reshape(-1, num_chunks, *rest).swapaxes(0, 1)

    return jax.tree.map(split_array, batch)


def join(chunks: Any) -> Any:
    """Returns what `split` was given, in the order of the batch."""

    def join_arrays(array):
        return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])

    return jax.tree.map(join_arrays, chunks)


def map_chunks(
    function: Callable[[Any, jax.Array], Any],
    batch: Any,
    key: jax.Array,
    *,
    num_chunks: int,
) -> Any:
    """Returns `function(chunk, key of the chunk)` of every chunk, put together again.

    Args:
        function: of a chunk of the batch; returns arrays of one value an example.
        batch: a tree of [B, ...] arrays.
        key: the step's.
        num_chunks: C; B is a multiple.
    """
    if num_chunks == 1:
        return function(batch, key)
    indices = jnp.arange(num_chunks)
    return join(
        jax.lax.map(
            lambda item: function(item[1], chunk_key(key, item[0], num_chunks)),
            (indices, split(batch, num_chunks)),
        )
    )


def accumulate(
    grad_fn: Callable[..., tuple[tuple[jax.Array, dict], Any]],
    params: Any,
    batch: Any,
    resources: Any,
    key: jax.Array,
    *,
    num_chunks: int,
) -> tuple[tuple[jax.Array, dict], Any]:
    """Returns what `grad_fn` does, over chunks: means, and examples in their order.

    It is the gradient of the batch where the loss of a batch is the mean of its
    examples', each of which depends on that example alone.

    Args:
        grad_fn: (params, chunk, resources, key) -> ((loss, metrics), grads).
        params: a tree of arrays.
        batch: a tree of [B, ...] arrays.
        resources: given to every chunk whole.
        key: the step's.
        num_chunks: C; B is a multiple. One chunk at a time is in memory.
    """
    if num_chunks == 1:
        return grad_fn(params, batch, resources, key)

    def add_chunk(total, item):
        index, chunk = item
        value, grads = grad_fn(
            params, chunk, resources, chunk_key(key, index, num_chunks)
        )
        return jax.tree.map(jnp.add, total, grads), value

    total, (losses, metrics) = jax.lax.scan(
        add_chunk,
        jax.tree.map(jnp.zeros_like, params),
        (jnp.arange(num_chunks), split(batch, num_chunks)),
    )
    grads = jax.tree.map(lambda leaf: leaf / num_chunks, total)
    metrics = {
        name: values.mean() if values.ndim == 1 else join(values)
        for name, values in metrics.items()
    }
    return (losses.mean(), metrics), grads
