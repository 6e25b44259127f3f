"""Token rows of the evidence: in device memory beside the table, or streamed.

Both hold the same numbers behind the same two reads: `gather`, the rows a search
found, and the rows each device embeds next, which `index.embed` takes from `tokens`
where they are and from `HostRows.chunk` where they are not.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.layouts import Layout, TokenTable, layout_rows
from art_jax.index import topk

# Rows laid out on the host at a time, to bound its memory.
_PLACE_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class DeviceRows:
    """Rows in device memory, split as the table's.

    tokens: [N padded, L] uint16 or int32; zeros after the last passage.
    """

    tokens: jax.Array
    mesh: Mesh

    @property
    def width(self) -> int:
        """L."""
        return self.tokens.shape[1]

    @property
    def rows_per_shard(self) -> int:
        """Rows on each device."""
        return self.tokens.shape[0] // partitioning.num_row_shards(self.mesh)

    def gather(self, rows: jax.Array) -> jax.Array:
        """Returns [B, K, L] int32 for rows [B, K]; usable under jit."""
        return topk.gather_rows(self.tokens, rows, self.mesh)


@dataclasses.dataclass(frozen=True)
class HostRows:
    """Rows read from a host function when they are needed, a memory map as a rule.

    read: rows [n] int -> [n, L] int32; each process asks for its own rows only.
    width: L.
    rows_per_shard: rows of the table on each device.
    num_rows: N.
    mesh: where the table is.
    """

    read: Callable[[np.ndarray], np.ndarray]
    width: int
    rows_per_shard: int
    num_rows: int
    mesh: Mesh

    def gather(self, rows: np.ndarray) -> jax.Array:
        """Returns [B, K, L] int32, the batch split over `data`; not under jit.

        Args:
            rows: [B, K] int32 on the host; -1 gives zeros.
        """
        return partitioning.make_array(
            (*rows.shape, self.width),
            partitioning.batch_sharding(self.mesh),
            lambda index: self._read(rows[index[:2]]),
        )

    def chunk(self, local_rows: np.ndarray, length: int) -> jax.Array:
        """Returns the first `length` tokens of some rows of every shard.

        Args:
            local_rows: [shards, C] int32, rows within each shard; `rows_per_shard`
                or more gives zeros.
            length: tokens kept a row.

        Returns:
            [shards, C, length] int32, the first axis split over every device.
        """

        def read_shards(index):
            shards = np.arange(local_rows.shape[0])[index[0]][:, None]
            local = local_rows[index[0]]
            rows = np.where(
                local < self.rows_per_shard, local + shards * self.rows_per_shard, -1
            )
            return self._read(rows)[..., :length]

        return partitioning.make_array(
            (*local_rows.shape, length),
            partitioning.row_sharding(self.mesh),
            read_shards,
        )

    def _read(self, rows: np.ndarray) -> np.ndarray:
        is_passage = (rows >= 0) & (rows < self.num_rows)
        tokens = np.zeros((*rows.shape, self.width), np.int32)
        tokens[is_passage] = self.read(rows[is_passage])
        return tokens


def place_rows(tokens: TokenTable, layout: Layout, mesh: Mesh) -> DeviceRows:
    """Returns all rows of a token table in device memory, each process its own.

    Args:
        tokens: the evidence's tokens for one tokeniser.
        layout: how a row is laid out; its `max_tokens` is L.
        mesh: where to.
    """
    num_rows = tokens.num_rows
    padded = partitioning.padded_rows(num_rows, mesh)
    dtype = np.uint16 if tokens.token_ids.dtype == np.uint16 else np.int32

    def read(index):
        start, stop, _ = index[0].indices(padded)
        part = np.zeros((stop - start, layout.max_tokens), dtype)
        for first in range(start, min(stop, num_rows), _PLACE_ROWS):
            rows = np.arange(first, min(first + _PLACE_ROWS, stop, num_rows))
            part[rows - start] = layout_rows(layout, tokens, rows)
        return part

    array = partitioning.make_array(
        (padded, layout.max_tokens), partitioning.row_sharding(mesh), read
    )
    return DeviceRows(array, mesh)


def stream_rows(tokens: TokenTable, layout: Layout, mesh: Mesh) -> HostRows:
    """Returns the same rows as `place_rows`, read from the token table on demand."""
    return HostRows(
        read=functools.partial(layout_rows, layout, tokens),
        width=layout.max_tokens,
        rows_per_shard=partitioning.padded_rows(tokens.num_rows, mesh)
        // partitioning.num_row_shards(mesh),
        num_rows=tokens.num_rows,
        mesh=mesh,
    )


def without_repeats(rows: jax.Array, excluded_rows: jax.Array) -> jax.Array:
    """Returns the rows of each question, -1 in place of repeats and excluded ones.

    Args:
        rows: [B, C] int32; of equal ones the first stays.
        excluded_rows: [B, E] int32.
    """
    is_equal_BCC = rows[:, :, None] == rows[:, None, :]
    is_earlier_CC = jnp.tri(rows.shape[1], k=-1, dtype=bool)
    is_repeat_BC = (is_equal_BCC & is_earlier_CC[None]).any(axis=2)
    is_excluded_BC = (rows[:, :, None] == excluded_rows[:, None, :]).any(axis=2)
    return jnp.where(is_repeat_BC | is_excluded_BC, -1, rows)
