"""Approximate search on the host's CPU, by ScaNN, behind the exact search's interface.

ScaNN splits the rows into partitions, scores short codes of those in the partitions
nearest to a query, and scores the best of them again with the rows themselves. What it
finds has the scores that the exact search gives it; what it may do is miss a row.

ScaNN's Python wrapper unpickles a file wherever one lies beside an index, so nothing
here goes through it: the C++ library reads protocol buffers and plain arrays alone.
"""

import dataclasses
import math
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from art_jax import atomic, manifest, partitioning
from art_jax.errors import ConfigError, CorruptError, require_package
from art_jax.index.table import EmbeddingTable, open_rows
from art_jax.types import SearchResults

FORMAT_VERSION = 1
KIND = "ann_index"

# ScaNN's rules of thumb (its docs/algorithms.md) switch at these numbers of rows.
_BRUTE_FORCE_BELOW_ROWS = 20_000
_PARTITION_FROM_ROWS = 100_000
_DIMENSIONS_PER_CODE = 2
_CODE_VALUES = 16
_READ_ROWS = 65_536
_MAX_QUERIES_A_TASK = 256
_HIDDEN = {"tensorflow"}


@dataclasses.dataclass(frozen=True)
class AnnSettings:
    """How an index is built and searched; the defaults are ScaNN's advice.

    partitions: groups the rows are split into, 0 for no split. None: none below
        100,000 rows, then the square root of their number.
    searched_partitions: groups a query looks into; more find more and take longer.
        None: a fifth of them.
    rescored: rows scored exactly for each row asked for, at least 1.
    anisotropic_threshold: the codes keep a row's component along itself the better
        the higher this is, 0 to 1 (Guo et al., arXiv:1908.10396).
    training_rows: rows that partitions and codes are learned from.
    brute_force_below: where there are fewer rows than this, each query scores them
        all, and nothing is approximate.
    """

    partitions: int | None = None
    searched_partitions: int | None = None
    rescored: int = 4
    anisotropic_threshold: float = 0.2
    training_rows: int = 250_000
    brute_force_below: int = _BRUTE_FORCE_BELOW_ROWS

    def __post_init__(self):
        for name, least in (
            ("partitions", 0),
            ("searched_partitions", 1),
            ("rescored", 1),
            ("training_rows", _CODE_VALUES),
            ("brute_force_below", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}: it must be at least {least}.")
        if not 0 <= self.anisotropic_threshold <= 1:
            raise ConfigError(
                f"anisotropic_threshold is {self.anisotropic_threshold}: it must be "
                "0 to 1."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class AnnIndex:
    """An index of one embedding table, in the host's memory.

    searcher: ScaNN's own object.
    settings: with the numbers of partitions filled in.
    num_rows: N.
    width: D.
    dtype: of the table's rows, by name; rows are rescored in it.
    table_step: the training step whose weights made the table.
    generation: the table's.
    evidence_digest: of the evidence store whose rows these are.
    table_digest: of the table's files; "" where it had none.
    """

    searcher: Any
    settings: AnnSettings
    num_rows: int
    width: int
    dtype: str
    table_step: int
    generation: int
    evidence_digest: str
    table_digest: str

    @property
    def is_exact(self) -> bool:
        """Whether every row is scored, so that nothing can be missed."""
        return _scores_all(self.settings, self.num_rows)


def build_ann(table: EmbeddingTable, settings: AnnSettings = AnnSettings()) -> AnnIndex:
    """Returns an index of a table in device memory; see `build_ann_from_files`."""
    rows = partitioning.to_host(table.embeddings)[: table.num_rows]
    return _build(
        rows.astype(np.float32),
        settings,
        dtype=rows.dtype.name,
        table_step=table.table_step,
        generation=table.generation,
        evidence_digest=table.evidence_digest,
        table_digest="",
    )


def build_ann_from_files(
    directory: pathlib.Path, settings: AnnSettings = AnnSettings()
) -> AnnIndex:
    """Returns an index of a saved table, read block by block; no device is used.

    Two builds of one table differ: partitions start from rows drawn at random. The
    rows are in memory twice as float32 while ScaNN learns, 8 * N * D bytes.

    Args:
        directory: of `save_table`; verified first.
        settings: how to build and search it.

    Raises:
        ConfigError: ScaNN is not installed, or there are more partitions than rows.
        CorruptError: a file of the table is missing or damaged, or a row is not finite.
    """
    import_scann()  # Before minutes of reading.
    description, rows = open_rows(directory)
    num_rows, width = rows.shape
    values = np.empty((num_rows, width), np.float32)
    for start in range(0, num_rows, _READ_ROWS):
        part = slice(start, min(start + _READ_ROWS, num_rows))
        values[part] = rows.read((part, slice(0, width)))
    return _build(
        values,
        settings,
        dtype=rows.dtype.name,
        table_step=description["table_step"],
        generation=description["generation"],
        evidence_digest=description["evidence_digest"],
        table_digest=manifest.read_manifest(directory)["sha256"],
    )


def search(
    index: AnnIndex,
    queries: np.ndarray,
    *,
    k: int,
    excluded_rows: np.ndarray | None = None,
) -> SearchResults:
    """Returns the k best rows found for each query, as NumPy arrays.

    Scores are dot products of float32 sums, as `table.search` gives them up to the
    order of summation; both round queries to the dtype of the rows. Rows come best
    first, equal scores by row; which of several equal scores at the k-th place is
    found is ScaNN's choice.

    Args:
        index: where to search.
        queries: [B, D] float.
        k: rows kept a query; places beyond those found hold row -1 and score -inf.
        excluded_rows: [B, E] int32 rows not to be found, -1 for none.

    Raises:
        ConfigError: the queries are of another width, or k is below 1.
        ValueError: a query is not finite.
    """
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != index.width:
        raise ConfigError(
            f"the queries have shape {queries.shape}, but the index holds embeddings "
            f"of width {index.width}: embed them with the encoder that made it."
        )
    if k < 1:
        raise ConfigError(f"k is {k}: ask for at least one row.")
    is_finite = np.isfinite(queries).all(axis=1)
    if not is_finite.all():
        raise ValueError(
            f"the embedding of query {int(np.argmin(is_finite))} is not finite: embed "
            "it again with weights that are."
        )
    num_excluded = 0 if excluded_rows is None else excluded_rows.shape[1]
    wanted = k + num_excluded
    if not len(queries):
        return _in_order(np.zeros((0, wanted)), np.zeros((0, wanted)), k)
    rounded = queries.astype(index.dtype).astype(np.float32)
    rows, scores = _search_batch(index, np.ascontiguousarray(rounded), wanted)
    # Where ScaNN finds too few it leaves row 0 with a score of NaN.
    is_out = np.isnan(scores)
    if num_excluded:
        is_out |= _is_among(rows, excluded_rows)
    return _in_order(np.where(is_out, -np.inf, scores), np.where(is_out, -1, rows), k)


def describe(index: AnnIndex) -> dict[str, Any]:
    """Returns how an index searches, as JSON holds it, for records of measurements."""
    if index.is_exact:
        return {"method": "scann", "exact": True}
    return {"method": "scann", "exact": False, **dataclasses.asdict(index.settings)}


def in_words(index: AnnIndex) -> str:
    """Returns how an index searches, in a sentence."""
    settings = index.settings
    if index.is_exact:
        return f"ScaNN scores all {index.num_rows:,} rows, so that none is missed"
    looked_at = "codes of all rows"
    if settings.partitions:
        looked_at = (
            f"codes of {settings.searched_partitions:,} of "
            f"{settings.partitions:,} partitions"
        )
    return (
        f"ScaNN scores {looked_at}, then {settings.rescored} rows exactly for each "
        "one asked for"
    )


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact search's rows that an approximate one found, 0 to 1.

    Args:
        found: [B, K] int32 rows; -1 for none.
        exact: [B, K] int32, the same of the exact search. Where several rows score
            the same at the K-th place, finding the other one counts as a miss.
    """
    places = exact >= 0
    return float(_is_among(exact, found)[places].mean()) if places.any() else 1.0


def save_ann(
    index: AnnIndex,
    directory: pathlib.Path,
    *,
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Writes an index with its manifest, all of it or nothing.

    Args:
        index: what to write.
        directory: where to; what was there is replaced.
        measured: what is known of its recall and speed, as JSON holds it.
    """
    description = {
        field.name: getattr(index, field.name)
        for field in dataclasses.fields(index)
        if field.name not in ("searcher", "settings")
    }
    description |= {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "settings": dataclasses.asdict(index.settings),
        "scann": metadata.version("scann"),
        "measured": dict(measured or {}),
    }
    with atomic.building_directory(directory) as folder:
        # Names of files relative to the folder, which may then be moved.
        index.searcher.serialize(str(folder), True)
        manifest.write_manifest(folder, description)


def load_ann(directory: pathlib.Path) -> AnnIndex:
    """Returns the index written to `directory`, after every digest was compared.

    Raises:
        ConfigError: ScaNN is not installed.
        CorruptError: a file is missing, damaged, or of another version.
    """
    directory = pathlib.Path(directory)
    atomic.recover_directory(directory)
    scann = import_scann()
    description = manifest.verify_manifest(directory)["extra"]
    if description.get("kind") != KIND:
        raise CorruptError(f"{directory} does not hold an index of ScaNN.")
    if description["format_version"] != FORMAT_VERSION:
        raise CorruptError(
            f"{directory} was written in format {description['format_version']}; this "
            f"art_jax reads format {FORMAT_VERSION}: build it again with `art-jax ann`."
        )
    try:
        searcher = scann.ScannNumpy(str(directory), _read_assets(directory))
    except RuntimeError as error:
        raise CorruptError(
            f"{directory} was written by ScaNN {description['scann']}, and ScaNN "
            f"{metadata.version('scann')} cannot read it ({error}): build it again "
            "with `art-jax ann`."
        ) from error
    return AnnIndex(
        searcher=searcher,
        settings=AnnSettings(**description["settings"]),
        **{
            field.name: description[field.name]
            for field in dataclasses.fields(AnnIndex)
            if field.name not in ("searcher", "settings")
        },
    )


def import_scann() -> types.SimpleNamespace:
    """Returns ScaNN's C++ class and the module that writes its configuration.

    Raises:
        ConfigError: it is not installed; exact search needs nothing.
    """
    # ScaNN imports TensorFlow where it finds it, which takes seconds and fails beside
    # all versions but one. None of this needs it: None in its place says it is missing.
    before = {name: sys.modules[name] for name in _HIDDEN & sys.modules.keys()}
    sys.modules.update(dict.fromkeys(_HIDDEN))
    try:
        wrapper = require_package(
            "scann.scann_ops.py.scann_ops_pybind",
            purpose="approximate search",
            extra="scann",
        )
    except ConfigError as error:
        raise ConfigError(
            f"{error}. There are wheels for Linux on x86-64 alone. Exact search needs "
            "no package: leave --ann out."
        ) from error
    finally:
        for name in _HIDDEN:
            del sys.modules[name]
        sys.modules.update(before)
    return types.SimpleNamespace(
        ScannNumpy=wrapper.scann_pybind.ScannNumpy,
        scann_builder=wrapper.scann_builder,
    )


def check_source(
    ann: pathlib.Path, index: pathlib.Path, error: type[Exception] = ConfigError
) -> None:
    """Raises where an index of ScaNN was made from another table than `index` holds.

    Args:
        ann: a folder of `save_ann`.
        index: a folder of `save_table`.
        error: what to raise.
    """
    made_from = manifest.read_manifest(ann)["extra"].get("table_digest")
    if made_from != manifest.read_manifest(index)["sha256"]:
        raise error(
            f"{ann} was made from another table than {index} holds: build it again "
            f"with `art-jax ann {index.parent}`, or search exactly, without --ann."
        )


def _build(values: np.ndarray, settings: AnnSettings, **origin) -> AnnIndex:
    """Returns an index of finite rows [N, D] float32."""
    num_rows, width = values.shape
    import_scann()
    _check_finite(values)
    settings = _resolve(settings, num_rows)
    if settings.partitions > num_rows:
        raise ConfigError(
            f"{num_rows:,} rows cannot be split into {settings.partitions:,} "
            "partitions: ask for fewer, about the square root of the rows."
        )
    return AnnIndex(
        searcher=_train(values, settings, origin["dtype"]),
        settings=settings,
        num_rows=num_rows,
        width=width,
        **origin,
    )


def _resolve(settings: AnnSettings, num_rows: int) -> AnnSettings:
    """Returns settings with the numbers of partitions filled in."""
    partitions, searched = settings.partitions, settings.searched_partitions
    if _scores_all(settings, num_rows):
        partitions = 0
    elif partitions is None:
        partitions = (
            round(math.sqrt(num_rows)) if num_rows >= _PARTITION_FROM_ROWS else 0
        )
    if searched is None:
        searched = max(1, partitions // 5)
    return dataclasses.replace(
        settings,
        partitions=partitions,
        searched_partitions=max(1, min(searched, partitions)),
    )


def _scores_all(settings: AnnSettings, num_rows: int) -> bool:
    # A code is one of 16 values, which cannot be learned from fewer rows.
    return num_rows < max(settings.brute_force_below, _CODE_VALUES)


def _train(values: np.ndarray, settings: AnnSettings, dtype: str):
    """Returns ScaNN's searcher of rows, which it keeps in the table's dtype."""
    scann = import_scann()
    # What bfloat16 rows hold is stored in bfloat16 without loss.
    kept = {"bfloat16": scann.scann_builder.ReorderType.BFLOAT16}.get(
        dtype, scann.scann_builder.ReorderType.FLOAT32
    )
    training_rows = min(settings.training_rows, len(values))
    builder = scann.scann_builder.ScannBuilder(values, 1, "dot_product")
    if _scores_all(settings, len(values)):
        builder.score_brute_force(quantize=kept)
    else:
        if settings.partitions:
            builder.tree(
                num_leaves=settings.partitions,
                num_leaves_to_search=settings.searched_partitions,
                training_sample_size=training_rows,
            )
        builder.score_ah(
            _DIMENSIONS_PER_CODE,
            anisotropic_quantization_threshold=settings.anisotropic_threshold,
            training_sample_size=training_rows,
        )
        builder.reorder(settings.rescored, quantize=kept)
    # 0 threads: as many as there are cores.
    return scann.ScannNumpy(values, builder.create_config(), 0)


def _search_batch(
    index: AnnIndex, queries: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ScaNN's rows and scores, [B, wanted], for queries [B > 0, D] float32."""
    settings, unset = index.settings, -1
    task = min(-(-len(queries) // (os.cpu_count() or 1)), _MAX_QUERIES_A_TASK)
    return index.searcher.search_batched(
        queries,
        wanted,
        unset if index.is_exact else settings.rescored * wanted,
        settings.searched_partitions if settings.partitions else unset,
        len(queries) > 1,
        task,
    )


def _is_among(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of rows [B, K] is one of others [B, E], as [B, K] bool."""
    pairs = zip(rows, others, strict=True)
    return np.array([np.isin(some, of) for some, of in pairs], bool).reshape(rows.shape)


def _in_order(scores: np.ndarray, rows: np.ndarray, k: int) -> SearchResults:
    """Returns results [B, M] best first, equal scores by row, as [B, k]."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    scores = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    rows = np.take_along_axis(rows, order, axis=1).astype(np.int32)
    return SearchResults(
        np.pad(scores, missing, constant_values=-np.inf),
        np.pad(rows, missing, constant_values=-1),
    )


def _check_finite(values: np.ndarray) -> None:
    for start in range(0, len(values), _READ_ROWS):
        is_finite = np.isfinite(values[start : start + _READ_ROWS]).all(axis=1)
        if not is_finite.all():
            raise CorruptError(
                f"row {start + int(np.argmin(is_finite))} of the table is not finite: "
                "embed again with weights that are."
            )


def _read_assets(directory: pathlib.Path) -> str:
    """Returns ScaNN's list of files, none of which lies outside the folder."""
    text = (directory / "scann_assets.pbtxt").read_text(encoding="utf-8")
    for name in re.findall(r"asset_path:(.*)", text):
        if not re.fullmatch(r' "[a-z0-9_]+\.(pb|npy)"', name):
            raise CorruptError(
                f"{directory / 'scann_assets.pbtxt'} names the file{name}, which is "
                "none of an index that art_jax wrote."
            )
    return text
