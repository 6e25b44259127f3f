"""Chunks: which examples, which keys, and the gradient of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from art_jax import partitioning
from art_jax.training import chunks


def test_a_chunk_takes_strided_share_and_joining_undoes_it():
    batch = {"x": np.arange(12).reshape(6, 2), "y": np.arange(6)}
    parts = chunks.split(batch, 3)
    assert parts["y"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert parts["x"][1].tolist() == [[2, 3], [8, 9]]
    jax.tree.map(np.testing.assert_array_equal, chunks.join(parts), batch)


def test_splitting_moves_nothing_between_devices(mesh):
    data = mesh.shape["data"]
    batch = partitioning.put_global(
        np.arange(4 * data * 3, dtype=np.int32).reshape(4 * data, 3),
        partitioning.batch_sharding(mesh),
    )
    split = jax.jit(functools.partial(chunks.split, num_chunks=4))
    parts = split(batch)
    wanted = NamedSharding(mesh, PartitionSpec(None, "data"))
    assert parts.sharding.is_equivalent_to(wanted, parts.ndim)
    compiled = split.lower(batch).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in compiled


def loss(params, batch, factor, key):
    """A mean over examples of whole numbers: sums are exact in any order."""
    outputs = jnp.einsum("bi,i->b", batch["x"], params["w"]) * batch["y"] * factor
    drawn = jax.random.randint(key, (), 0, 100).astype(jnp.float32)
    return outputs.mean(), {"drawn": drawn, "outputs": outputs}


@pytest.fixture
def inputs(mesh):
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.integers(-5, 6, (32, 4)).astype(np.float32),
        "y": rng.integers(-5, 6, 32).astype(np.float32),
    }
    params = {"w": jnp.arange(4.0)}
    return params, partitioning.put_tree(batch, partitioning.batch_sharding(mesh))


def test_any_number_of_chunks_gives_the_gradient_of_the_batch(inputs):
    params, batch = inputs
    grad_fn = jax.value_and_grad(loss, has_aux=True)
    key = jax.random.key(0)
    (value, metrics), grads = grad_fn(params, batch, 2.0, key)
    want = 2 * (np.asarray(batch["x"]) * np.asarray(batch["y"])[:, None]).sum(0) / 32
    np.testing.assert_array_equal(grads["w"], want)
    for num_chunks in (1, 2, 4):
        chunked = jax.jit(
            functools.partial(chunks.accumulate, grad_fn, num_chunks=num_chunks)
        )
        (got_value, got_metrics), got = chunked(params, batch, 2.0, key)
        np.testing.assert_array_equal(got["w"], want)
        assert float(got_value) == float(value)
        np.testing.assert_array_equal(got_metrics["outputs"], metrics["outputs"])
        drawn = [
            loss(params, batch, 2.0, chunks.chunk_key(key, i, num_chunks))[1]["drawn"]
            for i in range(num_chunks)
        ]
        assert float(got_metrics["drawn"]) == np.mean(drawn)
        assert len(set(map(float, drawn))) == num_chunks


def test_a_step_in_one_chunk_keeps_its_key():
    key = jax.random.key(3)
    assert chunks.chunk_key(key, 0, 1) is key


@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_a_pass_before_the_loss_draws_what_the_loss_will(num_chunks):
    def draw(values, key):
        return values + jax.random.uniform(key, values.shape)

    def grad_fn(params, values, resources, key):
        return (jnp.float32(0), {"drawn": draw(values, key)}), params

    values, key = jnp.arange(8.0), jax.random.key(0)
    before = chunks.map_chunks(draw, values, key, num_chunks=num_chunks)
    (_, metrics), _ = chunks.accumulate(
        grad_fn, jnp.float32(0), values, None, key, num_chunks=num_chunks
    )
    np.testing.assert_array_equal(before, metrics["drawn"])
    assert before.shape == (8,)
    np.testing.assert_array_equal(np.floor(before), values)
