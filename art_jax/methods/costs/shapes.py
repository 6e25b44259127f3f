"""Shapes of what a run holds, as its own functions make them, and their bytes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from art_jax import partitioning
from art_jax.methods.costs.sizes import MOST_WORDS, Cluster, StageSizes, Teacher
from art_jax.models import layers, t5
from art_jax.models.dual_encoder import DualEncoder
from art_jax.models.t5 import T5Config
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.training import optimizers, update
from art_jax.types import Params


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of all arrays of a tree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def sharded_bytes(params: Params, cluster: Cluster) -> int:
    """Returns what one device holds of parameters split over the model axis.

    Args:
        params: of a model of art_jax, or their shapes.
        cluster: of the devices.
    """
    mesh = cluster.mesh

    def leaf_bytes(leaf, axes) -> int:
        sharding = partitioning.logical_sharding(axes, mesh)
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(
        jax.tree.leaves(jax.tree.map(leaf_bytes, params, layers.param_axes(params)))
    )


@functools.lru_cache(maxsize=64)
def retriever_shapes(encoder: DualEncoder) -> Params:
    """Returns the shapes of the retriever's parameters."""
    return jax.eval_shape(encoder.init, key_shape())


def passage_shapes(encoder: DualEncoder) -> Params:
    """Returns the shapes of those that passage embeddings depend on."""
    name = "shared" if encoder.shared else "passage"
    return {name: retriever_shapes(encoder)[name]}


def state_shapes(encoder: DualEncoder, stage: StageSizes) -> Any:
    """Returns the shapes of a stage's training state: parameters and optimiser."""
    optimizer = optimizers.freeze(
        stage.optimizer.build(stage.train_steps),
        () if encoder.shared else stage.frozen,
    )
    return jax.eval_shape(
        lambda params: update.init_state(params, optimizer), retriever_shapes(encoder)
    )


def teacher_shapes(teacher: Teacher) -> Params:
    """Returns the shapes of a teacher's parameters, as they are held."""
    if isinstance(teacher, QueryLikelihoodTeacher):
        return {"log_collection": jax.ShapeDtypeStruct((MOST_WORDS,), jnp.float32)}
    shapes = _t5_shapes(teacher.config)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, teacher.param_dtype), shapes
    )


@functools.lru_cache(maxsize=64)
def _t5_shapes(config: T5Config) -> Params:
    return t5.param_shapes(config)


def teacher_bytes(teacher: Teacher, cluster: Cluster) -> int:
    """Returns what one device holds of a teacher's parameters."""
    shapes = teacher_shapes(teacher)
    if isinstance(teacher, QueryLikelihoodTeacher):
        return tree_bytes(shapes)
    return sharded_bytes(shapes, cluster)


def token_shape(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns what stands for an array of tokens, int32."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def key_shape() -> jax.ShapeDtypeStruct:
    """Returns what stands for a key of random numbers."""
    return jax.eval_shape(lambda: jax.random.key(0))
