"""The update: one compilation, keys from the step, and NaN kept out of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from art_jax.training import update


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
