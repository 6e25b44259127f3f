"""Adam over a stack of towers: each is trained as if it alone had its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax.training import stacked_towers, update
from art_jax.training.optimizers import AdamW

SETTINGS = AdamW(
    peak_learning_rate=0.1,
    warmup_steps=2,
    schedule_form="transformers",
    weight_decay=0.3,
    clip_norm=0.0,
)
STEPS, STACKED = 7, {"query": 3}
ORDER = (0, 2, 0, 0, 2, 0, 2)  # the tower each step uses; tower 1 has none


def twin(start, grads, rates, settings=SETTINGS):
    """Adam as its paper has it, of one array; rates are those of its own steps."""
    p, m, v = start.astype(np.float64), 0.0, 0.0
    for n, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g * g
        step = m / (1 - settings.beta1**n)
        step = step / (np.sqrt(v / (1 - settings.beta2**n)) + settings.epsilon)
        p = p - rate * (step + settings.weight_decay * p)
    return p


@pytest.fixture(scope="module")
def trained():
    """Parameters before and after each step, and the gradients."""
    rng = np.random.default_rng(0)
    params = {
        "query": {"kernel": rng.normal(size=(3, 4, 2)).astype(np.float32)},
        "passage": {"kernel": rng.normal(size=(4, 2)).astype(np.float32)},
    }
    grads = rng.normal(size=(STEPS, 2, 4, 2)).astype(np.float32)
    optimizer = SETTINGS.build_for_towers(STEPS, STACKED)

    def loss(params, batch, resources, key):
        tower = params["query"]["kernel"][batch["tower"]]
        slopes = (tower * batch["grads"][0]).sum()
        return slopes + (params["passage"]["kernel"] * batch["grads"][1]).sum(), {}

    step = update.make_update(loss, optimizer)
    state = update.init_state(jax.tree.map(jnp.asarray, params), optimizer)
    states = [jax.device_get(state)]
    for tower, grad in zip(ORDER, grads, strict=True):
        batch = {"tower": np.int32(tower), "grads": grad}
        state, _ = step(state, batch, (), jax.random.key(0))
        states.append(jax.device_get(state))
    return states, grads


def test_each_tower_is_trained_as_if_it_alone_had_its_steps(trained):
    states, grads = trained
    rates = [float(SETTINGS.schedule(STEPS)(n)) for n in range(STEPS)]
    start, end = states[0].params, states[-1].params
    for tower in range(3):
        own = [n for n, used in enumerate(ORDER) if used == tower]
        want = twin(
            start["query"]["kernel"][tower],
            [grads[n][0] for n in own],
            [rates[n] for n in own],
        )
        np.testing.assert_allclose(end["query"]["kernel"][tower], want, atol=2e-6)
    want = twin(start["passage"]["kernel"], [g[1] for g in grads], rates)
    np.testing.assert_allclose(end["passage"]["kernel"], want, atol=2e-6)


def test_a_tower_without_questions_stays_bit_for_bit_with_its_moments(trained):
    states, _ = trained

    def of_tower(state, tower):
        moments = state.opt_state[0].adam
        kernels = (state.params, moments.mu, moments.nu)
        return [tree["query"]["kernel"][tower] for tree in kernels]

    for tower, before, after in zip(ORDER, states, states[1:], strict=False):
        for other in range(3):
            pairs = zip(of_tower(before, other), of_tower(after, other), strict=True)
            is_same = [a.tobytes() == b.tobytes() for a, b in pairs]
            # The first step's rate is 0, so weights move from the second on.
            moved = other == tower and int(before.step) > 0
            assert is_same[0] is not moved
            assert is_same[1:] == [other != tower] * 2
    assert states[-1].opt_state[0].uses["query"].tolist() == [4, 0, 3]


def test_clipping_sees_the_gradient_of_all(trained):
    states, grads = trained
    clipped = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(0.9, 0.999, 1e-8)
    )
    settings = AdamW(clip_norm=1.0, weight_decay=0.0, warmup_steps=0)
    optimizer = settings.build_for_towers(STEPS, STACKED)
    params = states[0].params
    full = np.zeros((3, 4, 2), np.float32)
    full[2] = grads[0][0]
    tree = {"query": {"kernel": full}, "passage": {"kernel": grads[0][1]}}
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(tree, optimizer.init(params), params)
        _, want = clipped.update(tree, clipped.init(params), params)
    for name in tree:
        np.testing.assert_allclose(
            state[1][0].adam.mu[name]["kernel"], want[1].mu[name]["kernel"], atol=1e-7
        )


def test_a_gradient_that_is_no_number_is_one():
    grads = {"a": np.array([[0.0, np.nan], [0, 0]]), "b": np.zeros((2, 3, 1))}
    assert stacked_towers.used_towers(grads).tolist() == [True, False]
