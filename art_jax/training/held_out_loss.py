"""The mean loss of held-out examples, in batches as training has them."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.data.example_batches import (
    PassageDraw,
    held_out_batches,
    passage_arrays,
    question_arrays,
)
from art_jax.data.example_table import ExampleTable
from art_jax.data.layouts import Layout
from art_jax.types import Params


def build_mean_loss(
    table: ExampleTable,
    losses: Callable[[Params, Mapping[str, jax.Array]], jax.Array],
    put_batch: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
    *,
    draw: PassageDraw,
    batch_size: int,
    query_layout: Layout,
    passage_layout: Layout,
    set_towers: Sequence[int | None],
) -> Callable[[Params], float]:
    """Returns a function from parameters to the mean loss over all questions.

    Every question counts once, among the passages of its batch. Each set's last batch
    is smaller, and its loss lower for that.

    Args:
        table: of held-out examples.
        losses: (parameters, batch) -> [B] float32, without dropout; a batch is as
            `question_arrays` and `passage_arrays` make it.
        put_batch: lays a batch out on the mesh.
        draw: of each question's passages; the same at every call.
        batch_size: B.
        query_layout: of questions.
        passage_layout: of passages.
        set_towers: of each set, the question tower, or None.

    Source: the validation of DPR's official code in its first epochs. Differs in: there
        each process has batches of its own size.
    """

    @jax.jit
    def sum_of_losses(params, batch):
        is_own_B = batch["loss_scales"] > 0
        return jnp.where(is_own_B, losses(params, batch), 0.0).sum()

    def mean_loss(params: Params) -> float:
        total = 0.0
        for number, examples, is_own in held_out_batches(table, batch_size):
            rows = draw.rows(
                table, examples, shuffle_positives=False, seed=(0, int(examples[0]))
            )
            # What fills up a set's last batch is a negative of nothing.
            rows = np.where(is_own[:, None], rows, np.int32(-1))
            arrays = question_arrays(
                query_layout,
                table,
                examples,
                is_own.astype(np.float32),
                set_towers[number],
            ) | passage_arrays(passage_layout, table, rows)
            total += float(sum_of_losses(params, put_batch(arrays)))
        return total / table.num_examples

    return mean_loss
