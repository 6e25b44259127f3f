"""What is to be read of a batch's passages: each once, the longest first.

A slot is a place of a batch that holds a passage for a question. Slots lie in groups,
one for each part of the mesh that has its own questions; no passage leaves its group,
and everything here is done in all groups side by side.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Worklist:
    """Which passages to encode and which pairs to score, in what order.

    Passages are the distinct ones of a group, the longest first, so that neighbours
    are of similar length. They come in waves of `wave_size`; a wave's pairs are
    scored before the next wave is encoded, those of long questions first.

    passages: [G, n] int32, a slot that holds each passage.
    num_passages: [G] int32, how many of them count.
    pairs: [G, n] int32, the slots to score.
    pair_passages: [G, n] int32, the place in `passages` of each pair's passage.
    wave_starts: [G, waves + 1] int32, where each wave's pairs start; the last is how
        many pairs there are.
    """

    passages: jax.Array
    num_passages: jax.Array
    pairs: jax.Array
    pair_passages: jax.Array
    wave_starts: jax.Array


def make_worklist(
    rows: jax.Array,
    lengths: jax.Array,
    question_classes: jax.Array,
    *,
    wave_size: int,
) -> Worklist:
    """Returns the work of each group. Usable under jit.

    Args:
        rows: [G, n] int32, equal where slots hold equal passages; -1 where a slot
            holds none, which is then not read at all.
        lengths: [G, n] int32, tokens of each slot's passage.
        question_classes: [G, n] int32, of each slot's question; pairs of a higher
            class come first in their wave.
        wave_size: passages of a wave.
    """

    def of_group(rows, lengths, question_classes):
        num_slots = len(rows)
        order = jnp.lexsort((rows, -lengths, rows < 0))  # The last key counts most.
        sorted_rows, is_passage = rows[order], rows[order] >= 0
        is_new = is_passage & (sorted_rows != jnp.roll(sorted_rows, 1).at[0].set(-1))
        place = jnp.cumsum(is_new, dtype=jnp.int32) - 1
        passages = jnp.zeros_like(rows)
        passages = passages.at[jnp.where(is_new, place, num_slots)].set(
            order.astype(jnp.int32), mode="drop"
        )
        places = jnp.zeros_like(rows).at[order].set(place)

        waves = places // wave_size
        pairs = jnp.lexsort((-lengths, -question_classes, waves, rows < 0))
        num_waves = -(-num_slots // wave_size)
        is_before = waves[:, None] < jnp.arange(num_waves + 1)[None]
        is_before &= (rows >= 0)[:, None]
        return Worklist(
            passages=passages,
            num_passages=is_new.sum(dtype=jnp.int32),
            pairs=pairs.astype(jnp.int32),
            pair_passages=places[pairs],
            wave_starts=is_before.sum(axis=0, dtype=jnp.int32),
        )

    return jax.vmap(of_group)(rows, lengths, question_classes)


def row_lengths(tokens: jax.Array) -> jax.Array:
    """How much of each row is in use: [..., length] int32 to [...] int32.

    The rest of it is padding, 0.
    """
    places = jnp.arange(1, tokens.shape[-1] + 1, dtype=jnp.int32)
    places = places.reshape((1,) * (tokens.ndim - 1) + places.shape)
    return jnp.max(jnp.where(tokens != 0, places, 0), axis=-1)


def static_lengths(longest: int, shorter: Sequence[int]) -> tuple[int, ...]:
    """The lengths that rows of `longest` tokens may be cut to, it included.

    Args:
        longest: tokens of a row.
        shorter: lengths to offer beside it; those above it are left out.
    """
    return (*sorted({length for length in shorter if length < longest}), longest)
