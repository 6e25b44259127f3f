"""Teacher scores on disk, so that no pair is scored twice by the same teacher.

    <directory>/scores_<process>_<n>.bin    what one opening of the cache has added

A file is a header, which holds the key of the cache, and blocks of records, each with
checksums. It is only ever appended to, by the process that made it, and each block
reaches the disk whole before the next begins. So a kill can spoil the end of a file
alone, which is left out when it is read; damage anywhere else is an error. Whoever
opens the cache reads all files there are and writes to a new one: readers and writers
need not know of each other.

All numbers are little-endian:

    header  "artscore"  uint32 bytes  uint32 crc32  JSON
    block   "SCRB"      uint32 records  uint32 crc32 of them  uint32 crc32 of this head
    record  int32 question  int32 row  float32 score
"""

import json
import logging
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import jax
import numpy as np

from art_jax.errors import ConfigError, CorruptError
from art_jax.manifest import flush_to_disk

_logger = logging.getLogger(__name__)

_FORMAT = "art_jax.score_cache"
_VERSION = 1
_MAGIC = b"artscore"
_HEAD = struct.Struct("<8sII")
_BLOCK_MAGIC = b"SCRB"
_BLOCK_HEAD = struct.Struct("<4sIII")
_RECORD = np.dtype([("question", "<i4"), ("row", "<i4"), ("score", "<f4")])
_MAX_INT32 = np.iinfo(np.int32).max
_WAY_OUT = "Delete this file: its scores will be computed again."

# Sorted keys, each once, and the score of each: [n] int64 and [n] float32.
Run = tuple[np.ndarray, np.ndarray]


