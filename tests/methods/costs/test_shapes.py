"""Bytes by hand, and those of the arrays of a real run."""

import dataclasses

import jax
import jax.numpy as jnp

from art_jax import partitioning
from art_jax.methods.costs import shapes, sizes
from art_jax.models import layers, t5
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher

T5 = t5.T5Config(
    vocab_size=32, emb_dim=8, num_heads=4, head_dim=4, mlp_dim=16, num_encoder_layers=1
)


def held_bytes(tree):
    """What the first device really holds of a tree of arrays."""
    return sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(tree))


def test_bytes_of_a_tree():
    tree = {"a": jnp.zeros((2, 3)), "b": [jax.ShapeDtypeStruct((5,), jnp.bfloat16)]}
    assert shapes.tree_bytes(tree) == 4 * 6 + 2 * 5


def test_parameters_and_optimiser_are_those_of_the_real_run(real_run):
    real = real_run(partitioning.make_mesh(2))
    state, stage = real.arguments[0], real.sizes.stages[0]
    assert shapes.tree_bytes(shapes.state_shapes(real.sizes.encoder, stage)) == (
        held_bytes(state)
    )
    params = shapes.retriever_shapes(real.sizes.encoder)
    assert shapes.tree_bytes(params) == held_bytes(state.params)
    passage = shapes.passage_shapes(real.sizes.encoder)
    assert shapes.tree_bytes(passage) == held_bytes(state.params["passage"])


def test_a_shared_tower_is_the_passages(encoder):
    shared = dataclasses.replace(encoder, shared=True)
    assert shapes.passage_shapes(shared) == shapes.retriever_shapes(shared)


def test_a_device_holds_its_share_of_a_real_teacher(cluster):
    teacher = T5Teacher(T5)
    mesh = partitioning.make_mesh(8, model_parallelism=4)
    params = jax.tree.map(
        lambda leaf, axes: jax.device_put(
            jnp.zeros(leaf.shape, jnp.bfloat16),
            partitioning.logical_sharding(axes, mesh),
        ),
        t5.param_shapes(T5),
        layers.param_axes(t5.param_shapes(T5)),
    )
    assert shapes.teacher_bytes(teacher, cluster(8, 4)) == held_bytes(params)
    whole = shapes.tree_bytes(shapes.teacher_shapes(teacher))
    assert (
        shapes.teacher_bytes(teacher, cluster(8, 1))
        == whole
        == 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    )


def test_words_take_a_float_each_at_most(cluster):
    words = QueryLikelihoodTeacher()
    assert shapes.teacher_bytes(words, cluster(8)) == 4 * sizes.MOST_WORDS
