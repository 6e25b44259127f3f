"""Texts out of a T5: greedy or beam search over its cached decoder."""

import functools

import jax
import jax.numpy as jnp

from art_jax.generation import beam, greedy
from art_jax.generation.beam import BeamRules
from art_jax.generation.steps import AllowedFn, Decoded
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params

START_ID, EOS_ID = 0, 1


@functools.partial(
    jax.jit, static_argnames=("config", "rules", "max_tokens", "allowed")
)
def generate(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    mask: jax.Array,
    *,
    max_tokens: int,
    rules: BeamRules | None = None,
    eos_id: int = EOS_ID,
    allowed: AllowedFn | None = None,
) -> Decoded:
    """Returns what a T5 says to what its encoder, or FiD's, has read.

    Compiled once for each shape; arrays that are split over a mesh stay split.

    Args:
        params: of the T5.
        config: of the T5.
        encoded: [B, L, D], from `t5.encode` or `fid.encode`.
        mask: [B, L] bool, where there is a token.
        max_tokens: T, of a sequence, its end included.
        rules: of beam search; None: greedy search.
        eos_id: ends a sequence.
        allowed: which tokens may come next, a function kept for the whole run, since
            another one compiles again; None: all.

    Returns:
        tokens [B, T] where greedy; [B, W, T], best first, of beam search.
    """
    memory = t5.make_memory(params, config, encoded, mask)
    cache = t5.init_cache(config, len(mask), max_tokens)
    start_tokens = jnp.full(len(mask), START_ID, jnp.int32)

    def step(cache: t5.Cache, tokens: jax.Array) -> tuple[jax.Array, t5.Cache]:
        return t5.decode_step(params, config, memory, cache, tokens)

    if rules is None:
        return greedy.decode(
            step,
            cache,
            start_tokens,
            max_tokens=max_tokens,
            eos_id=eos_id,
            allowed=allowed,
        )
    return beam.search(
        step,
        cache,
        start_tokens,
        rules,
        max_tokens=max_tokens,
        eos_id=eos_id,
        allowed=allowed,
    )
