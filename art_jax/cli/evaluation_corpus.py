"""Passages that `art-jax evaluate` is given beside a run: stored, embedded, kept.

    OUTPUT_DIR/corpora/NAME-KEY/evidence     the passages
                                retriever, index     embedded, where a RUN is given
                                bm25         BM25's index of them

KEY is made of the digests of the corpus and the retriever: what is there is used again,
and is never of other passages or weights.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator

from art_jax import manifest, partitioning
from art_jax.checkpoints.retriever import (
    find_retriever,
    load_retriever,
    save_retriever,
)
from art_jax.data import text_files
from art_jax.data.evidence import EvidenceStore, build_evidence, load_evidence
from art_jax.data.passages import Passage, make_passage_parser, read_passages
from art_jax.errors import DataError
from art_jax.methods.workspace import RETRIEVER


def read_corpus(path: pathlib.Path, *, is_beir: bool) -> Iterator[Passage]:
    """Yields the passages of a file.

    Args:
        path: as `read_passages` reads it.
        is_beir: leave out passages without title and text, which some of BEIR's
            corpora have, and let others have a title alone; elsewhere either is an
            error. How many were left out is said.
    """
    if not is_beir:
        yield from read_passages(path)
        return
    parse = make_passage_parser(path)
    left_out = []
    for number, line in text_files.read_raw_lines(path):
        passage = parse(text_files.decode_line(line, path, number), number)
        if passage is None:
            continue
        if text_files.is_visible(passage.text) or text_files.is_visible(passage.title):
            yield passage
        else:
            left_out.append(passage.passage_id)
    if left_out:
        sys.stderr.write(
            f"{path}: {len(left_out)} passages are empty and cannot be found, such as "
            f"{left_out[0]!r}\n"
        )


def open_evidence(
    path: pathlib.Path, output_dir: pathlib.Path, *, is_beir: bool
) -> EvidenceStore:
    """The evidence store of a passage file, built where there is none; no tokens.

    Raises:
        DataError: the file breaks a rule of passages.
        CorruptError: the store that is there is damaged.
    """
    return _open_store(path, _folder(path, output_dir, is_beir), {}, is_beir)


def embed_corpus(
    run: pathlib.Path, path: pathlib.Path, output_dir: pathlib.Path, *, is_beir: bool
) -> pathlib.Path:
    """A folder with a run's retriever and its index of a passage file.

    It is embedded where it is not there yet; after a kill it goes on where it was.

    Raises:
        ConfigError: the run holds no retriever.
        DataError, CorruptError: as `open_evidence`.
    """
    source = find_retriever(run)
    folder = _folder(path, output_dir, is_beir, source)
    if (folder / "index").exists():
        return folder
    from art_jax.cli import embed

    model = load_retriever(source, partitioning.make_mesh())
    _open_store(path, folder, {RETRIEVER: model.tokenizer}, is_beir)
    save_retriever(folder / "retriever", model)
    options = argparse.Namespace(
        run=folder, passages=None, output_dir=None, dtype="bfloat16"
    )
    with contextlib.redirect_stdout(sys.stderr):
        embed.run(options)
    return folder


def _open_store(
    path: pathlib.Path, folder: pathlib.Path, tokenizers: dict, is_beir: bool
) -> EvidenceStore:
    directory = folder / "evidence"
    if directory.exists() and any(directory.iterdir()):
        return load_evidence(directory, tokenizers, verify=True)
    folder.mkdir(parents=True, exist_ok=True)
    return build_evidence(
        read_corpus(path, is_beir=is_beir),
        directory,
        tokenizers,
        allow_empty_text=is_beir,
    )


def _folder(
    path: pathlib.Path,
    output_dir: pathlib.Path,
    is_beir: bool,
    retriever: pathlib.Path | None = None,
) -> pathlib.Path:
    """Where what is made of a passage file lies."""
    try:
        identity = [manifest.file_sha256(path), is_beir]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", path) from error
    if retriever is not None:
        identity.append(manifest.read_manifest(retriever)["files"])
    text = json.dumps(identity, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = path.parent.name if is_beir else path.name.partition(".")[0]
    return output_dir / "corpora" / f"{name}-{key}"
