"""The embedding table: one row a passage, split over every device, and its files."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh, PartitionSpec

from art_jax import atomic, manifest, partitioning
from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import topk
from art_jax.index.int8_rows import Int8Rows, build_quantize, quantize_rows
from art_jax.index.search_options import SearchOptions
from art_jax.types import SearchResults

FORMAT_VERSION = 2  # 1 had no axis of shards
_MAX_CHUNK_ROWS = 65_536
_DEFAULT_OPTIONS = SearchOptions()


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
    int8_rows: the same rows in eight bits, for the search methods that read them.
    """

    embeddings: jax.Array
    num_rows: int
    generation: int
    table_step: int
    evidence_digest: str
    mesh: Mesh
    int8_rows: Int8Rows | None = None

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
    options: SearchOptions = _DEFAULT_OPTIONS,
) -> SearchResults:
    """Returns the k best rows for each query, as NumPy arrays on the host.

    Args:
        table: where to search.
        queries: [B, D] float.
        k: rows kept a query; places beyond the table's rows hold row -1.
        excluded_rows: [B, E] int32 rows not to be found, -1 for none.
        options: how to go about it; changes no result.

    Raises:
        ConfigError: the queries are of another width, k is below 1, or the method
            needs another device or int8 rows.
        ValueError: a score is NaN or infinite.
    """
    if queries.ndim != 2 or queries.shape[1] != table.width:
        raise ConfigError(
            f"the queries have shape {queries.shape}, but the table holds embeddings "
            f"of width {table.width}: embed them with the encoder that made the table."
        )
    found = topk.build_search(table.mesh, k=k, options=options)(
        queries, table.embeddings, table.num_rows, excluded_rows, table.int8_rows
    )
    scores, rows = partitioning.to_host(found.scores), partitioning.to_host(found.rows)
    topk.check_finite(scores, rows)
    return SearchResults(scores, rows)


def write_rows(
    embeddings: jax.Array,
    int8_rows: Int8Rows | None,
    rows: jax.Array,
    values: jax.Array,
    *,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Int8Rows | None]:
    """Returns a table's arrays with some rows replaced; the old arrays are donated.

    Args:
        embeddings: [N padded, D], rows split over every device.
        int8_rows: of `embeddings`, or None where there are none.
        rows: [n] int32, rows of the table, -1 for none; a row that occurs twice must
            come with the same values.
        values: [n, D] float, cast to the table's dtype.
        mesh: where the rows are; needed under jit, where arrays do not tell.
    """
    write = build_write_rows(embeddings.sharding.mesh if mesh is None else mesh)
    return write(embeddings, int8_rows, rows, values)


@functools.lru_cache(maxsize=16)
def build_write_rows(mesh: Mesh):
    """Returns `write_rows` for a mesh, jitted once; usable under jit, too.

    Each device writes the rows it holds.
    """
    split, whole = PartitionSpec(partitioning.ROW_AXES), PartitionSpec()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(split, split, whole, whole),
        out_specs=(split, split),
        check_vma=False,  # Equal values go to every device, each writes its own rows.
    )
    def write(embeddings_SD, int8_rows_S, rows_n, values_nD):
        shard_rows = embeddings_SD.shape[0]
        local_n = rows_n - jax.lax.axis_index(partitioning.ROW_AXES) * shard_rows
        # Rows held elsewhere, and -1, point past the shard and are dropped.
        is_here_n = (local_n >= 0) & (local_n < shard_rows)
        local_n = jnp.where(is_here_n, local_n, shard_rows)

        def write_leaf(leaf, values):
            return leaf.at[local_n].set(values, mode="drop")

        values_nD = values_nD.astype(embeddings_SD.dtype)
        if int8_rows_S is not None:
            int8_rows_S = jax.tree.map(
                write_leaf, int8_rows_S, quantize_rows(values_nD)
            )
        return write_leaf(embeddings_SD, values_nD), int8_rows_S

    return write


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
    store = _create_store(unfinished, table)
    rows_per_shard = store.shape[1]
    writes = [
        store[(shard.index[0].start or 0) // rows_per_shard].write(
            np.asarray(shard.data)
        )
        for shard in table.embeddings.addressable_shards
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
    directory: pathlib.Path, mesh: Mesh, *, verify: bool = True, int8: bool = False
) -> EmbeddingTable:
    """Returns the table written to `directory`, laid out on any number of devices.

    Args:
        directory: as given to `save_table`.
        mesh: where to; each process reads its own rows.
        verify: compare every file with its digest first.
        int8: make the rows' int8 form too; no file holds it.

    Raises:
        CorruptError: a file is missing, damaged, or of another version.
    """
    description, rows = open_rows(directory, verify=verify)
    num_rows, width = rows.shape
    padded = partitioning.padded_rows(num_rows, mesh)

    def read(index):
        start, stop, _ = index[0].indices(padded)
        part = np.zeros((stop - start, width), rows.dtype)
        stop = min(stop, num_rows)
        if start < stop:
            part[: stop - start] = rows.read((slice(start, stop), slice(0, width)))
        return part

    embeddings = partitioning.make_array(
        (padded, width), partitioning.row_sharding(mesh), read
    )
    return EmbeddingTable(
        embeddings=embeddings,
        num_rows=num_rows,
        generation=description["generation"],
        table_step=description["table_step"],
        evidence_digest=description["evidence_digest"],
        mesh=mesh,
        int8_rows=build_quantize(mesh)(embeddings) if int8 else None,
    )


def open_rows(
    directory: pathlib.Path, *, verify: bool = True
) -> tuple[dict, FileTensor]:
    """Returns what `save_table` recorded and the table's rows, [N, D], unread.

    Args:
        directory: as given to `save_table`.
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
    store = ts.open(_store_spec(directory), read=True).result()
    _, rows_per_shard, width = store.shape

    def read(index):
        start, stop = index[0].start, index[0].stop
        part = np.empty((stop - start, width), store.dtype.numpy_dtype)
        # The shards it was saved in need not be those it is laid out in now.
        for shard in range(start // rows_per_shard, -(-stop // rows_per_shard)):
            first = max(start, shard * rows_per_shard)
            last = min(stop, (shard + 1) * rows_per_shard)
            within = slice(
                first - shard * rows_per_shard, last - shard * rows_per_shard
            )
            part[first - start : last - start] = store[shard, within].read().result()
        return part[:, index[1]]

    shape = (description["num_rows"], width)
    return description, FileTensor(shape, store.dtype.numpy_dtype, read)


def _store_spec(directory: pathlib.Path) -> dict:
    return {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{directory.absolute()}/embeddings/"},
    }


def _create_store(directory: pathlib.Path, table: EmbeddingTable):
    """Returns a new store, [shards, S, D], opened by every process.

    With an axis of shards no chunk of rows spans two of them, so no two processes
    write to one file, whatever S is.
    """
    shards = partitioning.num_row_shards(table.mesh)
    rows_per_shard = table.embeddings.shape[0] // shards
    if jax.process_index() == 0:
        chunk = [1, min(rows_per_shard, _MAX_CHUNK_ROWS), table.width]
        ts.open(
            _store_spec(directory)
            | {"metadata": {"chunks": chunk, "compressor": None}},
            create=True,
            dtype=table.embeddings.dtype.name,
            shape=[shards, rows_per_shard, table.width],
        ).result()
    partitioning.barrier("table_created")
    return ts.open(_store_spec(directory), read=True, write=True).result()
