"""The device mesh, T5X's logical axis rules, and arrays laid out over many hosts.

Two mesh axes, named as in T5X: `data` splits batches, `model` splits weights. The rows
of the evidence (embeddings, tokens) are split over both, so that every device holds an
equal share of them whatever the model's parallelism.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from art_jax.errors import ConfigError

DATA_AXIS = "data"
MODEL_AXIS = "model"
ROW_AXES = (DATA_AXIS, MODEL_AXIS)

# (logical axis, mesh axis or None), in order of priority, as T5X's
# standard_logical_axis_rules with one-dimensional partitioning.
LOGICAL_AXIS_RULES = (
    ("batch", DATA_AXIS),
    ("rows", ROW_AXES),
    ("vocab", MODEL_AXIS),
    ("embed", None),
    ("mlp", MODEL_AXIS),
    ("heads", MODEL_AXIS),
    ("kv", None),
    ("joined_kv", MODEL_AXIS),
    ("relpos_buckets", None),
    ("abspos_buckets", None),
    ("length", None),
    ("layers", None),
)


def make_mesh(num_devices: int | None = None, *, model_parallelism: int = 1) -> Mesh:
    """Returns a mesh of axes (`data`, `model`).

    Args:
        num_devices: how many devices, the first ones; None: all of every process.
        model_parallelism: size of the `model` axis.

    Raises:
        ConfigError: there are fewer devices, or `model_parallelism` does not divide
            their number.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ConfigError(
            f"a mesh of {num_devices} devices was asked for, but {len(devices)} are "
            f"there ({devices[0].platform}): ask for 1 to {len(devices)}."
        )
    if model_parallelism < 1 or num_devices % model_parallelism:
        raise ConfigError(
            f"model_parallelism {model_parallelism} does not divide {num_devices} "
            "devices: choose a divisor."
        )
    # Auto axes: JAX 0.10 defaults to Explicit ones, under which shard_map refuses
    # arguments that are not sharded yet.
    return jax.make_mesh(
        (num_devices // model_parallelism, model_parallelism),
        (DATA_AXIS, MODEL_AXIS),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[:num_devices],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over `data`."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of evidence rows: the first axis over every device."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def num_row_shards(mesh: Mesh) -> int:
    """Returns into how many shards the rows of the evidence are split."""
    return mesh.shape[DATA_AXIS] * mesh.shape[MODEL_AXIS]


def padded_rows(num_rows: int, mesh: Mesh, *, multiple: int = 1) -> int:
    """Returns `num_rows` rounded up so that each shard holds a multiple of `multiple`.

    A shard smaller than `multiple` is not padded up to it: blocks shrink instead.
    """
    shards = num_row_shards(mesh)
    rows_per_shard = max(1, -(-num_rows // shards))
    if rows_per_shard > multiple:
        rows_per_shard = -(-rows_per_shard // multiple) * multiple
    return rows_per_shard * shards


def make_array(
    shape: Sequence[int],
    sharding: NamedSharding,
    read: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    """Returns a global array of which each process reads only its own part.

    Args:
        shape: the global shape.
        sharding: how it is laid out.
        read: given a global index of slices, returns that part as a NumPy array; it
            is called for the shards of this process alone.
    """
    return jax.make_array_from_callback(tuple(shape), sharding, read)


def put_global(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Returns a host array, equal on every process, laid out by `sharding`."""
    array = np.asarray(array)
    return make_array(array.shape, sharding, lambda index: array[index])


def put_tree(tree, sharding: NamedSharding):
    """Returns a tree of host arrays laid out by one sharding."""
    return jax.tree.map(lambda leaf: put_global(leaf, sharding), tree)


def to_host(array: jax.Array) -> np.ndarray:
    """Returns a global array whole on every process. Collective: all must call it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    gathered = _build_replicate(array.sharding.mesh)(array)
    return np.asarray(gathered.addressable_data(0))


def logical_sharding(axes: Sequence[str | None], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a parameter from the logical names of its axes.

    A mesh axis is used once: the first logical axis that asks for it gets it.

    Raises:
        ConfigError: a name has no rule.
    """
    rules = dict(LOGICAL_AXIS_RULES)
    used, spec = set(), []
    for name in axes:
        if name is not None and name not in rules:
            raise ConfigError(f"no rule for the logical axis {name!r}: {sorted(rules)}")
        target = rules.get(name)
        mesh_axes = {target} if isinstance(target, str) else set(target or ())
        if not mesh_axes or mesh_axes & used:
            spec.append(None)
        else:
            used |= mesh_axes
            spec.append(target)
    return NamedSharding(mesh, PartitionSpec(*spec))


@functools.lru_cache(maxsize=16)
def _build_replicate(mesh: Mesh):
    return jax.jit(lambda array: array, out_shardings=replicated(mesh))


def barrier(name: str) -> None:
    """Waits until every process is here; nothing where there is one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
