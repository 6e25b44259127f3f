"""Losses of a model that picks passages one after the other, in no order known before.

At each step the right picks are the positive passages not yet picked, whatever the
picks so far: the dynamic oracle. One step alone is the loss of independent picks.
"""

import jax
import jax.numpy as jnp


def choice_log_likelihoods(
    logits: jax.Array,
    choices: jax.Array,
    where: jax.Array,
    *,
    over_vocabulary: bool = False,
) -> jax.Array:
    """Log-likelihoods of choices that are tokens of a vocabulary.

    Args:
        logits: [B, T, V] float, of T steps.
        choices: [B, C] int32, the token of each choice.
        where: [B, C] bool, False where there is no choice.
        over_vocabulary: likelihoods sum up to 1 over all V tokens; else over the
            choices of a question.

    Returns:
        [B, T, C] float32, in nats; very low where there is no choice.
    """
    logits = logits.astype(jnp.float32)
    chosen_BTC = jnp.take_along_axis(logits, choices[:, None], axis=2)
    # Finite, so that no gradient is NaN.
    chosen_BTC = jnp.where(where[:, None], chosen_BTC, -1e9)
    pool = logits if over_vocabulary else chosen_BTC
    return chosen_BTC - jax.nn.logsumexp(pool, axis=2, keepdims=True)


def dynamic_oracle_nll(
    log_likelihoods: jax.Array, prefix: jax.Array, is_positive: jax.Array
) -> jax.Array:
    """Negative log-likelihood of all right picks of each step, in sum.

    With the positives O and the first t picks P_t, it is the sum over steps t = 1..T
    and over o in O - P_{t-1} of -log P(o | P_{t-1}). A step after the last positive was
    picked adds nothing. With T = 1 it is the loss of IndepPR.

    Args:
        log_likelihoods: [B, T, C] float32, of each choice after each part of the
            prefix; nothing is normalised here.
        prefix: [B, T] int32, the choice picked at each step, -1 for none; the last
            is not looked at.
        is_positive: [B, C] bool, O.

    Returns:
        [B] float32, in nats; 0 where nothing is positive.

    Source: Min et al., arXiv:2104.08445, section 3.2; without negatives in the prefix
        it is its ablation "w/o negatives". Differs in: nothing.
    """
    num_choices = log_likelihoods.shape[2]
    picked_BTC = jax.nn.one_hot(prefix, num_choices, dtype=jnp.int32)
    picked_before_BTC = jnp.cumsum(picked_BTC, axis=1) - picked_BTC
    is_right_BTC = is_positive[:, None] & (picked_before_BTC == 0)
    return -jnp.where(is_right_BTC, log_likelihoods, 0.0).sum(axis=(1, 2))


def sequence_nll(log_likelihoods: jax.Array, sequence: jax.Array) -> jax.Array:
    """Negative log-likelihood of one sequence of picks: teacher forcing.

    Args:
        log_likelihoods: [B, T, C] float32, of each choice after the sequence so far.
        sequence: [B, T] int32, the right picks, -1 behind the last.

    Returns:
        [B] float32, in nats.

    Source: the ablation of Min et al., arXiv:2104.08445, table 4. Differs in: nothing.
    """
    num_choices = log_likelihoods.shape[2]
    is_right_BTC = jax.nn.one_hot(sequence, num_choices, dtype=jnp.bool_)
    return -jnp.where(is_right_BTC, log_likelihoods, 0.0).sum(axis=(1, 2))
