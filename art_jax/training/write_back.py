"""Fresh embeddings of the passages a step retrieved, written into the table.

They are those of the step's forward pass, so they cost no matrix product: by the
weights before its update, and with its dropout where there is any.
"""

import dataclasses

import jax
import jax.numpy as jnp

from art_jax.index.table import EmbeddingTable, write_rows

ROWS, EMBEDDINGS = "written_rows", "written_embeddings"


def write_back(table: EmbeddingTable, metrics: dict) -> tuple[EmbeddingTable, dict]:
    """Returns the table with a step's embeddings in it, and the step's other metrics.

    A row found by several questions is written once. An embedding that is not finite
    is not written.

    Args:
        table: its arrays are donated.
        metrics: of a step; written_rows [B, K] int32 (-1 for none) and
            written_embeddings [B, K, D] float32 among them.
    """
    rest = {name: metrics[name] for name in metrics if name not in (ROWS, EMBEDDINGS)}
    rows, values = choose_rows(metrics[ROWS], metrics[EMBEDDINGS])
    embeddings, int8_rows = write_rows(table.embeddings, table.int8_rows, rows, values)
    table = dataclasses.replace(table, embeddings=embeddings, int8_rows=int8_rows)
    return table, rest


@jax.jit
def choose_rows(rows: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns rows [n] int32 and values [n, D] in which no row occurs twice.

    Of several the first stays, and the others become -1. They differ, by rounding and
    by dropout, and which of them a scatter would keep is not said.

    Args:
        rows: [B, K] int32, -1 for none.
        values: [B, K, D] float32.
    """
    values = values.reshape(-1, values.shape[-1])
    rows = jnp.where(jnp.isfinite(values).all(axis=-1), rows.reshape(-1), -1)
    order = jnp.argsort(rows, stable=True)
    in_order = rows[order]
    is_again = jnp.concatenate([jnp.zeros(1, bool), in_order[1:] == in_order[:-1]])
    return jnp.where(jnp.zeros_like(is_again).at[order].set(is_again), -1, rows), values
