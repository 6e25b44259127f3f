"""AdamW as retrievers are trained, with its schedules, and Adafactor as T5 is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from art_jax.errors import ConfigError
from art_jax.training import stacked_towers
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW as the papers train retrievers; the defaults are ART's.

    peak_learning_rate: at the end of warm-up.
    warmup_share: of all steps, spent in warm-up.
    warmup_steps: in place of the share; None: the share counts.
    schedule_form: "megatron", ART's, which stops above 0, or "transformers", DPR's,
        which falls to 0.
    weight_decay: decoupled; not applied to biases and LayerNorm parameters.
    clip_norm: global norm of the gradient, at most; 0: no clipping.
    beta1, beta2, epsilon: Adam's.

    Raises:
        ConfigError: there is no such form.

    Source: ART's published run (arXiv:2206.10658, section 3.2, and its scripts).
        Differs in: nothing.
    """

    peak_learning_rate: float = 2e-5
    warmup_share: float = 0.01
    warmup_steps: int | None = None
    schedule_form: str = "megatron"
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.schedule_form not in _SCHEDULES:
            raise ConfigError(
                f"no schedule_form {self.schedule_form!r}: choose of "
                f"{', '.join(_SCHEDULES)}."
            )

    def build(self, train_steps: int) -> optax.GradientTransformation:
        """Returns the optax transformation for a run of `train_steps` updates."""
        return self._chain(optax.scale_by_adam(*self._adam), train_steps)

    def build_for_towers(
        self, train_steps: int, stacked: Mapping[str, int]
    ) -> optax.GradientTransformation:
        """Returns one under which a tower that a step does not use stays as it is.

        Args:
            train_steps: updates in all, by which the learning rate goes.
            stacked: names at the top of the parameter tree whose arrays are stacks of
                towers, and of how many.
        """
        adam = stacked_towers.scale_by_adam(*self._adam, stacked)
        return stacked_towers.rest_unused(self._chain(adam, train_steps), stacked)

    @property
    def _adam(self) -> tuple[float, float, float]:
        return self.beta1, self.beta2, self.epsilon

    def _chain(
        self, adam: optax.GradientTransformation, train_steps: int
    ) -> optax.GradientTransformation:
        adamw = optax.chain(
            adam,
            optax.add_decayed_weights(self.weight_decay, decay_mask),
            optax.scale_by_learning_rate(self.schedule(train_steps)),
        )
        if self.clip_norm <= 0:
            return adamw
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)

    def schedule(self, train_steps: int) -> Callable[[jax.Array], jax.Array]:
        """Returns the learning rate as a function of updates made so far."""
        warmup_steps = self.warmup_steps
        if warmup_steps is None:
            warmup_steps = self.warmup_share * train_steps
        return _SCHEDULES[self.schedule_form](
            self.peak_learning_rate, train_steps=train_steps, warmup_steps=warmup_steps
        )


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor as T5 is fine-tuned: its rate is relative to each parameter's size.

    learning_rate: a step's root mean square, as a share of that of the parameter; the
        same at every step after warm-up.
    warmup_steps: the n-th of them has n / warmup_steps of the rate.
    decay_rate: of the second moments, 1 - t^-rate at step t.
    clip_rms: of the update of each parameter, before the rate.
    min_factored_size: second moments are kept by row and column where both have this
        size, else one by one.

    Raises:
        ConfigError: a rate is not positive, or warm-up has less than no steps.

    Source: Shazeer and Stern, arXiv:1804.04235, with T5's values; the warm-up is JPR's
        (arXiv:2104.08445). Differs in: parameters of JAX are factored over their two
        largest axes.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 500
    decay_rate: float = 0.8
    clip_rms: float = 1.0
    min_factored_size: int = 128

    def __post_init__(self):
        if self.learning_rate <= 0 or self.warmup_steps < 0:
            raise ConfigError(
                f"learning_rate is {self.learning_rate} and warmup_steps "
                f"{self.warmup_steps}: the first is above 0, the second 0 or more."
            )

    def build(self, train_steps: int) -> optax.GradientTransformation:
        """Returns the optax transformation for a run of `train_steps` updates."""
        return optax.adafactor(
            self.schedule(train_steps),
            min_dim_size_to_factor=self.min_factored_size,
            decay_rate=self.decay_rate,
            clipping_threshold=self.clip_rms,
        )

    def schedule(self, train_steps: int) -> Callable[[jax.Array], jax.Array]:
        """Returns the learning rate as a function of updates made so far."""
        del train_steps

        def rate(count: jax.Array) -> jax.Array:
            done = jnp.asarray(count, jnp.float32) + 1.0
            share = jnp.minimum(done / max(self.warmup_steps, 1), 1.0)
            return self.learning_rate * share

        return rate


