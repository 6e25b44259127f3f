"""Evidence stores and passage files made part by part, by any number of processes.

The parts of what is built at TARGET lie in a hidden folder beside it, .TARGET.parts,
and there in one that is named by the digest of the plan:

    plan.json          what is built from what, and where each part begins
    tokenizers/NAME    for a store
    00000, 00001, ...  the parts: each the files of a small store, or lines of a passage
                       file, with the hashes of its ids

A part is there when it is whole, so a build that was killed goes on behind the parts
that are there. Whoever sees the corpus and that folder can write any part: processes of
this machine (`run_processes`) or workers of a Beam pipeline (`evidence_beam`). Then the
parts are joined, in order: the result is, byte for byte, that of one process.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

import art_jax
from art_jax import atomic, manifest
from art_jax.data import corpora, evidence, text_files
from art_jax.data.corpora import Corpus, CorpusPart
from art_jax.data.passages import check_passage, line_format
from art_jax.data.text_files import LineRange
from art_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from art_jax.errors import ConfigError, DataError

PART_BYTES = 1 << 24
_BYTES_PER_BUCKET = 1 << 30
_PLAN, _HASHES, _LINES = "plan.json", "id_hashes.u64", "lines.utf8"
_STORE = "store"
_BATCH_PASSAGES = 2048

Runner = Callable[[pathlib.Path, "Plan"], None]
"""Writes every part that is not there, then checks the ids of each bucket."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is built of what.

    version: of art_jax, since another one may cut in other ways.
    corpus: what is read.
    parts: of the corpus, in order.
    target: "store", ".tsv" or ".jsonl".
    tokenizers: digests by the names of the token tables.
    source: what the store records of the corpus; equal only for equal files.
    skipped: files of a folder that are left out, by reason.
    """

    version: str
    corpus: Corpus
    parts: tuple[CorpusPart, ...]
    target: str
    tokenizers: Mapping[str, str]
    source: Mapping[str, Any]
    skipped: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """Of all parts."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def num_buckets(self) -> int:
        """How many times, or by how many workers, ids are checked, a share each."""
        return 1 + self.num_bytes // _BYTES_PER_BUCKET


@dataclasses.dataclass(frozen=True)
class Build:
    """What was built.

    target: where.
    num_passages: in it.
    num_bytes: of all its files.
    digest: of a store, see `EvidenceStore`; None for a passage file.
    skipped: files of a folder that gave no passage, by reason.
    """

    target: pathlib.Path
    num_passages: int
    num_bytes: int
    digest: str | None
    skipped: Mapping[str, int]


def build(
    corpus: Corpus,
    target: str | os.PathLike,
    tokenizers: Mapping[str, Tokenizer] | None = None,
    *,
    run: Runner | None = None,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
    progress: Callable[[int, float], None] | None = None,
    progress_seconds: float = 5.0,
) -> Build:
    """Makes an evidence store or a passage file of a corpus.

    `target` appears when it is whole. Needs as much space again beside it, for the
    parts, and for a gzipped corpus unpacked. A process holds 2,048 passages and their
    ids, or the hashes of one or two million ids.

    Args:
        corpus: from `corpora.find_corpus`.
        target: ends in `.tsv` or `.jsonl`, with `.gz` to compress: a passage file;
            otherwise the folder of a store.
        tokenizers: of a store's token tables, by name, as for `build_evidence`.
        run: what writes the parts; None: this process.
        overwrite: replace what is there: a file, or a folder that is a store.
        part_bytes: of the corpus in a part.
        progress: called now and then with the passages in parts that are there and
            their share of the corpus' bytes.
        progress_seconds: between calls.

    Raises:
        ConfigError: `target` is there or is being built, or names and tokenisers do
            not fit it.
        DataError: the corpus breaks a rule, or changed while it was read.
    """
    tokenizers = dict(tokenizers or {})
    target = pathlib.Path(target)
    kind = _target_kind(target)
    _check_target(corpus, target, kind, tokenizers, overwrite)
    with _parts_folder(target) as around:
        plan = _make_plan(corpus, kind, tokenizers, around, part_bytes)
        folder = _open_folder(around, plan, tokenizers)
        with _watching(folder, plan, progress, progress_seconds):
            (run or run_processes)(folder, plan)
        _check_unchanged(corpus, plan.source)
        parts = [_part_folder(folder, index) for index in range(len(plan.parts))]
        facts = [manifest.verify_manifest(part)["extra"] for part in parts]
        count = sum(fact["num_passages"] for fact in facts)
        if not count:
            raise DataError("there are no passages in it.", corpus.path)
        if kind == _STORE:
            digest = _join_store(parts, target, tokenizers, count, plan.source)
        else:
            digest = _join_lines(parts, target)
    skipped = collections.Counter(plan.skipped)
    for fact in facts:
        skipped.update(fact["skipped"])
    files = [target] if target.is_file() else target.rglob("*")
    num_bytes = sum(path.stat().st_size for path in files if path.is_file())
    return Build(target, count, num_bytes, digest, dict(skipped))


