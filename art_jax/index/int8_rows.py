"""The table's rows as int8 codes, with a proven bound of what the codes leave out.

A row x is `scale * codes + rest`, with one scale a row. The score of x is then at most
`scale * (query . codes) + |query| |rest|` (Cauchy-Schwarz): a scan of the codes, half
the bytes of bfloat16 rows, bounds every score from above.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from art_jax.index.block_search import dot_products
from art_jax.index.table_rows import slice_rows
from art_jax.partitioning import ROW_AXES

_MAX_CODE = 127
_QUANTIZED_ROWS = 4096
# Four times IEEE's unit roundoff of float32, since tensor cores cut off bits of the
# terms of a sum where IEEE rounds.
_ROUNDOFF = 2.0**-22
# Above what is lost where squares and products of small numbers underflow.
_UNDERFLOW = 2.0**-60


@flax.struct.dataclass
class Int8Rows:
    """Rows of a table in eight bits; each leaf is split over devices as the table is.

    codes: [N padded, D] int8.
    scales: [N padded] float32.
    errors: [N padded] float32: times the query's `norm_bounds`, at least by what a
        score can be above `scale * (query . codes)`, rounding of both included.
    """

    codes: jax.Array
    scales: jax.Array
    errors: jax.Array


def quantize_rows(embeddings: jax.Array) -> Int8Rows:
    """Returns rows [n, D] as codes, each row by itself.

    A row that is not finite gets a bound that is not finite.

    With u the unit roundoff of a sum in float32 and |.| the norm, for a query q, a row
    x = s c + e, and any order of summation (gamma = D u / (1 - D u)):

        computed q.x  <=  q.x + gamma |q| |x|  =  s q.c + q.e + gamma |q| |x|
                      <=  s (computed q.c) + |q| (|e| + gamma (s |c| + |x|))

    `errors` is what stands in the last bracket. Computing it and the bound rounds some
    D + 8 times more, each by u of a term that is in it already, so doubled D and 32
    on top cover that.
    """
    values = embeddings.astype(jnp.float32)
    scales = jnp.abs(values).max(axis=-1) / _MAX_CODE
    steps = values / jnp.where(scales == 0, 1.0, scales)[:, None]
    codes = jnp.clip(jnp.round(steps), -_MAX_CODE, _MAX_CODE)
    approximate = scales[:, None] * codes
    slack = _slack(embeddings.shape[-1])
    errors = _norm(values - approximate) + slack * (_norm(values) + _norm(approximate))
    return Int8Rows(
        codes=codes.astype(jnp.int8),
        scales=scales,
        errors=(1 + slack) * errors + embeddings.shape[-1] * _UNDERFLOW,
    )


def norm_bounds(queries: jax.Array) -> jax.Array:
    """Returns numbers [B] float32 not below the norms of queries [B, D]."""
    width = queries.shape[-1]
    norms = _norm(queries.astype(jnp.float32))
    return (1 + _slack(width)) * norms + width * _UNDERFLOW


def score_bounds(rows: Int8Rows, queries: jax.Array, norms: jax.Array) -> jax.Array:
    """Returns numbers [R, B] float32 not below the score of any row for any query.

    Args:
        rows: R rows.
        queries: [B, D], of the table's dtype: codes are exact in bfloat16.
        norms: [B], their `norm_bounds`.
    """
    products = dot_products(rows.codes.astype(queries.dtype), queries)
    return rows.scales[:, None] * products + rows.errors[:, None] * norms[None, :]


@functools.lru_cache(maxsize=16)
def build_quantize(mesh: Mesh):
    """Returns `quantize(embeddings [N padded, D]) -> Int8Rows`, jitted once.

    Each device quantizes the rows it holds, some at a time: no float32 copy of the
    table exists.
    """
    rows = PartitionSpec(ROW_AXES)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=rows,
        out_specs=rows,
        check_vma=False,  # Zeros to begin with are the same on every device.
    )
    def quantize(embeddings_SD):
        shard_rows, width = embeddings_SD.shape
        size = min(_QUANTIZED_ROWS, shard_rows)

        def write_block(block, quantized):
            # Reading and writing both move the last block up to where it fits; it then
            # overlaps the one before, and writes the same there.
            start = block * size
            values = slice_rows(embeddings_SD, start, size)
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
                    whole, part, start, axis=0
                ),
                quantized,
                quantize_rows(values),
            )

        empty = Int8Rows(
            codes=jnp.zeros((shard_rows, width), jnp.int8),
            scales=jnp.zeros(shard_rows, jnp.float32),
            errors=jnp.zeros(shard_rows, jnp.float32),
        )
        num_blocks = -(-shard_rows // size)
        return jax.lax.fori_loop(0, num_blocks, write_block, empty)

    return quantize


def _slack(width: int) -> float:
    return (2 * width + 32) * _ROUNDOFF


def _norm(values: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(values).sum(axis=-1))
