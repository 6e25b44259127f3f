"""Embeddings leave as files that NumPy and Parquet readers open, ids beside them."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import manifest, partitioning
from art_jax.data import evidence, tokenizers
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import export, table

NUM_ROWS, WIDTH = 13, 4
IDS = [f"passage {i} é" for i in range(NUM_ROWS)]


def build(folder, ids):
    passages = [Passage(name, f"text {i}") for i, name in enumerate(ids)]
    return evidence.build_evidence(
        passages, folder, {"words": tokenizers.train_words(["text"])}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("export") / "evidence", IDS)


@pytest.fixture(params=["bfloat16", "float32"])
def saved(request, store, tmp_path):
    """A table's folder and its values, from eight shards of two rows."""
    mesh = partitioning.make_mesh(8)
    values = np.zeros((partitioning.padded_rows(NUM_ROWS, mesh), WIDTH), np.float32)
    values[:NUM_ROWS] = np.random.default_rng(0).normal(size=(NUM_ROWS, WIDTH))
    values = values.astype(jnp.dtype(request.param))
    rows = partitioning.put_global(values, partitioning.row_sharding(mesh))
    table.save_table(
        table.EmbeddingTable(rows, NUM_ROWS, 0, 5, store.digest, mesh),
        tmp_path / "index",
    )
    return tmp_path / "index", values[:NUM_ROWS].astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(export, "_BLOCK_ROWS", 5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_holds_the_rows_and_a_line_an_id(saved, store, tmp_path, dtype):
    index, values = saved
    out = tmp_path / "out"
    number = export.export_embeddings(index, store, out, form="npy", dtype=dtype)
    assert number == NUM_ROWS
    rows = np.load(out / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows, values.astype(dtype))
    text = (out / "ids.txt").read_text(encoding="utf-8")
    assert text == "".join(f"{name}\n" for name in IDS)
    listed = manifest.verify_manifest(out)
    assert listed["files"].keys() == {"embeddings.npy", "ids.txt"}
    assert listed["extra"]["evidence_digest"] == store.digest


def test_parquet_holds_a_row_a_passage(saved, store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    index, values = saved
    out = tmp_path / "out"
    export.export_embeddings(index, store, out, form="parquet")
    read = parquet.read_table(
        out / "embeddings.parquet", page_checksum_verification=True
    )
    assert read.column("id").to_pylist() == IDS
    assert (
        str(read.schema.field("embedding").type)
        == f"fixed_size_list<element: float>[{WIDTH}]"
    )
    np.testing.assert_array_equal(
        np.array(read.column("embedding").to_pylist(), np.float32), values
    )
    manifest.verify_manifest(out)


def test_a_flipped_bit_in_a_page_is_found_by_the_reader_too(saved, store, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    export.export_embeddings(saved[0], store, out, form="parquet")
    path = out / "embeddings.parquet"
    data = bytearray(path.read_bytes())
    place = data.index(saved[1][7].tobytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises((OSError, pyarrow.ArrowException), match="(?i)crc|checksum"):
        parquet.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize("choice", [{"form": "csv"}, {"form": "npy", "dtype": "int8"}])
def test_what_cannot_be_written_is_refused(store, tmp_path, choice):
    with pytest.raises(ConfigError, match="forms are npy, parquet"):
        export.export_embeddings(tmp_path, store, tmp_path / "out", **choice)


def test_a_table_of_other_passages_is_refused(saved, store, tmp_path):
    other = dataclasses.replace(store, digest="another")
    with pytest.raises(ConfigError, match="made from other passages"):
        export.export_embeddings(saved[0], other, tmp_path / "out", form="npy")
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_is_refused(saved, store, tmp_path):
    chunk = next(path for path in saved[0].rglob("0.0.0"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match=r"0\.0\.0"):
        export.export_embeddings(saved[0], store, tmp_path / "out", form="npy")


def test_an_id_of_two_lines_leaves_nothing(saved, tmp_path, store):
    odd = build(tmp_path / "odd", [*IDS[:-1], "one\u2028two"])
    mended = dataclasses.replace(odd, digest=store.digest)
    with pytest.raises(ConfigError, match="Parquet, which holds any id"):
        export.export_embeddings(saved[0], mended, tmp_path / "out", form="npy")
    assert not list(tmp_path.glob("*out*"))


def test_without_pyarrow_the_error_says_how_to_get_it(
    saved, store, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'art-jax\[parquet\]'"):
        export.export_embeddings(saved[0], store, tmp_path / "out", form="parquet")