def run_processes(folder: pathlib.Path, plan: Plan, *, num_processes: int = 1) -> None:
    """Writes a plan's parts and checks its ids, by processes of this machine.

    Args:
        folder: of the parts.
        plan: of the build.
        num_processes: at most; 1, or a single part: this one, with the threads that
            tokenisers start.
    """
    indices = range(len(plan.parts))
    num_processes = min(num_processes, len(indices))
    if num_processes == 1:
        for index in indices:
            write_part(folder, index)
        for bucket in range(plan.num_buckets):
            check_ids(folder, bucket)
        return
    with futures.ProcessPoolExecutor(
        num_processes,
        # A forked copy of threads that hold locks would wait for them for ever.
        multiprocessing.get_context("spawn"),
        initializer=_start_process,
    ) as pool:
        try:
            for _ in pool.map(functools.partial(write_part, folder), indices):
                pass
            checks = functools.partial(check_ids, folder)
            for _ in pool.map(checks, range(plan.num_buckets)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_part(folder: str | os.PathLike, index: int) -> None:
    """Writes one part, where it is not there yet.

    Several may write the same one at once, as engines do that do not wait for slow
    workers: the first that is done stays.

    Args:
        folder: of the parts, with a plan.
        index: of the part.

    Raises:
        DataError: the corpus breaks a rule there.
    """
    target = _part_folder(folder, index)
    if target.exists():
        return
    plan = read_plan(folder)
    mine = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    mine.mkdir()
    try:
        skipped = collections.Counter()
        passages = corpora.read_part(plan.corpus, plan.parts[index], skipped=skipped)
        if plan.target == _STORE:
            count = evidence.write_rows(
                mine,
                passages,
                {
                    name: _load_tokenizer(folder, name, digest)
                    for name, digest in plan.tokenizers.items()
                },
                allow_empty_text=plan.corpus.allow_empty_text,
            )
        else:
            count = _write_lines(mine, passages, plan)
        ids, offsets = _read_ids(mine)
        evidence.hash_ids(ids, offsets).tofile(mine / _HASHES)
        facts = {"num_passages": count, "skipped": skipped}
        manifest.write_manifest(mine, facts)
        try:
            mine.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def check_ids(folder: str | os.PathLike, bucket: int) -> None:
    """Raises where two passages have one id, for the ids of one bucket.

    Args:
        folder: with all parts written.
        bucket: from 0 to `Plan.num_buckets` - 1; together all ids are checked.

    Raises:
        DataError: naming the id and the places of two passages, from 1.
    """
    plan = read_plan(folder)
    parts = [_part_folder(folder, index) for index in range(len(plan.parts))]
    starts = [0]
    hashes, rows = [], []
    for part in parts:
        of_part = np.fromfile(part / _HASHES, "<u8")
        # The high bits are the well-mixed ones.
        kept = np.flatnonzero((of_part >> np.uint64(32)) % plan.num_buckets == bucket)
        hashes.append(of_part[kept])
        rows.append(kept + starts[-1])
        starts.append(starts[-1] + len(of_part))
    hashes, rows = np.concatenate(hashes), np.concatenate(rows)
    order = np.argsort(hashes, kind="stable")

    def passage_id(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        ids, offsets = _read_ids(parts[part])
        place = int(row) - starts[part]
        return ids[offsets[place] : offsets[place + 1]].tobytes().decode("utf-8")

    evidence.check_unique_ids(hashes[order], rows[order], passage_id)


def read_plan(folder: str | os.PathLike) -> Plan:
    """The plan in a folder of parts."""
    text = (pathlib.Path(folder) / _PLAN).read_text(encoding="utf-8")
    record = json.loads(text)
    corpus = record["corpus"]
    return Plan(
        **record
        | {
            "corpus": Corpus(**corpus | {"suffixes": tuple(corpus["suffixes"])}),
            "parts": tuple(
                CorpusPart(
                    LineRange(**part["lines"]) if part["lines"] else None,
                    tuple(part["names"]),
                    part["num_bytes"],
                )
                for part in record["parts"]
            ),
        }
    )


def _target_kind(target: pathlib.Path) -> str:
    name = target.name.lower().removesuffix(".gz")
    kinds = [suffix for suffix in (".tsv", ".jsonl") if name.endswith(suffix)]
    if not kinds and target.suffix and target.suffix.lower() in (".gz", ".txt", ".csv"):
        raise ConfigError(
            f"{target}: passages go to a file that ends in .tsv or .jsonl, with .gz "
            "behind it to compress, or to a folder."
        )
    return kinds[0] if kinds else _STORE


def _check_target(
    corpus: Corpus,
    target: pathlib.Path,
    kind: str,
    tokenizers: Mapping[str, Tokenizer],
    overwrite: bool,
) -> None:
    """Raises ConfigError where nothing should be written to the target."""
    if kind != _STORE and tokenizers:
        raise ConfigError(
            f"{target} is a passage file, which holds no tokens: leave the tokenisers "
            "out, or give a folder."
        )
    if kind == _STORE and not tokenizers:
        raise ConfigError(
            f"{target} is to be an evidence store, which holds tokens: give at least "
            "one tokeniser, or a target that ends in .tsv or .jsonl."
        )
    evidence.check_table_names(tokenizers)
    source = pathlib.Path(corpus.path).resolve()
    if target.resolve() in (source, *source.parents):
        raise ConfigError(f"{target} holds the corpus itself: give another target.")
    is_empty = target.is_dir() and not any(target.iterdir())
    if not target.exists() or is_empty:
        return
    if not overwrite:
        raise ConfigError(
            f"{target} exists. Give --overwrite to replace it, or another target."
        )
    if (kind == _STORE) != target.is_dir():
        raise ConfigError(f"{target} is a {'file' if kind == _STORE else 'folder'}.")
    if kind == _STORE and not evidence.is_store(target):
        raise ConfigError(
            f"{target} is no evidence store, so it is not replaced: give another "
            "folder, or delete it."
        )


@contextlib.contextmanager
def _parts_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder around parts; it stays where a build can go on from what is there."""
    folder = target.with_name(f".{target.name}.parts")
    with atomic.locked_directory(folder, making=target):
        try:
            yield folder
        except BaseException as error:
            has_parts = any(path.name.isdecimal() for path in folder.glob("*/*"))
            # A corpus that is mended is another one, and needs all parts anew.
            if isinstance(error, DataError) or not has_parts:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _make_plan(
    corpus: Corpus,
    kind: str,
    tokenizers: Mapping[str, Tokenizer],
    folder: pathlib.Path,
    part_bytes: int,
) -> Plan:
    """Returns the plan; a gzipped corpus is unpacked into the folder first."""
    source = _describe_corpus(corpus)
    if corpus.format != "folder" and text_files.is_gzipped(corpus.path):
        name = pathlib.Path(corpus.path).name
        unpacked = folder / f"{source['sha256'][:16]}-{name.removesuffix('.gz')}"
        if not unpacked.exists():
            atomic.clear_directory(folder)
            text_files.copy_unpacked(corpus.path, unpacked)
        corpus = dataclasses.replace(corpus, path=str(unpacked))
    skipped = collections.Counter()
    parts = corpora.split_corpus(corpus, part_bytes, skipped=skipped)
    return Plan(
        art_jax.__version__,
        corpus,
        tuple(parts),
        kind,
        {name: tokenizer.digest for name, tokenizer in tokenizers.items()},
        source,
        dict(skipped),
    )


def _open_folder(
    around: pathlib.Path, plan: Plan, tokenizers: Mapping[str, Tokenizer]
) -> pathlib.Path:
    """Returns the folder of a plan's parts, its name being the plan's digest.

    Those of other plans go. A worker that outlived its build and writes there still
    finds nothing, and this build nothing of it.
    """
    text = json.dumps(dataclasses.asdict(plan))
    folder = around / hashlib.sha256(text.encode()).hexdigest()[:16]
    for child in around.iterdir():
        if child != folder and str(child) != plan.corpus.path:
            _remove(child)
    folder.mkdir(exist_ok=True)
    if not (folder / _PLAN).exists():
        for name, tokenizer in tokenizers.items():
            save_tokenizer(tokenizer, folder / "tokenizers" / name)
        atomic.write_text(folder / _PLAN, text)
    for child in folder.glob(".*"):
        _remove(child)
    return folder


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def _watching(
    folder: pathlib.Path,
    plan: Plan,
    progress: Callable[[int, float], None] | None,
    every_seconds: float,
) -> Iterator[None]:
    """Calls `progress` from a thread while parts are written by whomever."""
    if progress is None:
        yield
        return
    counts: dict[int, int] = {}
    finished = threading.Event()

    def look() -> None:
        for index in range(len(plan.parts)):
            part = _part_folder(folder, index)
            if index not in counts and part.exists():
                counts[index] = manifest.read_manifest(part)["extra"]["num_passages"]
        done = sum(plan.parts[index].num_bytes for index in counts)
        progress(sum(counts.values()), done / max(plan.num_bytes, 1))

    def watch() -> None:
        while not finished.wait(every_seconds):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    look()


def _write_lines(mine: pathlib.Path, passages, plan: Plan) -> int:
    """Writes lines and ids of a passage file's part; returns how many."""
    _, format_line = line_format(plan.target)
    count = 0
    with contextlib.ExitStack() as stack:

        def new_file(name: str):
            return stack.enter_context(open(mine / name, "wb"))

        lines, ids = (
            new_file(_LINES),
            evidence.PiecesWriter(*map(new_file, evidence.IDS)),
        )
        while batch := list(itertools.islice(passages, _BATCH_PASSAGES)):
            for passage in batch:
                check_passage(passage, None, None, allow_empty_text=True)
                lines.write(f"{format_line(passage, 0)}\n".encode())
            ids.write_texts(passage.passage_id for passage in batch)
            count += len(batch)
    return count


def _join_store(
    parts: Sequence[pathlib.Path],
    target: pathlib.Path,
    tokenizers: Mapping[str, Tokenizer],
    count: int,
    source: Mapping[str, Any],
) -> str:
    """Writes the store and returns its digest."""
    with atomic.building_directory(target) as building:
        (building / "tokens").mkdir()
        pieces, lengths = [evidence.TEXTS, evidence.IDS], []
        for name in tokenizers:
            ids, offsets, title_lengths = evidence.table_files(name)
            pieces.append((ids, offsets))
            lengths.append(title_lengths)
        for name in [data for data, _ in pieces] + lengths:
            with open(building / name, "wb") as joined:
                _append(joined, [part / name for part in parts])
        for _, name in pieces:
            _join_offsets([part / name for part in parts], building / name)
        evidence.describe_store(building, count, tokenizers, source)
        evidence.load_evidence(building, tokenizers)
    return evidence.load_evidence(target, tokenizers).digest


def _join_offsets(paths: Sequence[pathlib.Path], joined: pathlib.Path) -> None:
    """Writes where pieces start once the data of all parts stand in one file."""
    start = 0
    with open(joined, "wb") as file:
        file.write(np.zeros(1, evidence.OFFSET).tobytes())
        for path in paths:
            offsets = np.fromfile(path, evidence.OFFSET) + start
            file.write(offsets[1:].tobytes())
            start = int(offsets[-1])


def _join_lines(parts: Sequence[pathlib.Path], target: pathlib.Path) -> None:
    header, _ = line_format(target)
    with text_files.open_new_binary(target) as file:
        file.write(header.encode())
        _append(file, [part / _LINES for part in parts])
        # As at the end of text: gzip writes a mark there, and bytes are to be the same.
        file.flush()


def _append(joined, paths: Sequence[pathlib.Path]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, joined, 1 << 20)


def _read_ids(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    data, offsets = (folder / name for name in evidence.IDS)
    return np.fromfile(data, np.uint8), np.fromfile(offsets, evidence.OFFSET)


def _part_folder(folder: str | os.PathLike, index: int) -> pathlib.Path:
    return pathlib.Path(folder) / f"{index:05d}"


@functools.lru_cache(maxsize=8)
def _load_tokenizer(folder: str | os.PathLike, name: str, digest: str) -> Tokenizer:
    """The tokeniser of a table; the next part needs it again, if it is the same."""
    return load_tokenizer(pathlib.Path(folder) / "tokenizers" / name)


def _start_process() -> None:
    """Sets up a process of `run_processes`: one thread, and no life after the build."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _describe_corpus(corpus: Corpus) -> dict[str, Any]:
    """What tells whether a corpus is the same; for a file as `build_evidence` does."""
    if corpus.format != "folder":
        return evidence.describe_source(corpus.path)
    names, _ = corpora.folders.list_files(corpus.path, corpus.suffixes)
    digest, num_bytes = hashlib.sha256(), 0
    for name in names:
        path = pathlib.Path(corpus.path, name)
        try:
            digest.update(f"{name}\0{manifest.file_sha256(path)}\0".encode())
            num_bytes += path.stat().st_size
        except (OSError, UnicodeEncodeError) as error:
            raise DataError(f"cannot be read: {error}.", path) from error
    return {
        "name": pathlib.Path(corpus.path).resolve().name,
        "bytes": num_bytes,
        "sha256": digest.hexdigest(),
    }


def _check_unchanged(corpus: Corpus, source: Mapping[str, Any]) -> None:
    if corpus.format == "folder":
        is_same = _describe_corpus(corpus) == source
    else:
        status = os.stat(corpus.path)
        now = status.st_size, status.st_mtime_ns
        is_same = now == (source["bytes"], source["mtime_ns"])
    if not is_same:
        raise DataError(
            "the corpus changed while it was read. Build again.", corpus.path
        )
