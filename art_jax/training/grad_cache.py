"""The gradient of a loss of the whole batch, in the memory of one chunk of it.

In a contrastive loss every example is a negative of every other, so a chunk of the
batch has another loss. But the loss needs the examples' embeddings alone, which are
small. So a first pass embeds all chunks without a gradient; the loss of the batch and
its slope at every embedding follow; then each chunk is embedded again, with the dropout
it drew before, and its slopes are carried back to the parameters.

Source: Gao et al., arXiv:2101.06983 (GradCache). Differs in: nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from art_jax.training import chunks
from art_jax.training.update import Batch, LossFn, PrepareFn, Resources
from art_jax.types import Params

Embeddings = Any  # a tree of [B, ...] arrays, those of an example of that example alone
# (params, batch, resources, key) -> embeddings
Embed = Callable[[Params, Batch, Resources, jax.Array], Embeddings]
# (embeddings, batch, resources) -> (loss [], metrics {name: []})
BatchLoss = Callable[[Embeddings, Batch, Resources], tuple[jax.Array, dict]]

_LOSS, _METRICS, _SLOPES = "batch_loss", "batch_metrics", "embedding_slopes"


def build_loss(
    embed: Embed, batch_loss: BatchLoss, *, num_chunks: int
) -> tuple[PrepareFn | None, LossFn]:
    """Returns `prepare` and `loss` of a loop.Problem, and of `update.make_update`.

    Any number of chunks has the same gradient, to rounding, but for dropout: each chunk
    draws by its own key, as `chunks.map_chunks` gives it.

    Args:
        embed: given a chunk of the batch and its key.
        batch_loss: given the whole batch, a dict, and its embeddings.
        num_chunks: as for `make_update`; in one chunk nothing is computed twice.
    """
    if num_chunks == 1:

        def whole_loss(params, batch, resources, key):
            return batch_loss(embed(params, batch, resources, key), batch, resources)

        return None, whole_loss

    def prepare(params, batch, resources, key):
        embeddings = chunks.map_chunks(
            lambda chunk, key: embed(params, chunk, resources, key),
            batch,
            key,
            num_chunks=num_chunks,
        )
        embeddings = jax.lax.stop_gradient(embeddings)
        (loss, metrics), slopes = jax.value_and_grad(batch_loss, has_aux=True)(
            embeddings, batch, resources
        )
        # Every example is given the batch's values, since chunks are of examples.
        size = jax.tree.leaves(embeddings)[0].shape[0]
        spread = lambda value: jnp.broadcast_to(value, (size,))  # noqa: E731
        return batch | {
            _LOSS: spread(loss),
            _METRICS: jax.tree.map(spread, metrics),
            # The gradients of chunks are averaged; these are to be added up.
            _SLOPES: jax.tree.map(lambda slope: slope * num_chunks, slopes),
        }

    def loss(params, batch, resources, key):
        embeddings = embed(params, batch, resources, key)
        terms = jax.tree.map(jnp.vdot, batch[_SLOPES], embeddings)
        loss = _follow(batch[_LOSS].mean(), jax.tree.reduce(jnp.add, terms))
        return loss, jax.tree.map(jnp.mean, batch[_METRICS])

    return prepare, loss


@jax.custom_jvp
def _follow(value: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns `value`; its gradient is that of `slope`, whose own value is not used.

    So what carries no gradient, a frozen tower, is not embedded a second time.
    """
    del slope
    return value


@_follow.defjvp
def _follow_jvp(primals, tangents):
    return primals[0], tangents[1]
