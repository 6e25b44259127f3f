"""Contrastive losses: the right passage against those of the other queries.

A query's passages stand together, the right one first: of M passages for B queries,
query i has those from i * M / B up to the next query's, and all others are negatives.
"""

import jax
import jax.numpy as jnp

from art_jax.errors import ConfigError
from art_jax.models.dual_encoder import unit_length

SIMILARITIES = ("dot", "cosine", "l2")


def similarity_scores(
    query_embeddings: jax.Array,
    passage_embeddings: jax.Array,
    *,
    similarity: str = "dot",
) -> jax.Array:
    """Similarity of every query and every passage; higher is nearer.

    Args:
        query_embeddings: [B, D] float.
        passage_embeddings: [M, D] float.
        similarity: "dot", the dot product; "cosine"; "l2", the Euclidean distance with
            its sign changed. A distance below 1e-6 counts as 1e-6, so that the
            gradient is finite.

    Returns:
        [B, M] float32.

    Raises:
        ConfigError: there is no such similarity.

    Source: Karpukhin et al., arXiv:2004.04906, section 3.1. Differs in: nothing.
    """
    if similarity not in SIMILARITIES:
        raise ConfigError(
            f"no similarity {similarity!r}: choose of {', '.join(SIMILARITIES)}."
        )
    queries = query_embeddings.astype(jnp.float32)
    passages = passage_embeddings.astype(jnp.float32)
    if similarity == "cosine":
        queries, passages = unit_length(queries), unit_length(passages)
    products = jnp.einsum("bd,md->bm", queries, passages)
    if similarity != "l2":
        return products
    squares = jnp.sum(jnp.square(queries), axis=1)[:, None]
    squares = squares + jnp.sum(jnp.square(passages), axis=1)[None, :]
    return -jnp.sqrt(jnp.maximum(squares - 2 * products, 1e-12))


def dot_product_vectors(
    query_embeddings: jax.Array,
    passage_embeddings: jax.Array,
    *,
    similarity: str = "dot",
) -> tuple[jax.Array, jax.Array]:
    """Vectors whose dot products rank passages as the similarity does.

    Args:
        query_embeddings: [B, D] float.
        passage_embeddings: [M, D] float.
        similarity: as for `similarity_scores`.

    Returns:
        [B, D'] and [M, D']; D' is D, or D + 1 for "l2", where half the passage's square
        is taken off: |q - p|^2 = |q|^2 - 2 (q.p - |p|^2 / 2).
    """
    queries, passages = query_embeddings, passage_embeddings
    if similarity == "cosine":
        return unit_length(queries), unit_length(passages)
    if similarity == "l2":
        halves = -jnp.sum(jnp.square(passages), axis=1)[:, None] / 2
        ones = jnp.ones((len(queries), 1), queries.dtype)
        queries = jnp.concatenate([queries, ones], axis=1)
        passages = jnp.concatenate([passages, halves], axis=1)
    return queries, passages


def in_batch_nll(
    query_embeddings: jax.Array,
    passage_embeddings: jax.Array,
    *,
    temperature: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of each query's own passage among all passages.

    Args:
        query_embeddings: [B, D] float.
        passage_embeddings: [M, D] float, M a multiple of B, see the module.
        temperature: divides the dot products.
        where: [B, M] bool, False where a passage must not count as a negative, such
            as a second copy of the query's own passage. None: all True.

    Returns:
        [B] float32, in nats.

    Source: Lee et al., arXiv:1906.00300 (ICT); Karpukhin et al., arXiv:2004.04906.
        Differs in: nothing.
    """
    scores = similarity_scores(query_embeddings, passage_embeddings)
    return nll(scores / temperature, where)


def nll(scores: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Negative log-likelihood of each query's own passage, [B] float32, in nats.

    Args:
        scores: [B, M] float32, M a multiple of B, see the module.
        where: [B, M] bool, as for `in_batch_nll`.
    """
    if where is not None:
        scores = jnp.where(where, scores, -1e9)
    return jax.nn.logsumexp(scores, axis=-1) - _own_scores(scores)


def triplet(
    scores: jax.Array, *, margin: float, where: jax.Array | None = None
) -> jax.Array:
    """How far each query's own passage is from beating the others by a margin.

    Args:
        scores: [B, M] float32, M a multiple of B, see the module.
        margin: by which the own passage's score is to be higher.
        where: [B, M] bool, as for `in_batch_nll`.

    Returns:
        [B] float32, >= 0: max(0, margin + score - own score), averaged over the
        query's negatives; 0 where it has none.

    Source: Karpukhin et al., arXiv:2004.04906, section 5.2 and appendix, where NLL is
        compared with it. Differs in: they do not say how negatives are averaged.
    """
    is_negative = ~is_own(scores.shape)
    if where is not None:
        is_negative &= where
    short = jnp.maximum(0.0, margin + scores - _own_scores(scores)[:, None])
    count = jnp.maximum(is_negative.sum(axis=1), 1).astype(jnp.float32)
    return jnp.where(is_negative, short, 0.0).sum(axis=1) / count


def is_own(shape: tuple[int, int]) -> jax.Array:
    """Whether a passage is the query's own, [B, M] bool, for scores of that shape."""
    return _own_columns(shape)[:, None] == jnp.arange(shape[1])[None, :]


def is_best(scores: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Whether each query's own passage has its highest score; ties go to the first.

    Args:
        scores: [B, M] float32, M a multiple of B, see the module.
        where: [B, M] bool, as for `in_batch_nll`.

    Returns:
        [B] bool.
    """
    if where is not None:
        scores = jnp.where(where, scores, -jnp.inf)
    return jnp.argmax(scores, axis=1) == _own_columns(scores.shape)


def scale_gradient(value: jax.Array, scale: float) -> jax.Array:
    """The value itself; its gradient is multiplied by `scale`."""
    if scale == 1.0:
        return value
    return jax.lax.stop_gradient(value) * (1 - scale) + value * scale


def _own_columns(shape: tuple[int, int]) -> jax.Array:
    num_queries, num_passages = shape
    return jnp.arange(num_queries) * (num_passages // num_queries)


def _own_scores(scores: jax.Array) -> jax.Array:
    num_queries, num_passages = scores.shape
    return jnp.diagonal(scores[:, :: num_passages // num_queries])
