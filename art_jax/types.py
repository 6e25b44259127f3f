"""The dimension key and the dataclasses that cross folders.

Dimensions, as every docstring uses them:

    B queries in a batch      K passages kept per query    N rows of the whole table
    S rows on one shard       L tokens of a passage        Q tokens of a query
    T tokens the teacher scores    D embedding width       V vocabulary size    H heads
"""

from typing import Any

import flax.struct
import jax

Params = Any  # a tree of arrays, as Flax makes it


@flax.struct.dataclass
class SearchResults:
    """The K best rows of each query, best first; ties go to the lower row.

    scores: [B, K] float32, dot products; -inf where `rows` holds no passage.
    rows: [B, K] int32, rows of the table; -1 where there were fewer than K.
    """

    scores: jax.Array
    rows: jax.Array


@flax.struct.dataclass
class TrainState:
    """What one training step reads and writes.

    step: [] int32, steps taken, those that were skipped included.
    params: the trained parameters, float32.
    opt_state: the optimiser's state.
    skipped_in_a_row: [] int32, steps skipped since the last good one, because
        their loss or gradient was not finite.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    skipped_in_a_row: jax.Array
