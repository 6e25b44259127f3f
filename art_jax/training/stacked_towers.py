"""Adam for towers that are stacked in one array, of which a step uses some.

A tower that no question of a batch went through has a gradient of exactly zero. Adam
would move it all the same, by the moments of the steps before, and weight decay would
shrink it. Here it stays as it is, and so does all that Adam keeps of it: each tower is
trained as if it alone had its steps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from art_jax.types import Params


class TowerMoments(NamedTuple):
    """What Adam keeps.

    adam: its moments of all parameters, and the number of steps.
    uses: of each stack, [T] int32, the steps that used each tower.
    """

    adam: optax.ScaleByAdamState
    uses: dict[str, jax.Array]


def scale_by_adam(
    beta1: float, beta2: float, epsilon: float, stacked: Mapping[str, int]
) -> optax.GradientTransformation:
    """Returns `optax.scale_by_adam` that leaves the moments of unused towers alone.

    Args:
        beta1: the first moments' share that stays at a step.
        beta2: that of the second.
        epsilon: added to the root of the second.
        stacked: names at the top of the parameter tree, and the towers of each.
    """
    adam = optax.scale_by_adam(beta1, beta2, epsilon)

    def init(params: Params) -> TowerMoments:
        uses = {name: jnp.zeros(count, jnp.int32) for name, count in stacked.items()}
        return TowerMoments(adam.init(params), uses)

    def update(grads, state, params=None):
        updates, moments = adam.update(grads, state.adam, params)
        mu, nu, uses = dict(moments.mu), dict(moments.nu), dict(state.uses)
        for name in stacked:
            used = used_towers(grads[name])
            uses[name] = uses[name] + used.astype(jnp.int32)
            mu[name] = _where(used, mu[name], state.adam.mu[name])
            nu[name] = _where(used, nu[name], state.adam.nu[name])
            # Moments start at zero, which is corrected by a tower's own steps.
            steps = jnp.maximum(uses[name], 1).astype(jnp.float32)
            first, second = 1 - beta1**steps, 1 - beta2**steps
            direction = jax.tree.map(
                lambda m, v, first=first, second=second: (
                    _along(m, 1 / first) / (jnp.sqrt(_along(v, 1 / second)) + epsilon)
                ),
                mu[name],
                nu[name],
            )
            updates = {**updates, name: direction}
        return updates, TowerMoments(moments._replace(mu=mu, nu=nu), uses)

    return optax.GradientTransformation(init, update)


def rest_unused(
    optimizer: optax.GradientTransformation, stacked: Mapping[str, int]
) -> optax.GradientTransformation:
    """Returns `optimizer` without any update of towers whose gradient is zero."""

    def update(grads, state, params=None):
        updates, state = optimizer.update(grads, state, params)
        resting = {
            name: _where(
                used_towers(grads[name]),
                updates[name],
                jax.tree.map(jnp.zeros_like, updates[name]),
            )
            for name in stacked
        }
        return {**updates, **resting}, state

    return optax.GradientTransformation(optimizer.init, update)


def used_towers(grads: Params) -> jax.Array:
    """Returns which towers of a stack have a gradient, [T] bool; NaN counts as one."""
    leaves = jax.tree.leaves(grads)
    return jnp.stack(
        [jnp.any(leaf.reshape(len(leaf), -1) != 0, axis=1) for leaf in leaves]
    ).any(axis=0)


def _where(used_T: jax.Array, new: Params, old: Params) -> Params:
    return jax.tree.map(
        lambda a, b: jnp.where(used_T.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old
    )


def _along(stack: jax.Array, factors_T: jax.Array) -> jax.Array:
    """Returns each tower of an array times its own factor."""
    return stack * factors_T.astype(stack.dtype).reshape(-1, *[1] * (stack.ndim - 1))
