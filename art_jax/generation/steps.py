"""What greedy and beam search are given, and what they return."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

# A tree of arrays, the first axis of each of rows, so that rows can be gathered; what
# rows share and nobody changes, such as an encoder's output, is closed over instead.
State = Any

# (state of n rows, tokens [n] int32) -> (logits [n, V], state that has read them)
StepFn = Callable[[State, jax.Array], tuple[jax.Array, State]]

# (tokens decoded so far [n, T] int32, their number [] int32) -> [n, V] bool, which may
# come next. One alone is a forced token; none at all ends a row without a result.
AllowedFn = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Decoded:
    """Decoded sequences.

    tokens: [..., T] int32; behind the end-of-sequence token, which is in, padding. A
        sequence without one was cut.
    scores: [...] float32, what sequences are ranked by, higher is better; -inf where
        there is none.
    log_likelihoods: [...] float32, in nats, of the tokens of a sequence in sum.
    """

    tokens: jax.Array
    scores: jax.Array
    log_likelihoods: jax.Array


def next_log_likelihoods(
    logits: jax.Array,
    allowed: AllowedFn | None,
    tokens: jax.Array,
    num_tokens: jax.Array,
) -> jax.Array:
    """Log-likelihoods of each next token, -inf where it is not allowed.

    What is left is not normalised again: a score stays the model's own.

    Args:
        logits: [n, V].
        allowed: None: everything is.
        tokens: [n, T] int32, decoded so far.
        num_tokens: [] int32, how many.

    Returns:
        [n, V] float32.
    """
    log_likelihoods = jax.nn.log_softmax(logits.astype(jnp.float32))
    if allowed is None:
        return log_likelihoods
    return jnp.where(allowed(tokens, num_tokens), log_likelihoods, -jnp.inf)
