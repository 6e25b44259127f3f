"""Batches of training examples: which questions, with which of their passages.

All of it is a pure function of seed and step, on the host.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from art_jax.data.batches import batch_rows, choose_set, draw_places
from art_jax.data.example_table import ExampleTable
from art_jax.data.layouts import Layout, layout_rows


@dataclasses.dataclass(frozen=True)
class PassageDraw:
    """How many passages of which kinds a question brings.

    num_hard_negatives: H, wrong ones that look right.
    num_other_negatives: O, other wrong ones.
    hard_negative_fallback: a question without any of the first is given the second.
    """

    num_hard_negatives: int
    num_other_negatives: int
    hard_negative_fallback: bool = True

    def rows(
        self,
        table: ExampleTable,
        examples: np.ndarray,
        *,
        shuffle_positives: bool,
        seed: Sequence[int],
    ) -> np.ndarray:
        """Returns the passages of some questions, drawn anew by each seed.

        Args:
            table: what the examples are of.
            examples: [B] int.
            shuffle_positives: draw the right passage, and not take the first.
            seed: of what is drawn; such as a run's and its step.

        Returns:
            [B, 1 + O + H] int32, rows of `table.passages`: the right one, O others, H
            hard ones; -1 where a question has fewer.
        """
        num_hard, num_others = self.num_hard_negatives, self.num_other_negatives
        # NumPy promises the raw stream of a bit generator across versions.
        raw = np.random.PCG64([*seed, 2]).random_raw(
            len(examples) * (1 + num_others + 2 * num_hard)
        )
        raws = np.split(
            raw.reshape(len(examples), -1), [1, 1 + num_others + num_hard], axis=1
        )
        right, others, hard = (
            lists.pick(
                examples, draw_places(lists.counts(examples), part.shape[1], part)
            )
            for lists, part in zip(
                (table.positives, table.negatives, table.hard_negatives),
                raws,
                strict=True,
            )
        )
        if not shuffle_positives:
            right = table.positives.pick(examples, np.zeros_like(right))
        if self.hard_negative_fallback:
            has_none = table.hard_negatives.counts(examples) == 0
            hard = np.where(has_none[:, None], others[:, num_others:], hard)
        return np.concatenate([right, others[:, :num_others], hard], axis=1)


def choose_examples(
    table: ExampleTable, *, batch_size: int, seed: int, step: int
) -> tuple[int, np.ndarray]:
    """Returns of which set a step's batch is, and its examples, [batch_size] int64.

    An epoch goes through each set as often as its sampling rate says, a batch of one
    set after a batch of another, in an order of its own.
    """
    sizes = np.diff(table.set_offsets) // batch_size
    batches_per_epoch = [
        max(1, int(one.sampling_rate * int(size)))
        for one, size in zip(table.sets, sizes, strict=True)
    ]
    chosen, number = choose_set(batches_per_epoch, seed=seed, step=step)
    first, last = map(int, table.set_offsets[chosen : chosen + 2])
    rows = batch_rows(last - first, batch_size, seed=seed, step=number)
    return chosen, first + rows


def question_arrays(
    layout: Layout,
    table: ExampleTable,
    examples: np.ndarray,
    scales: np.ndarray,
    tower: int | None = None,
) -> dict[str, np.ndarray]:
    """Returns the questions of a batch.

    Args:
        layout: of questions.
        table: of examples.
        examples: [B] int, of the table.
        scales: [B] float32, of the losses.
        tower: that all questions go through; None: there is one for all.

    Returns:
        query_tokens [B, Q], loss_scales [B] and, where `tower` says it, towers [B]
        int32.
    """
    arrays = {
        "query_tokens": layout_rows(layout, table.questions, examples),
        "loss_scales": scales,
    }
    if tower is not None:
        arrays["towers"] = np.full(len(examples), tower, np.int32)
    return arrays


def passage_arrays(
    layout: Layout, table: ExampleTable, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the passages of a batch: passage_tokens [B, P, L], passage_rows [B, P].

    Args:
        layout: of passages.
        table: of examples.
        rows: [B, P] int32, of its passages; -1 for none.
    """
    # A slot without a passage is read as some other, and masked in the loss.
    filled = np.where(rows >= 0, rows, np.maximum(rows[:, :1], 0))
    tokens = layout_rows(layout, table.passages, filled)
    return {"passage_tokens": tokens, "passage_rows": rows}


def held_out_batches(
    table: ExampleTable, batch_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields all examples once, a set after the other, in their order.

    Yields:
        the set; its examples, [batch_size] int64, the last ones of a set filled up
        with its first; and [batch_size] bool, False where they are.
    """
    for number, (first, last) in enumerate(
        zip(table.set_offsets[:-1], table.set_offsets[1:], strict=True)
    ):
        for start in range(int(first), int(last), batch_size):
            examples = np.arange(start, start + batch_size)
            is_own = examples < last
            yield number, np.where(is_own, examples, first), is_own
