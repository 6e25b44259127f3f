"""A T5's tensors on the devices of a mesh, and whether they are those asked for."""

import dataclasses

import jax
from jax.sharding import Mesh, NamedSharding

from art_jax import partitioning
from art_jax.checkpoints import tensors
from art_jax.errors import ConfigError
from art_jax.models import layers
from art_jax.models.t5 import T5Config
from art_jax.types import Params

# Fields of T5Config that no weight depends on.
_FREE_FIELDS = {
    "dropout_rate",
    "dtype",
    "param_dtype",
    "float32_attention_logits",
    "remat",
}


def place_params(params: Params, config: T5Config, mesh: Mesh, dtype: str) -> Params:
    """Returns a T5's parameters on a mesh, split over its model axis as T5X does.

    They are whole on every device where that axis has one place. They go there one
    after the other: host memory holds one of them, however large the model is.

    Args:
        params: of tensors or arrays.
        config: of the T5.
        mesh: where to.
        dtype: to cast to.

    Raises:
        ConfigError: the model axis does not divide a parameter.
    """
    shardings = jax.tree.map(
        lambda _, axes: partitioning.logical_sharding(axes, mesh),
        params,
        layers.param_axes(params),
    )

    def require(leaf, sharding: NamedSharding) -> None:
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError as error:
            raise ConfigError(
                f"MODEL_PARALLELISM {mesh.shape[partitioning.MODEL_AXIS]} "
                f"does not divide a parameter of shape {leaf.shape}: choose a divisor "
                f"of the number of heads, {config.num_heads}."
            ) from error

    jax.tree.map(require, params, shardings)
    return tensors.to_devices(params, shardings, dtype)


def require_same_sizes(
    found: T5Config, wanted: T5Config, source: object, whose: str
) -> None:
    """Raises ConfigError where a checkpoint is of another T5 than was asked for.

    Args:
        found: what the checkpoint is.
        wanted: what was asked for.
        source: where the checkpoint is.
        whose: config was asked for, such as "the teacher's config".
    """
    differences = [
        f"{field.name} is {getattr(found, field.name)}, not "
        f"{getattr(wanted, field.name)}"
        for field in dataclasses.fields(T5Config)
        if field.name not in _FREE_FIELDS
        and getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if differences:
        raise ConfigError(
            f"{source} holds another T5 than {whose}: its "
            f"{', its '.join(differences)}. Include the gin/models file of its size, "
            "or set these fields."
        )