class ScoreCache:
    """The scores of pairs of a question and a row of the table.

    Processes of one run may know different pairs after a kill: where they must take
    the same steps, one of them looks up for all.
    """

    def __init__(
        self, directory: pathlib.Path, key: Mapping[str, str], process: int, run: Run
    ):
        """Use `open`."""
        self._directory, self._process = directory, process
        self._key = dict(key)
        self._file: BinaryIO | None = None
        self._pending: list[np.ndarray] = []
        # The largest first, each at least twice the next, so that adding n pairs one
        # batch at a time moves each of them log(n) times.
        self._runs: list[Run] = [run]

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike,
        key: Mapping[str, str],
        *,
        process: int | None = None,
    ) -> "ScoreCache":
        """Returns the scores kept in a folder, which is made where there is none.

        Every file in it is read, once, and its checksums tested.

        Args:
            directory: of this cache alone.
            key: what the scores depend on, by name: digests of the teacher, the
                evidence and the questions.
            process: names the file to write; None: this process of the run.

        Raises:
            ConfigError: scores made under another key lie there.
            CorruptError: a file is damaged elsewhere than at its end.
        """
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        parts = []
        for path in sorted(directory.glob("scores_*.bin")):
            parts += _read_file(path, key)
        records = np.concatenate(parts) if parts else np.zeros(0, _RECORD)
        process = jax.process_index() if process is None else process
        return cls(directory, key, process, _sorted_run(records))

    def __len__(self) -> int:
        """The number of known pairs, those included that are not flushed yet."""
        return len(_merged(self._runs)[0])

    def lookup(self, questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns known scores, [n, K] float32; NaN where a pair is unknown.

        Args:
            questions: [n] int, numbers of questions, from 0.
            rows: [n, K] int, rows of the table; -1, no passage, gives NaN.
        """
        keys = _keys(np.asarray(questions)[:, None], np.asarray(rows))
        scores = np.full(keys.shape, np.nan, np.float32)
        for run_keys, run_scores in self._runs:  # What is newer overwrites.
            if len(run_keys):
                places = np.minimum(np.searchsorted(run_keys, keys), len(run_keys) - 1)
                found = run_keys[places] == keys
                scores[found] = run_scores[places[found]]
        return scores

    def add(self, questions: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
        """Keeps scores in memory; `flush` brings them to disk.

        Args:
            questions: [n] int, from 0.
            rows: [n, K] int; -1, no passage, is left out.
            scores: [n, K] float32; NaN, which says that a pair is unknown, is left
                out. A pair that is known gets this score.
        """
        rows, scores = np.asarray(rows), np.asarray(scores, np.float32)
        if rows.shape != scores.shape:
            raise ValueError(f"rows are {rows.shape}, scores {scores.shape}.")
        questions = np.broadcast_to(np.asarray(questions)[:, None], rows.shape)
        keys = _keys(questions, rows)
        kept = (keys >= 0) & ~np.isnan(scores)
        records = np.zeros(np.count_nonzero(kept), _RECORD)
        records["question"], records["row"] = questions[kept], rows[kept]
        records["score"] = scores[kept]
        if not len(records):
            return
        self._pending.append(records)
        self._runs.append(_sorted_run(records))
        while len(self._runs) > 1 and (
            len(self._runs[-2][0]) < 2 * len(self._runs[-1][0])
        ):
            self._runs[-2:] = [_merged(self._runs[-2:])]

    def flush(self) -> None:
        """Returns when everything that was added is on disk."""
        if not self._pending:
            return
        records = np.concatenate(self._pending)
        try:
            if self._file is None:
                self._file = self._new_file()
            self._file.write(_block(records))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            # Its end may be spoilt, where nothing can follow.
            self._file = None
            raise
        self._pending = []

    def _new_file(self) -> BinaryIO:
        number = 0
        while True:
            path = self._directory / f"scores_{self._process:05d}_{number:05d}.bin"
            try:
                file = path.open("xb")
                break
            except FileExistsError:
                number += 1
        file.write(_header(self._key))
        flush_to_disk(self._directory)
        return file


def _keys(questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One int64 for each pair, -1 where there is no passage."""
    questions, rows = questions.astype(np.int64), rows.astype(np.int64)
    for name, values, least in (("question", questions, 0), ("row", rows, -1)):
        if values.size and not least <= values.min() <= values.max() <= _MAX_INT32:
            raise ValueError(
                f"{name}s are from {values.min()} to {values.max()}: each must be from "
                f"{least} to {_MAX_INT32}."
            )
    return np.where(rows >= 0, (questions << 32) | rows, -1)


def _sorted_run(records: np.ndarray) -> Run:
    """Records by key; of several of a key, the last."""
    keys = _keys(records["question"], records["row"])
    return _last_of_each(keys, records["score"].astype(np.float32))


def _merged(runs: list[Run]) -> Run:
    """Several runs as one; of several scores of a key, the last run's."""
    keys, scores = zip(*runs, strict=True)
    return _last_of_each(np.concatenate(keys), np.concatenate(scores))


def _last_of_each(keys: np.ndarray, scores: np.ndarray) -> Run:
    order = np.argsort(keys, kind="stable")
    keys, scores = keys[order], scores[order]
    is_last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return keys[is_last], scores[is_last]


def _header(key: Mapping[str, str]) -> bytes:
    body = {"format": _FORMAT, "version": _VERSION, "key": dict(key)}
    text = json.dumps(body, sort_keys=True).encode()
    return _HEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text


def _block(records: np.ndarray) -> bytes:
    payload = records.tobytes()
    head = struct.pack("<4sII", _BLOCK_MAGIC, len(records), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def _read_file(path: pathlib.Path, key: Mapping[str, str]) -> Iterator[np.ndarray]:
    """The blocks of records of one file, as far as they are whole.

    Raises:
        ConfigError: they were made under another key.
        CorruptError: something is damaged that whole blocks follow.
    """
    content = path.read_bytes()
    start = _check_header(path, content, key)
    while start < len(content):
        end = _end_of_block(content, start)
        if end is None:
            if _has_block(content, start + 1):
                raise CorruptError(
                    f"{path} is damaged at byte {start}: a checksum is wrong. "
                    f"{_WAY_OUT}"
                )
            _logger.warning(
                "%s: the last %d bytes are no whole block, as after a kill; the scores "
                "in them will be computed again.",
                path,
                len(content) - start,
            )
            return
        yield np.frombuffer(content[start + _BLOCK_HEAD.size : end], _RECORD)
        start = end


def _check_header(path: pathlib.Path, content: bytes, key: Mapping[str, str]) -> int:
    """Where the blocks start: the end of the file where it has no whole header."""
    body = None
    if len(content) >= _HEAD.size:
        magic, num_bytes, checksum = _HEAD.unpack_from(content)
        text = content[_HEAD.size : _HEAD.size + num_bytes]
        if magic == _MAGIC and zlib.crc32(text) == checksum:
            body = json.loads(text)
    if body is None:
        if _has_block(content, 0):
            raise CorruptError(f"{path} is damaged in its header. {_WAY_OUT}")
        return len(content)  # Killed before its first block.
    if (body["format"], body["version"]) != (_FORMAT, _VERSION):
        raise CorruptError(
            f"{path} is {body['format']} of version {body['version']}; this art_jax "
            f"reads {_FORMAT} of version {_VERSION}. Use the art_jax that wrote it."
        )
    held = body["key"]
    differing = [name for name in {**held, **key} if held.get(name) != key.get(name)]
    if differing:
        raise ConfigError(
            f"{path.parent} keeps scores of another {' and another '.join(differing)}: "
            "a score is good for its own alone. Give another directory, or delete it."
        )
    return _HEAD.size + num_bytes


def _has_block(content: bytes, start: int) -> bool:
    """Whether a whole head of a block stands somewhere from `start` on."""
    while (start := content.find(_BLOCK_MAGIC, start)) >= 0:
        if _num_records(content, start) is not None:
            return True
        start += 1
    return False


def _num_records(content: bytes, start: int) -> int | None:
    """The number of records of the block at `start`; None: no head stands there."""
    head = content[start : start + _BLOCK_HEAD.size]
    if len(head) < _BLOCK_HEAD.size:
        return None
    magic, num_records, _, checksum = _BLOCK_HEAD.unpack(head)
    is_head = magic == _BLOCK_MAGIC and zlib.crc32(head[:-4]) == checksum
    return num_records if is_head else None


def _end_of_block(content: bytes, start: int) -> int | None:
    """Where the block at `start` ends; None where it is not whole."""
    num_records = _num_records(content, start)
    if num_records is None:
        return None
    _, _, checksum, _ = _BLOCK_HEAD.unpack_from(content, start)
    first = start + _BLOCK_HEAD.size
    end = first + num_records * _RECORD.itemsize
    is_whole = end <= len(content) and zlib.crc32(content[first:end]) == checksum
    return end if is_whole else None
