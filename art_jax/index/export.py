"""A table's embeddings as files other tools read: NumPy with ids, or Parquet.

npy       embeddings.npy, [N, D], and ids.txt, one passage id a line, in its rows' order
parquet   embeddings.parquet, columns `id` (string) and `embedding` (list of D)

Both are written a block at a time: a table may be larger than the host's memory.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from art_jax import atomic, manifest
from art_jax.data.evidence import EvidenceStore
from art_jax.errors import ConfigError, require_package
from art_jax.index.table import open_rows

FORMS = ("npy", "parquet")
DTYPES = ("float32", "float16")
_BLOCK_ROWS = 16_384


def export_embeddings(
    index: pathlib.Path,
    evidence: EvidenceStore,
    directory: pathlib.Path,
    *,
    form: str,
    dtype: str = "float32",
) -> int:
    """Writes a table's rows with their passages' ids, all or nothing.

    Args:
        index: a folder of `save_table`, of this evidence; verified first.
        evidence: for the ids.
        directory: a new folder, with a manifest when it is there.
        form: one of FORMS.
        dtype: one of DTYPES; rows of bfloat16 are float32 without loss.

    Returns:
        N, the number of rows.

    Raises:
        ConfigError: no such form or dtype, Parquet's package is missing, the table is
            of other passages, or an id holds a line break.
        CorruptError: a file of the table is missing or damaged.
    """
    if form not in FORMS or dtype not in DTYPES:
        raise ConfigError(
            f"embeddings cannot be written as {form} of {dtype}: forms are "
            f"{', '.join(FORMS)}, dtypes {', '.join(DTYPES)}."
        )
    write = {"npy": _write_npy, "parquet": _write_parquet}[form]
    if form == "parquet":
        require_package("pyarrow", purpose="Parquet", extra="parquet")
    description, rows = open_rows(index)
    if description["evidence_digest"] != evidence.digest:
        raise ConfigError(
            f"{index} was made from other passages than {evidence.directory} holds: "
            "embed again with `art-jax embed`."
        )
    num_rows, width = rows.shape

    def blocks() -> Iterator[tuple[slice, list[str], np.ndarray]]:
        for start in range(0, num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, num_rows)
            ids = [evidence.passage_id(row) for row in range(start, stop)]
            part = rows.read((slice(start, stop), slice(0, width)))
            yield slice(start, stop), ids, part.astype(dtype)

    with atomic.building_directory(directory) as folder:
        write(folder, (num_rows, width), np.dtype(dtype), blocks())
        manifest.write_manifest(folder, {**description, "kind": "exported_embeddings"})
    return num_rows


def _write_npy(folder: pathlib.Path, shape, dtype: np.dtype, blocks) -> None:
    array = np.lib.format.open_memmap(
        folder / "embeddings.npy", mode="w+", dtype=dtype, shape=shape
    )
    with (folder / "ids.txt").open("w", encoding="utf-8", newline="\n") as file:
        for place, ids, part in blocks:
            broken = next((name for name in ids if name.splitlines() != [name]), None)
            if broken is not None:
                raise ConfigError(
                    f"the passage id {broken!r} does not fit on a line of ids.txt: "
                    "write Parquet, which holds any id."
                )
            array[place] = part
            file.writelines(f"{name}\n" for name in ids)
    array.flush()


def _write_parquet(folder: pathlib.Path, shape, dtype: np.dtype, blocks) -> None:
    import pyarrow
    import pyarrow.parquet

    width = shape[1]
    vector = pyarrow.list_(pyarrow.from_numpy_dtype(dtype), width)
    schema = pyarrow.schema([("id", pyarrow.string()), ("embedding", vector)])
    path = folder / "embeddings.parquet"
    # Embeddings do not compress; a page's checksum finds a flipped bit in any reader.
    with pyarrow.parquet.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_page_checksum=True
    ) as writer:
        for _, ids, part in blocks:
            flat = pyarrow.array(part.reshape(-1))
            vectors = pyarrow.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(pyarrow.table([ids, vectors], schema=schema))
