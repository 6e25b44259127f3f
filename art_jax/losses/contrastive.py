"""Contrastive losses: the right passage against those of the other queries."""

import jax
import jax.numpy as jnp


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
        passage_embeddings: [M, D] float, M >= B; row i is query i's own passage.
        temperature: divides the dot products.
        where: [B, M] bool, False where a passage must not count as a negative, such
            as a second copy of the query's own passage. None: all True.

    Returns:
        [B] float32, in nats.

    Source: Lee et al., arXiv:1906.00300 (ICT); Karpukhin et al., arXiv:2004.04906.
        Differs in: nothing.
    """
    scores = jnp.einsum(
        "bd,md->bm",
        query_embeddings.astype(jnp.float32),
        passage_embeddings.astype(jnp.float32),
    )
    scores = scores / temperature
    if where is not None:
        scores = jnp.where(where, scores, -1e9)
    own = jnp.diagonal(scores[:, : scores.shape[0]])
    return jax.nn.logsumexp(scores, axis=-1) - own
