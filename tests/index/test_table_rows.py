"""Some rows are read, and on no backend the whole table converted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.index import table_rows

NUM_ROWS, WIDTH = 100_000, 8


def test_slices_in_a_loop_convert_no_table():
    def largest(table):
        starts = jnp.arange(0, NUM_ROWS, 100, dtype=jnp.int32)
        read = functools.partial(table_rows.slice_rows, table, size=100)
        return jax.lax.map(lambda start: read(start).max(), starts)

    table = jax.ShapeDtypeStruct((NUM_ROWS, WIDTH), jnp.bfloat16)
    memory = jax.jit(largest).lower(table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * NUM_ROWS * WIDTH / 10


def test_a_slice_holds_the_rows_from_its_start_on():
    numbers = jnp.arange(200, dtype=jnp.bfloat16)[:, None]
    got = jax.jit(table_rows.slice_rows, static_argnums=2)(numbers, jnp.int32(150), 3)
    np.testing.assert_array_equal(got[:, 0], [150, 151, 152])
