"""One update, for every method: gradients, optimiser, and a guard against NaN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from art_jax.training import chunks
from art_jax.types import Params, TrainState

Batch = Any  # a tree of arrays
Resources = Any  # arrays that are read and not trained: table, token rows, teacher
# (params, batch, resources, key) -> (loss [], metrics {name: [] or [B, ...]})
LossFn = Callable[[Params, Batch, Resources, jax.Array], tuple[jax.Array, dict]]
# (params, batch, resources, key) -> batch, with more in it
PrepareFn = Callable[[Params, Batch, Resources, jax.Array], Batch]


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def state_layout(
    params: Params,
    optimizer: optax.GradientTransformation,
    rest: jax.sharding.NamedSharding,
) -> TrainState:
    """Returns how a state is laid out: each array beside the parameter it is of.

    Args:
        params: the parameters; those on the mesh of `rest` stay as they are laid out.
        optimizer: its arrays of a parameter's shape lie as the parameter does.
        rest: of everything else.

    Returns:
        A state with a sharding in place of each array.
    """

    def layout(leaf: jax.Array) -> jax.sharding.Sharding:
        held = getattr(leaf, "sharding", None)
        is_on_mesh = isinstance(held, jax.sharding.NamedSharding)
        return held if is_on_mesh and held.mesh == rest.mesh else rest

    layouts = jax.tree.map(layout, params)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda leaf, param, held: held if leaf.shape == param.shape else rest,
        state.opt_state,
        params,
        layouts,
        transform_non_params=lambda _: rest,
    )
    return TrainState(rest, layouts, opt_state, rest)


def make_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    prepare: PrepareFn | None = None,
    num_chunks: int = 1,
    state_sharding: TrainState | None = None,
):
    """Returns `update(state, batch, resources, key) -> (state, metrics)`, jitted once.

    The batch is prepared whole, without a gradient; then the loss is differentiated
    chunk by chunk, which takes the memory of one chunk, and the gradients are averaged.

    The state is donated. The key of a step is folded from `key` and the step, so a
    restart draws what the first run drew. A step whose loss or gradient is not finite
    leaves parameters and optimiser bit for bit as they were, and is counted.

    Args:
        loss_fn: (params, batch, resources, key) -> (scalar loss, metrics); given a
            chunk of what `prepare` returned, and the chunk's key. Metrics are scalars,
            averaged over chunks, or have a value an example, [B, ...].
        optimizer: an optax transformation.
        prepare: (params, batch, resources, key) -> batch, given the step's key, from
            which `chunks.map_chunks` makes the keys that the chunks' losses get.
        num_chunks: equal parts of the batch, see `training.chunks`; the loss must be
            a mean over examples. A loss of the batch as a whole becomes one where
            `prepare` finds its gradient with respect to each example's embeddings,
            and `loss_fn` multiplies it with them.
        state_sharding: how the new state is laid out, from `state_layout`; None: as
            the compiler likes.
    """

    def update(state, batch, resources, key):
        key = jax.random.fold_in(key, state.step)
        if prepare is not None:
            batch = prepare(state.params, batch, resources, key)
        (loss, metrics), grads = chunks.accumulate(
            jax.value_and_grad(loss_fn, has_aux=True),
            state.params,
            batch,
            resources,
            key,
            num_chunks=num_chunks,
        )
        grad_norm = optax.global_norm(grads)
        is_good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        # optax raises floats to its int32 count; strict promotion would refuse that.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jnp.where(is_good, new, old)  # noqa: E731
        skipped = jnp.where(is_good, 0, state.skipped_in_a_row + 1)
        new_state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            skipped_in_a_row=skipped.astype(jnp.int32),
        )
        if state_sharding is not None:
            new_state = jax.lax.with_sharding_constraint(new_state, state_sharding)
        metrics = {
            **metrics,
            "loss": loss,
            "grad_norm": grad_norm,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        return new_state, metrics

    return jax.jit(update, donate_argnums=0)
