"""The schedule's published values, and what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax.errors import ConfigError
from art_jax.training import optimizers


@pytest.mark.parametrize(
    ("count", "rate"),
    [
        (0, 0.0),
        (1, 1.616815e-7),
        (50, 8.084074e-6),
        (123, 1.988682e-5),
        (124, 1.999951e-5),
        (1000, 1.858319e-5),
        (6185, 1.02e-5),
        (12247, 4.0e-7),
        (20000, 4.0e-7),
    ],
)
def test_equals_the_published_schedule(count, rate):
    schedule = optimizers.AdamW().schedule(12370)
    np.testing.assert_allclose(schedule(count), rate, rtol=1e-4)


@pytest.mark.parametrize(
    ("count", "rate"),
    [
        (0, 0.0),
        (1, 1.6168e-8),
        (1237, 2e-5),
        (9000, 1.0954e-5),
        (18399, 1.1653e-9),
        (18400, 2e-12),
    ],
)
def test_equals_the_schedule_of_dpr(count, rate):
    adam = optimizers.AdamW(warmup_steps=1237, schedule_form="transformers")
    np.testing.assert_allclose(adam.schedule(18_400)(count), rate, rtol=1e-4)


def test_a_schedule_to_zero_without_warmup_and_one_that_is_all_warmup():
    schedule = optimizers.linear_schedule_to_zero(1.0, train_steps=4, warmup_steps=0)
    np.testing.assert_allclose([schedule(0), schedule(1)], [1, 0.75])
    with pytest.raises(ConfigError, match="one step after warm-up"):
        optimizers.linear_schedule_to_zero(1.0, train_steps=4, warmup_steps=4)
    with pytest.raises(ConfigError, match="choose of megatron, transformers"):
        optimizers.AdamW(schedule_form="cosine")


def test_without_warmup_it_starts_at_the_peak_and_ends_at_zero():
    schedule = optimizers.linear_schedule(1.0, train_steps=10, warmup_steps=0)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [1, 0.5, 0])


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (10, 6)])
def test_refuses_a_warmup_of_more_than_half(steps, warmup):
    with pytest.raises(ConfigError, match="at most half"):
        optimizers.linear_schedule(1.0, train_steps=steps, warmup_steps=warmup)


def test_biases_and_norms_do_not_decay():
    params = {
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "embedder": {"embedding": jnp.ones((3, 2))},
    }
    optimizer = optimizers.AdamW(warmup_share=0.0).build(10)
    zeros = optax.tree.zeros_like(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    # With no gradient only decay moves a parameter.
    for still in (*updates["norm"].values(), updates["dense"]["bias"]):
        np.testing.assert_array_equal(still, 0)
    np.testing.assert_allclose(updates["dense"]["kernel"], -2e-5 * 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["embedder"]["embedding"], -2e-5 * 0.1, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    # Adam hides the scale of a gradient; a clipped and an unclipped chain on the same
    # direction give the same first update, so look at the moments instead.
    params = {"kernel": jnp.zeros(2)}
    grads = {"kernel": jnp.array([3.0, 4.0])}
    optimizer = optimizers.AdamW(clip_norm=1.0, warmup_share=0.0).build(10)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(grads, optimizer.init(params), params)
    moment = optax.tree.get(state, "mu")["kernel"]
    np.testing.assert_allclose(moment, 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


def test_adafactors_rate_is_constant_after_warmup():
    schedule = optimizers.Adafactor(1e-3, warmup_steps=500).schedule(10_000)
    counts = jnp.array([0, 249, 499, 500, 9999])
    want = [2e-6, 5e-4, 1e-3, 1e-3, 1e-3]
    np.testing.assert_allclose(schedule(counts), want, rtol=1e-6)
    np.testing.assert_allclose(optimizers.Adafactor(0.5, 0).schedule(3)(0), 0.5)
    with pytest.raises(ConfigError, match="the first is above 0"):
        optimizers.Adafactor(learning_rate=0.0)


def test_adafactors_first_step_goes_by_the_parameters_size():
    optimizer = optimizers.Adafactor(0.1, warmup_steps=0).build(10)
    params = {"kernel": jnp.array([3.0, -4.0]), "bias": jnp.zeros(2)}
    grads = {"kernel": jnp.array([5.0, -0.1]), "bias": jnp.array([1.0, -1.0])}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # At step 1 the second moment is the gradient's square, so a step is its sign,
    # times 0.1 of the parameter's root mean square, of which 0.001 is the least.
    size = np.sqrt((9 + 16) / 2)
    np.testing.assert_allclose(updates["kernel"], [-0.1 * size, 0.1 * size], rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-1e-4, 1e-4], rtol=1e-6)


def test_adafactor_keeps_large_second_moments_by_row_and_column():
    optimizer = optimizers.Adafactor(min_factored_size=4).build(10)
    shapes = jax.eval_shape(optimizer.init, {"kernel": jnp.zeros((4, 5))})
    sizes = {leaf.shape for leaf in jax.tree.leaves(shapes)}
    assert {(4,), (5,)} <= sizes
    assert (4, 5) not in sizes
