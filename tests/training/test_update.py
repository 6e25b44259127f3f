"""The update: one compilation, keys from the step, and NaN kept out of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.training import chunks, optimizers, update
from art_jax.training.optimizers import Adafactor, AdamW


def quadratic(params, batch, resources, key):
    noise = jax.random.normal(key)
    return jnp.sum((params["w"] * batch - resources) ** 2), {"noise": noise}


def start(loss=quadratic):
    optimizer = optax.adam(0.1)
    state = update.init_state({"w": jnp.array([1.0, 2.0])}, optimizer)
    return state, update.make_update(loss, optimizer)


def test_compiles_once_for_one_shape():
    traces = []

    def loss(*args):
        traces.append(1)
        return quadratic(*args)

    state, step = start(loss)
    for number in range(3):
        state, _ = step(state, jnp.float32(number), jnp.float32(1), jax.random.key(0))
    assert len(traces) == 1
    assert int(state.step) == 3


def test_a_step_draws_its_own_key_whatever_ran_before():
    state, step = start()
    key = jax.random.key(0)
    drawn = []
    for _ in range(3):
        state, metrics = step(state, jnp.float32(1), jnp.float32(1), key)
        drawn.append(float(metrics["noise"]))
    resumed, _ = start()
    resumed = resumed.replace(step=jnp.int32(2))
    _, metrics = step(resumed, jnp.float32(1), jnp.float32(1), key)
    assert float(metrics["noise"]) == drawn[2]
    assert len(set(drawn)) == 3


def test_nan_never_reaches_weights_or_optimizer():
    state, step = start()
    key = jax.random.key(0)
    state, _ = step(state, jnp.float32(1), jnp.float32(1), key)
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    for count in (1, 2):
        state, metrics = step(state, jnp.float32(np.nan), jnp.float32(1), key)
        assert int(state.skipped_in_a_row) == count
        assert np.isnan(metrics["loss"])  # The log shows it as it was.
    jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state))
    assert int(state.step) == 3
    state, _ = step(state, jnp.float32(1), jnp.float32(1), key)
    assert int(state.skipped_in_a_row) == 0
    assert not np.array_equal(state.params["w"], before[0]["w"])


@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_a_loss_of_the_whole_batch_can_be_given_in_chunks(num_chunks):
    # As GradCache does: the gradient at the embeddings first, then a chunk at a time
    # through the model, with the dropout of before.
    def encode(params, batch, key):
        vectors = jnp.einsum("bi,ij->bj", batch["x"], params["w"])
        kept = jax.random.bernoulli(key, 0.5, vectors.shape)
        return jnp.where(kept, vectors, 0)

    def in_batch(vectors):
        scores = jnp.einsum("bi,ci->bc", vectors, vectors[::-1])
        losses = -jnp.diagonal(jax.nn.log_softmax(scores, axis=-1))
        return losses.mean(), losses

    def prepare(params, batch, resources, key):
        vectors = chunks.map_chunks(
            lambda batch, key: encode(params, batch, key),
            batch,
            key,
            num_chunks=num_chunks,
        )
        slopes, losses = jax.grad(in_batch, has_aux=True)(vectors)
        return batch | {"slopes": slopes * len(vectors), "losses": losses}

    def loss(params, batch, resources, key):
        terms = (encode(params, batch, key) * batch["slopes"]).sum(axis=-1)
        values = batch["losses"] + terms - jax.lax.stop_gradient(terms)
        return values.mean(), {}

    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)}
    params = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}
    key = jax.random.key(0)
    optimizer = optax.sgd(1.0)
    step = update.make_update(loss, optimizer, prepare=prepare, num_chunks=num_chunks)
    state = update.init_state(jax.tree.map(jnp.copy, params), optimizer)
    new_state, metrics = step(state, batch, None, key)

    def whole(params):
        step_key = jax.random.fold_in(key, 0)
        vectors = chunks.map_chunks(
            lambda batch, key: encode(params, batch, key),
            batch,
            step_key,
            num_chunks=num_chunks,
        )
        return in_batch(vectors)[0]

    want_loss, want = jax.value_and_grad(whole)(params)
    np.testing.assert_allclose(metrics["loss"], want_loss, rtol=1e-5)
    np.testing.assert_allclose(
        params["w"] - new_state.params["w"], want["w"], rtol=1e-4
    )


@pytest.mark.parametrize(
    "optimizer", [AdamW(), Adafactor(min_factored_size=4)], ids=["adamw", "adafactor"]
)
def test_moments_lie_as_their_parameter_does(optimizer):
    mesh = partitioning.make_mesh(4, model_parallelism=2)
    whole = partitioning.replicated(mesh)
    split = partitioning.logical_sharding(("embed", "mlp"), mesh)
    params = {
        "kernel": partitioning.put_global(np.ones((4, 6), np.float32), split),
        "bias": jnp.ones(6),
    }
    optimizer = optimizers.freeze(optimizer.build(10), ("bias",))
    layout = update.state_layout(params, optimizer, whole)
    assert layout.params == {"kernel": split, "bias": whole}
    assert layout.step == whole
    state = jax.jit(
        lambda params: update.init_state(params, optimizer), out_shardings=layout
    )(params)
    for leaf in jax.tree.leaves(state.opt_state):
        assert leaf.sharding == (split if leaf.shape == (4, 6) else whole)
