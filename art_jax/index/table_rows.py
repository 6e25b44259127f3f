"""Reading some rows of a large array and no others.

XLA's CPU backend slices and gathers bfloat16 in float32. Left alone it converts the
whole table first: twice the table's memory, all of it read and written for a few rows.
(Scatters, too, and no way round that was found: writing rows of a bfloat16 table on
a CPU costs three passes over it. A float32 table has no such cost.)
"""

import jax


def slice_rows(table: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """Returns rows [size, ...] of a table from row `start` on.

    Args:
        table: [S, ...].
        start: [] int32.
        size: rows, at most S.
    """
    table, start = tie(table, start)
    return jax.lax.dynamic_slice_in_dim(table, start, size)


def tie(table: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns both unchanged, the table not known to XLA before the index is.

    So a loop over `index` cannot convert the table before it starts, and what reads the
    table at `index` converts those rows alone. On other backends nothing is done.
    """
    return jax.lax.platform_dependent(
        table,
        index,
        cpu=lambda *arrays: jax.lax.optimization_barrier(arrays),
        default=lambda *arrays: arrays,
    )
