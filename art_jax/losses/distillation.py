"""Distilling a teacher's choice among passages into the retriever's."""

import jax
import jax.numpy as jnp

from art_jax.errors import ConfigError


def teacher_kl(
    retriever_scores: jax.Array,
    teacher_scores: jax.Array,
    *,
    temperature: float,
    teacher_scale: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """KL divergence from the teacher's choice of passage to the retriever's.

    Args:
        retriever_scores: [B, K] float, query-passage dot products, unscaled.
        teacher_scores: [B, K] float, mean log-likelihood of a question token given
            the passage, in nats. No gradient flows into it.
        temperature: > 0; divides `retriever_scores` only.
        teacher_scale: > 0; multiplies `teacher_scores` before the softmax.
        where: [B, K] bool, False for slots that hold no passage. None: all True.

    Returns:
        [B] float32, in nats, >= 0; zero where the two distributions are equal, and
        where a query has no passage at all.

    Raises:
        ConfigError: the shapes differ, or a scale is not positive.

    Source: Sachan et al., arXiv:2206.10658, section 2.4. Differs in: `teacher_scale`,
        which is 1 there; smaller teachers give flatter distributions.
    """
    if retriever_scores.shape != teacher_scores.shape:
        raise ConfigError(
            f"the retriever scored {retriever_scores.shape} and the teacher "
            f"{teacher_scores.shape}: both must be [B, K]."
        )
    if temperature <= 0 or teacher_scale <= 0:
        raise ConfigError(
            f"temperature ({temperature}) and teacher_scale ({teacher_scale}) must be "
            "positive."
        )
    if where is None:
        where = jnp.ones(retriever_scores.shape, bool)
    teacher_scores = jax.lax.stop_gradient(teacher_scores).astype(jnp.float32)
    log_student = _log_softmax(
        retriever_scores.astype(jnp.float32) / temperature, where
    )
    log_teacher = _log_softmax(teacher_scores * teacher_scale, where)
    terms = jnp.exp(log_teacher) * (log_teacher - log_student)
    return jnp.sum(jnp.where(where, terms, 0.0), axis=-1)


def entropy(scores: jax.Array, where: jax.Array) -> jax.Array:
    """Entropy of the softmax over the last axis, in nats.

    Args:
        scores: [B, K] float32.
        where: [B, K] bool, False for slots that do not count.

    Returns:
        [B] float32.
    """
    log_probabilities = _log_softmax(scores, where)
    terms = jnp.exp(log_probabilities) * log_probabilities
    return -jnp.sum(jnp.where(where, terms, 0.0), axis=-1)


def _log_softmax(scores: jax.Array, where: jax.Array) -> jax.Array:
    # A large negative number, not -inf: a row without any passage would give NaN, and
    # its gradient would too, even behind a mask.
    return jax.nn.log_softmax(jnp.where(where, scores, -1e9), axis=-1)
