"""Write-back: which of several embeddings of a row is written, and into what."""

import jax.numpy as jnp
import numpy as np

from art_jax import partitioning
from art_jax.index.table import EmbeddingTable
from art_jax.training import write_back


def test_of_several_the_first_stays_and_what_is_not_finite_goes():
    rows = jnp.array([[4, -1, 2], [2, 4, 7]], jnp.int32)
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    values[0, 0, 1] = np.nan  # of row 4, whose second embedding is then its first
    values[1, 2, 0] = np.inf
    chosen, flat = write_back.choose_rows(rows, jnp.asarray(values))
    assert chosen.tolist() == [-1, -1, 2, -1, 4, -1]
    np.testing.assert_array_equal(flat, values.reshape(6, 2))


def test_a_table_on_any_number_of_devices_holds_what_was_written(mesh):
    before = np.arange(48, dtype=np.float32).reshape(16, 3)
    sharding = partitioning.row_sharding(mesh)
    table = EmbeddingTable(
        embeddings=partitioning.put_global(before, sharding),
        num_rows=13,
        generation=2,
        table_step=8,
        evidence_digest="",
        mesh=mesh,
    )
    batch = partitioning.batch_sharding(mesh)
    rows = np.array([[12, 0], [5, -1], [0, 7], [-1, -1]] * 2, np.int32)
    values = -np.arange(48, dtype=np.float32).reshape(8, 2, 3) - 1
    written, rest = write_back.write_back(
        table,
        {
            write_back.ROWS: partitioning.put_global(rows, batch),
            write_back.EMBEDDINGS: partitioning.put_global(values, batch),
            "loss": 0.5,
        },
    )
    want = before.copy()
    want[12], want[0], want[5], want[7] = *values[0], values[1, 0], values[2, 1]
    np.testing.assert_array_equal(written.embeddings, want)
    assert written.embeddings.sharding.is_equivalent_to(sharding, 2)
    assert (written.generation, written.table_step) == (2, 8)
    assert rest == {"loss": 0.5}
