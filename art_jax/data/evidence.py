"""The evidence on disk: every passage's text, id and tokens, read through memory maps.

Built once from a corpus and reused by every run over it. A directory holds

    text.utf8  text_offsets.i64        title and text of row 0, of row 1, ...
    ids.utf8   id_offsets.i64          passage ids
    tokens/NAME.ids  .offsets  .title_lengths    one `TokenTable` for each tokeniser
    manifest.json                      sizes, digests, counts; written last

Numbers are little-endian. A store appears under its name only when it is whole: it is
built in a hidden directory beside and renamed.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from art_jax import atomic
from art_jax.data.layouts import TokenTable
from art_jax.data.passages import Passage, check_passage, read_passages
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError, CorruptError, DataError
from art_jax.manifest import (
    file_sha256,
    read_manifest,
    verify_manifest,
    write_manifest,
)

__all__ = [
    "EvidenceStore",
    "TokenTable",
    "build_evidence",
    "build_or_load_evidence",
    "load_evidence",
]

_FORMAT = "art_jax.evidence"
_BATCH_PASSAGES = 2048
_HASHED_IDS_AT_ONCE = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9_]*")
OFFSET, _LENGTH = np.dtype("<i8"), np.dtype("<i4")
# Data, and where each piece of it starts.
TEXTS = ("text.utf8", "text_offsets.i64")
IDS = ("ids.utf8", "id_offsets.i64")


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceStore:
    """All passages of a corpus; N rows, in the order of the corpus file.

    directory: where it lies.
    num_passages: N.
    digest: hex SHA-256 of texts, ids and tokens: equal digests, equal evidence.
    token_tables: by the name that the tokeniser was given.
    tokenizer_digests: of the tokeniser of each table.
    text: [bytes] uint8, titles and texts in UTF-8, mapped.
    text_offsets: [2N + 1] int64, where each title and each text starts, mapped.
    ids: [bytes] uint8, passage ids in UTF-8, mapped.
    id_offsets: [N + 1] int64, where each id starts, mapped.
    """

    directory: pathlib.Path
    num_passages: int
    digest: str
    token_tables: Mapping[str, TokenTable]
    tokenizer_digests: Mapping[str, str]
    text: np.ndarray = dataclasses.field(repr=False)
    text_offsets: np.ndarray = dataclasses.field(repr=False)
    ids: np.ndarray = dataclasses.field(repr=False)
    id_offsets: np.ndarray = dataclasses.field(repr=False)

    def passage_id(self, row: int) -> str:
        """The id of the passage in a row.

        Raises:
            IndexError: there is no such row; -1 is none either.
        """
        row = self._checked_row(row)
        start, end = self.id_offsets[row : row + 2]
        return self.ids[start:end].tobytes().decode("utf-8")

    def passage(self, row: int) -> Passage:
        """The passage in a row.

        Raises:
            IndexError: there is no such row; -1 is none either.
        """
        row = self._checked_row(row)
        start, middle, end = self.text_offsets[2 * row : 2 * row + 3]
        title = self.text[start:middle].tobytes().decode("utf-8")
        text = self.text[middle:end].tobytes().decode("utf-8")
        return Passage(self.passage_id(row), text, title)

    def passages(self) -> Iterator[Passage]:
        """Yields every passage, in order of rows."""
        return map(self.passage, range(self.num_passages))

    def row_of(self, passage_id: str) -> int:
        """The row of a passage. The first call sorts hashes of all ids.

        Raises:
            DataError: no passage has the id.
        """
        hashes, rows = self._id_index
        encoded = np.frombuffer(passage_id.encode("utf-8", "replace"), np.uint8)
        wanted = hash_ids(encoded, np.array([0, len(encoded)], OFFSET))[0]
        place = int(np.searchsorted(hashes, wanted))
        while place < len(hashes) and hashes[place] == wanted:
            if self.passage_id(rows[place]) == passage_id:
                return int(rows[place])
            place += 1
        raise DataError(
            f"no passage has the id {passage_id!r}: it is not of this corpus.",
            self.directory,
        )

    @functools.cached_property
    def _id_index(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all ids in ascending order, [N] uint64, and their rows, [N]."""
        hashes = hash_ids(self.ids, self.id_offsets)
        rows = np.argsort(hashes, kind="stable")
        return hashes[rows], rows

    def _checked_row(self, row: int) -> int:
        if not 0 <= row < self.num_passages:
            raise IndexError(
                f"row {row} is not in the evidence, whose rows are 0 to "
                f"{self.num_passages - 1}"
            )
        return int(row)


