"""Greedy search: the likeliest token each time."""

import jax
import jax.numpy as jnp

from art_jax.generation.steps import (
    AllowedFn,
    Decoded,
    State,
    StepFn,
    next_log_likelihoods,
)


def decode(
    step: StepFn,
    state: State,
    start_tokens: jax.Array,
    *,
    max_tokens: int,
    eos_id: int,
    pad_id: int = 0,
    allowed: AllowedFn | None = None,
) -> Decoded:
    """Returns the sequence of each row that takes the likeliest token each time.

    For use under jit, with shapes that do not depend on what is decoded: the loop ends
    when every row has ended. Of tokens that are equally likely the lowest is taken. A
    row depends on no other.

    Args:
        step: the model.
        state: of B rows, before the first token.
        start_tokens: [B] int32, read first and no part of the result.
        max_tokens: T, at least 1; a row without an end by then is cut.
        eos_id: ends a sequence.
        pad_id: fills what follows.
        allowed: which tokens may come next; None: all. A row in which none may ends
            there, and its score is -inf.

    Returns:
        tokens [B, T], scores [B], which are the log-likelihoods.
    """
    rows = len(start_tokens)
    carry = (
        jnp.int32(0),
        state,
        start_tokens.astype(jnp.int32),
        jnp.full((rows, max_tokens), pad_id, jnp.int32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(rows, bool),
    )

    def is_going_on(carry) -> jax.Array:
        place, *_, has_ended = carry
        return (place < max_tokens) & ~jnp.all(has_ended)

    def take_step(carry):
        place, state, last, tokens, totals, has_ended = carry
        logits, state = step(state, last)
        scores = next_log_likelihoods(logits, allowed, tokens, place)
        chosen = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        gained = jnp.max(scores, axis=-1)
        is_dead = gained == -jnp.inf
        chosen = jnp.where(has_ended | is_dead, pad_id, chosen)
        totals += jnp.where(has_ended, 0.0, gained)
        tokens = tokens.at[:, place].set(chosen)
        has_ended |= is_dead | (chosen == eos_id)
        return place + 1, state, chosen, tokens, totals, has_ended

    _, _, _, tokens, totals, _ = jax.lax.while_loop(is_going_on, take_step, carry)
    return Decoded(tokens, totals, totals)
