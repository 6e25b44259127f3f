"""Blocks of scores cover every row once, and rows are found on whatever shard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from art_jax import partitioning
from art_jax.index import score_blocks
from art_jax.partitioning import ROW_AXES

ROWS, PADDED, WIDTH = 21, 24, 3


def on_mesh(mesh, function, num_whole):
    whole = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(PartitionSpec(ROW_AXES), *[whole] * num_whole),
            out_specs=whole,
            check_vma=False,
        )
    )


def small_integers(*shape):
    rng = np.random.default_rng(0)
    return rng.integers(-5, 6, shape).astype(np.float32)


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_every_row_is_in_one_block(mesh, block_rows):
    queries, table = small_integers(2, WIDTH), small_integers(PADDED, WIDTH)

    def sums(table_SD, queries):
        def add_block(totals, block):
            weights = jnp.where(block.is_row, block.rows + 1, 0).astype(jnp.float32)
            return (
                totals[0] + jnp.einsum("br,r->b", block.scores, weights),
                totals[1] + jnp.einsum("rd,r->d", block.vectors, weights),
            )

        totals = score_blocks.over_blocks(
            add_block,
            (jnp.zeros(2), jnp.zeros(WIDTH)),
            queries,
            table_SD,
            jnp.int32(ROWS),
            block_rows=block_rows,
        )
        return jax.lax.psum(totals, ROW_AXES)

    split = partitioning.put_global(table, partitioning.row_sharding(mesh))
    scores, vectors = on_mesh(mesh, sums, 1)(split, queries)
    weights = np.arange(1, ROWS + 1)
    np.testing.assert_array_equal(scores, queries @ table[:ROWS].T @ weights)
    np.testing.assert_array_equal(vectors, weights @ table[:ROWS])


def test_rows_are_found_on_their_shards(mesh):
    table = small_integers(PADDED, WIDTH)
    split = partitioning.put_global(table, partitioning.row_sharding(mesh))
    rows = np.array([0, 20, 7, 7], np.int32)
    got = on_mesh(mesh, functools.partial(score_blocks.vectors_of), 1)(split, rows)
    np.testing.assert_array_equal(got, table[rows])