def build_evidence(
    passages: Iterable[Passage],
    directory: str | os.PathLike,
    tokenizers: Mapping[str, Tokenizer],
    *,
    allow_empty_text: bool = False,
    progress: Callable[[int], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> EvidenceStore:
    """Writes a store of passages and their tokens, and opens it.

    Holds one batch of passages in memory. If it fails or is killed, nothing is at
    `directory`; the next build clears away what was left beside it.

    Args:
        passages: with unique ids; read once.
        directory: does not exist yet, or is empty.
        tokenizers: by name (lower-case letters, digits, "_"); one token table each.
        allow_empty_text: let a passage have a title and no text.
        progress: called after every batch with the number of passages done.
        source: where the passages came from, to be recorded.

    Raises:
        ConfigError: there is something at `directory`, another process is building
            there, or a name is not allowed.
        DataError: there are no passages, an id is empty or given twice, or a passage
            is empty.
    """
    check_table_names(tokenizers)
    directory = pathlib.Path(directory)
    if directory.exists() and not _is_empty_directory(directory):
        raise ConfigError(
            f"{directory} exists. Delete it to build evidence there, or give another "
            "directory."
        )
    with atomic.building_directory(directory) as building:
        count = write_rows(
            building,
            passages,
            tokenizers,
            allow_empty_text=allow_empty_text,
            progress=progress,
        )
        describe_store(building, count, tokenizers, source)
        _check_unique_ids(_open_store(building, read_manifest(building)))
    return load_evidence(directory, tokenizers)


def load_evidence(
    directory: str | os.PathLike,
    tokenizers: Mapping[str, Tokenizer] | None = None,
    *,
    verify: bool = False,
) -> EvidenceStore:
    """Opens a store, without reading its passages.

    Args:
        directory: that `build_evidence` wrote.
        tokenizers: those that the caller will use, to be held against the tables.
        verify: read every byte and check its digest; sizes are always checked.

    Raises:
        CorruptError: a file is missing, additional or damaged; or a table is missing
            or was made by another tokeniser.
    """
    directory = pathlib.Path(directory)
    manifest = verify_manifest(directory, check_digests=verify)
    if manifest["extra"].get("format") != _FORMAT:
        raise CorruptError(
            f"{directory} is not an evidence store. Give the directory of one."
        )
    store = _open_store(directory, manifest)
    for name, tokenizer in (tokenizers or {}).items():
        if store.tokenizer_digests.get(name) != tokenizer.digest:
            found = "another tokeniser" if name in store.token_tables else "none"
            raise CorruptError(
                f"{directory} needs tokens named {name!r} by the tokeniser "
                f"{tokenizer.digest[:12]}, but has those of {found}. Delete it to "
                "build it anew, or give another directory."
            )
    return store


def is_store(directory: str | os.PathLike) -> bool:
    """Whether a directory has the manifest, in good order, of an evidence store."""
    try:
        return read_manifest(directory)["extra"].get("format") == _FORMAT
    except CorruptError:
        return False


def build_or_load_evidence(
    passages_path: str | os.PathLike,
    directory: str | os.PathLike,
    tokenizers: Mapping[str, Tokenizer],
    *,
    allow_empty_text: bool = False,
    progress: Callable[[int], None] | None = None,
    verify: bool = False,
) -> EvidenceStore:
    """Opens the store of a corpus file, after building it where there is none.

    A store that is there must be of the same file and the same tokenisers: it is
    never rebuilt in silence, since a run that goes on over other passages than it
    began with is a mistake. The file counts as the same where its size and time of
    change are those recorded, or else its SHA-256 is.

    Args:
        passages_path: the corpus, as `read_passages` reads it.
        directory: of the store.
        tokenizers: as for `build_evidence`.
        allow_empty_text: as for `build_evidence`.
        progress: as for `build_evidence`; not called where the store is there.
        verify: as for `load_evidence`.

    Raises:
        CorruptError: the store is damaged, of other passages or other tokenisers.
        ConfigError: as for `build_evidence`.
        DataError: the corpus breaks a rule, or changed while it was read.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not _is_empty_directory(directory):
        store = load_evidence(directory, tokenizers, verify=verify)
        recorded = read_manifest(directory)["extra"]["source"]
        if not _is_same_source(passages_path, recorded):
            name = recorded["name"] if recorded else "other passages"
            raise CorruptError(
                f"{directory} was built from {name}, which was not what "
                f"{os.fspath(passages_path)} holds now. Delete it to build it anew, "
                "or give another directory."
            )
        return store
    source = describe_source(passages_path)
    return build_evidence(
        _read_unchanged(passages_path, source, allow_empty_text),
        directory,
        tokenizers,
        allow_empty_text=allow_empty_text,
        progress=progress,
        source=source,
    )


def check_table_names(names: Iterable[str]) -> None:
    """Raises ConfigError where a token table cannot be called so."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"a token table cannot be called {name!r}: use lower-case letters, "
                "digits and '_'."
            )


def table_files(name: str) -> tuple[str, str, str]:
    """The files of a token table: its ids, their offsets, lengths of titles."""
    return tuple(
        f"tokens/{name}.{what}" for what in ("ids", "offsets", "title_lengths")
    )


def write_rows(
    directory: pathlib.Path,
    passages: Iterable[Passage],
    tokenizers: Mapping[str, Tokenizer],
    *,
    allow_empty_text: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes all files of a store but its manifest, and returns how many passages.

    Args:
        directory: an empty folder.
        passages: as for `build_evidence`; whether ids differ is not checked.
        tokenizers: as for `build_evidence`.
        allow_empty_text: as for `build_evidence`.
        progress: as for `build_evidence`.

    Raises:
        DataError: an id or a passage is empty.
    """
    (directory / "tokens").mkdir()
    done = 0
    passages = iter(passages)
    with contextlib.ExitStack() as stack:

        def new_file(name: str) -> BinaryIO:
            return stack.enter_context(open(directory / name, "wb"))

        texts, ids = (PiecesWriter(*map(new_file, files)) for files in (TEXTS, IDS))
        tables = {}
        for name in tokenizers:
            *pieces, lengths = map(new_file, table_files(name))
            tables[name] = PiecesWriter(*pieces), lengths
        while batch := list(itertools.islice(passages, _BATCH_PASSAGES)):
            for passage in batch:
                check_passage(passage, None, None, allow_empty_text=allow_empty_text)
            texts.write_texts(
                part for passage in batch for part in (passage.title, passage.text)
            )
            ids.write_texts(passage.passage_id for passage in batch)
            for name, tokenizer in tokenizers.items():
                pieces, title_file = tables[name]
                titles, bodies = _encode(batch, tokenizer)
                lengths = np.fromiter(map(len, titles), _LENGTH, len(titles))
                title_file.write(lengths.tobytes())
                pieces.write_ids(titles, bodies, _id_dtype(tokenizer))
            done += len(batch)
            if progress is not None:
                progress(done)
    return done


class PiecesWriter:
    """Appends pieces to one file and where each starts to another."""

    def __init__(self, data_file: BinaryIO, offset_file: BinaryIO):
        self._data_file, self._offset_file = data_file, offset_file
        self._end = 0
        offset_file.write(np.zeros(1, OFFSET).tobytes())

    def write_texts(self, texts: Iterable[str]) -> None:
        """Appends texts in UTF-8."""
        encoded = [text.encode("utf-8") for text in texts]
        self._write(b"".join(encoded), [len(piece) for piece in encoded])

    def write_ids(
        self, titles: list[list[int]], bodies: list[list[int]], dtype: np.dtype
    ) -> None:
        """Appends token ids, those of a title before those of its text."""
        pairs = list(zip(titles, bodies, strict=True))
        lengths = [len(title) + len(body) for title, body in pairs]
        flat = itertools.chain.from_iterable(itertools.chain.from_iterable(pairs))
        self._write(np.fromiter(flat, dtype, sum(lengths)).tobytes(), lengths)

    def _write(self, data: bytes, lengths: list[int]) -> None:
        ends = self._end + np.cumsum(lengths, dtype=OFFSET)
        self._data_file.write(data)
        self._offset_file.write(ends.tobytes())
        self._end = int(ends[-1])


def describe_store(
    directory: pathlib.Path,
    count: int,
    tokenizers: Mapping[str, Tokenizer],
    source: Mapping[str, Any] | None,
) -> None:
    """Writes the manifest of a store whose other files are there.

    Args:
        directory: filled by `write_rows`.
        count: of passages.
        tokenizers: that the tables are of.
        source: where the passages came from, to be recorded.

    Raises:
        DataError: there are no passages.
    """
    if not count:
        raise DataError("there are no passages to build evidence from.")
    extra = {
        "format": _FORMAT,
        "num_passages": count,
        "tables": {
            name: {
                "kind": tokenizer.kind,
                "tokenizer": tokenizer.digest,
                "dtype": _id_dtype(tokenizer).str,
            }
            for name, tokenizer in tokenizers.items()
        },
        "source": dict(source) if source else None,
    }
    write_manifest(directory, extra)


def _encode(
    batch: list[Passage], tokenizer: Tokenizer
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the titles and of the texts; passages of one document share a title."""
    titles = list(dict.fromkeys(passage.title for passage in batch))
    encoded = tokenizer.encode_batch(titles + [passage.text for passage in batch])
    ids_of_title = dict(zip(titles, encoded[: len(titles)], strict=True))
    return [ids_of_title[passage.title] for passage in batch], encoded[len(titles) :]


def _id_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _is_empty_directory(path: pathlib.Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _open_store(directory: pathlib.Path, manifest: Mapping[str, Any]) -> EvidenceStore:
    """Maps the files; raises CorruptError where their counts do not reconcile."""
    extra = manifest["extra"]
    count = extra["num_passages"]
    text, ids = (_map(directory, file, np.dtype(np.uint8)) for file, _ in (TEXTS, IDS))
    tables = {
        name: TokenTable(
            *(
                _map(directory, file, dtype)
                for file, dtype in zip(
                    table_files(name),
                    (np.dtype(entry["dtype"]), OFFSET, _LENGTH),
                    strict=True,
                )
            )
        )
        for name, entry in extra["tables"].items()
    }
    store = EvidenceStore(
        directory,
        count,
        _content_digest(manifest),
        tables,
        {name: entry["tokenizer"] for name, entry in extra["tables"].items()},
        text,
        _map(directory, TEXTS[1], OFFSET),
        ids,
        _map(directory, IDS[1], OFFSET),
    )
    pieces = [(store.text_offsets, 2 * count, text), (store.id_offsets, count, ids)]
    pieces += [(table.offsets, count, table.token_ids) for table in tables.values()]
    reconciles = all(
        len(offsets) == number + 1 and offsets[-1] == len(data)
        for offsets, number, data in pieces
    ) and all(table.num_rows == count for table in tables.values())
    if not reconciles:
        raise CorruptError(
            f"{directory}: texts, ids and tokens are not of the same {count} passages. "
            "Delete it and build it again."
        )
    return store


def _map(directory: pathlib.Path, name: str, dtype: np.dtype) -> np.ndarray:
    path = directory / name
    if not path.stat().st_size:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype, mode="r"))


def _content_digest(manifest: Mapping[str, Any]) -> str:
    """The digest of what a store holds, wherever it came from."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _check_unique_ids(store: EvidenceStore) -> None:
    hashes, rows = store._id_index
    check_unique_ids(hashes, rows, store.passage_id)


def check_unique_ids(
    hashes: np.ndarray, rows: np.ndarray, passage_id: Callable[[int], str]
) -> None:
    """Raises where two rows have one id.

    Args:
        hashes: [n] uint64, from `hash_ids`, in ascending order.
        rows: [n], whose they are.
        passage_id: gives the id of a row.

    Raises:
        DataError: naming the id and the places of two passages, from 1.
    """
    for place in np.flatnonzero(hashes[1:] == hashes[:-1]):
        # Ids of equal hash stand together; all pairs among them, in case some differ.
        first = int(np.searchsorted(hashes, hashes[place]))
        for earlier in range(first, place + 1):
            found = passage_id(rows[earlier])
            if found == passage_id(rows[place + 1]):
                raise DataError(
                    f"the id {found!r} is given twice, to passages "
                    f"{rows[earlier] + 1} and {rows[place + 1] + 1}. Each passage "
                    "needs its own."
                )


def hash_ids(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[N] uint64 hashes of N ids laid end to end; not proof against malice.

    Args:
        ids: [bytes] uint8.
        offsets: [N + 1] int64.
    """
    multiplier = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
    hashes = np.zeros(len(offsets) - 1, np.uint64)
    for start in range(0, len(hashes), _HASHED_IDS_AT_ONCE):
        block = offsets[start : start + _HASHED_IDS_AT_ONCE + 1]
        starts, lengths = block[:-1], np.diff(block)
        hashed = hashes[start : start + _HASHED_IDS_AT_ONCE]
        rest = np.arange(len(starts))
        for place in range(int(lengths.max())):
            rest = rest[lengths[rest] > place]
            letters = ids[starts[rest] + place].astype(np.uint64)
            mixed = (hashed[rest] + letters + np.uint64(1)) * multiplier
            hashed[rest] = mixed ^ (mixed >> np.uint64(29))
    return hashes


def describe_source(path: str | os.PathLike) -> dict[str, Any]:
    """What tells later whether a file is still the same."""
    try:
        status = os.stat(path)
        digest = file_sha256(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", path) from error
    return {
        "name": pathlib.Path(path).name,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": digest,
    }


def _is_same_source(
    path: str | os.PathLike, recorded: Mapping[str, Any] | None
) -> bool:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", path) from error
    if recorded is None or status.st_size != recorded["bytes"]:
        return False
    if status.st_mtime_ns == recorded.get("mtime_ns"):
        return True
    return file_sha256(path) == recorded["sha256"]


def _read_unchanged(
    path: str | os.PathLike, source: Mapping[str, Any], allow_empty_text: bool
) -> Iterator[Passage]:
    """Yields a file's passages; raises where it is no longer the file described."""
    yield from read_passages(path, allow_empty_text=allow_empty_text)
    status = os.stat(path)
    if (status.st_size, status.st_mtime_ns) != (source["bytes"], source["mtime_ns"]):
        raise DataError("the file changed while it was read. Build again.", path)