def linear_schedule(
    peak: float, *, train_steps: int, warmup_steps: float
) -> Callable[[jax.Array], jax.Array]:
    """Returns a rate that rises from 0 to `peak`, falls, and stops above 0.

    With N train steps and w warm-up steps: peak * n / w up to w, then
    peak * (N - (min(n, N - w) - w)) / N, so that it ends at 2 w / N of the peak.

    Raises:
        ConfigError: there are no steps, or warm-up takes more than half of them.

    Source: Megatron's scheduler as ART runs it. Differs in: nothing.
    """
    if train_steps < 1 or not 0 <= warmup_steps <= train_steps / 2:
        raise ConfigError(
            f"train_steps is {train_steps} and warm-up takes {warmup_steps} of them: "
            "train at least one step and warm up for at most half."
        )

    def rate(count: jax.Array) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        falling = jnp.minimum(count, train_steps - warmup_steps) - warmup_steps
        decayed = peak * (train_steps - falling) / train_steps
        if warmup_steps == 0:
            return decayed
        return jnp.where(count <= warmup_steps, peak * count / warmup_steps, decayed)

    return rate


def linear_schedule_to_zero(
    peak: float, *, train_steps: int, warmup_steps: float
) -> Callable[[jax.Array], jax.Array]:
    """Returns a rate that rises from 0 to `peak` and falls to 0.

    With N train steps and w warm-up steps: peak * n / w below w, then
    peak * (N - n) / (N - w), but never less than 1e-7 of the peak.

    Raises:
        ConfigError: there are no steps, or warm-up takes all of them.

    Source: DPR's official code, which is transformers' schedule with a floor. Differs
        in: nothing.
    """
    if train_steps < 1 or not 0 <= warmup_steps < train_steps:
        raise ConfigError(
            f"train_steps is {train_steps} and warm-up takes {warmup_steps} of them: "
            "train at least one step after warm-up."
        )

    def rate(count: jax.Array) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        share = jnp.maximum(1e-7, (train_steps - count) / (train_steps - warmup_steps))
        if warmup_steps == 0:
            return peak * share
        return peak * jnp.where(count < warmup_steps, count / warmup_steps, share)

    return rate


_SCHEDULES = {"megatron": linear_schedule, "transformers": linear_schedule_to_zero}


def freeze(
    optimizer: optax.GradientTransformation, names: Sequence[str]
) -> optax.GradientTransformation:
    """Returns `optimizer` without updates to the parameter trees of these names.

    Args:
        optimizer: any.
        names: at the top of the parameter tree.
    """
    if not names:
        return optimizer

    def is_frozen(params):
        return {
            name: jax.tree.map(lambda _: name in names, tree)  # noqa: B023
            for name, tree in params.items()
        }

    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), is_frozen))


def decay_mask(params: Params) -> Params:
    """Returns a tree of bool: True for what decays, kernels and embeddings.

    Biases and LayerNorm scales do not: they are the parameters named `bias` and
    `scale`.
    """

    def decays(path, _):
        return path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)
