"""The embedding table: one row a passage, split over every device, and its files."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh

from art_jax import atomic, manifest, partitioning
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import topk
from art_jax.types import SearchResults

FORMAT_VERSION = 1
_MAX_CHUNK_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of the evidence and where they come from.

    embeddings: [N padded, D], rows split over every device; rows from `num_rows` on
        are padding.
    num_rows: N.
    generation: 0 for the first table of a run, one more at each refresh.
    table_step: the training step whose weights made it.
    evidence_digest: of the evidence store whose rows these are.
    mesh: where the rows are.
    """

    embeddings: jax.Array
    num_rows: int
    generation: int
    table_step: int
    evidence_digest: str
    mesh: Mesh

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]


def search(
    table: EmbeddingTable,
    queries: jax.Array,
    *,
    k: int,
    excluded_rows: np.ndarray | None = None,
) -> SearchResults:
    """Returns the k best rows for each query, as NumPy arrays on the host.

    Args:
        table: where to search.
        queries: [B, D] float.
        k: rows kept a query; places beyond the table's rows hold row -1.
        excluded_rows: [B, E] int32 rows not to be found, -1 for none.

    Raises:
        ConfigError: the queries are of another width, or k is below 1.
        ValueError: a score is NaN.
    """
    if queries.ndim != 2 or queries.shape[1] != table.width:
        raise ConfigError(
            f"the queries have shape {queries.shape}, but the table holds embeddings "
            f"of width {table.width}: embed them with the encoder that made the table."
        )
    found = topk.build_search(table.mesh, k=k)(
        queries, table.embeddings, table.num_rows, excluded_rows
    )
    scores, rows = partitioning.to_host(found.scores), partitioning.to_host(found.rows)
    topk.check_finite(scores, rows)
    return SearchResults(scores, rows)


def save_table(table: EmbeddingTable, directory: pathlib.Path) -> None:
    """Writes a table to `directory`, all of it or nothing. Collective.

    Each process writes the shards it holds; the first writes the manifest and moves
    the finished folder into place, so a kill leaves the old table or none.
    """
    directory = pathlib.Path(directory)
    unfinished = atomic.unfinished_directory(directory)
    if jax.process_index() == 0:
        atomic.new_directory(directory)
    partitioning.barrier("table_start")
    store = _open_store(
        unfinished, table.embeddings.shape, table.embeddings.dtype, table.mesh
    )
    writes = [
        store[shard.index].write(np.asarray(shard.data))
        for shard in table.embeddings.addressable_shards
        if shard.replica_id == 0
    ]
    for write in writes:
        write.result()
    partitioning.barrier("table_written")
    if jax.process_index() == 0:
        description = {
            "format_version": FORMAT_VERSION,
            "kind": "embedding_table",
            "num_rows": table.num_rows,
            "width": table.width,
            "generation": table.generation,
            "table_step": table.table_step,
            "evidence_digest": table.evidence_digest,
        }
        manifest.write_manifest(unfinished, description)
        atomic.finish_directory(directory)
    partitioning.barrier("table_saved")


def load_table(
    directory: pathlib.Path, mesh: Mesh, *, verify: bool = True
) -> EmbeddingTable:
    """Returns the table written to `directory`, laid out on any number of devices.

    Args:
        directory: as given to `save_table`.
        mesh: where to; each process reads its own rows.
        verify: compare every file with its digest first.

    Raises:
        CorruptError: a file is missing, damaged, or of another version.
    """
    directory = pathlib.Path(directory)
    atomic.recover_directory(directory)
    description = manifest.verify_manifest(directory, check_digests=verify)["extra"]
    if description.get("kind") != "embedding_table":
        raise CorruptError(f"{directory} does not hold an embedding table.")
    if description["format_version"] != FORMAT_VERSION:
        raise CorruptError(
            f"{directory} was written in format {description['format_version']}; this "
            f"art_jax reads format {FORMAT_VERSION}: embed the evidence again."
        )
    num_rows = description["num_rows"]
    store = ts.open(_store_spec(directory), read=True).result()
    padded = partitioning.padded_rows(num_rows, mesh)
    dtype = store.dtype.numpy_dtype

    def read(index):
        start, stop, _ = index[0].indices(padded)
        part = np.zeros((stop - start, store.shape[1]), dtype)
        stop = min(stop, num_rows)
        if start < stop:
            part[: stop - start] = store[start:stop].read().result()
        return part

    embeddings = partitioning.make_array(
        (padded, store.shape[1]), partitioning.row_sharding(mesh), read
    )
    return EmbeddingTable(
        embeddings=embeddings,
        num_rows=num_rows,
        generation=description["generation"],
        table_step=description["table_step"],
        evidence_digest=description["evidence_digest"],
        mesh=mesh,
    )


def _store_spec(directory: pathlib.Path) -> dict:
    return {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{directory.absolute()}/embeddings/"},
    }


def _open_store(directory, shape, dtype, mesh):
    # A chunk never spans two shards, so no two processes write to one file.
    chunk_rows = _largest_divisor(
        shape[0] // partitioning.num_row_shards(mesh), _MAX_CHUNK_ROWS
    )
    spec = _store_spec(directory)
    spec["metadata"] = {"chunks": [chunk_rows, shape[1]], "compressor": None}
    create = jax.process_index() == 0
    if create:
        ts.open(
            spec, create=True, dtype=np.dtype(dtype).name, shape=list(shape)
        ).result()
    partitioning.barrier("table_created")
    return ts.open(_store_spec(directory), read=True, write=True).result()


@functools.lru_cache(maxsize=64)
def _largest_divisor(number: int, at_most: int) -> int:
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)
