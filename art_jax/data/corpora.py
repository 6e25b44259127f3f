"""Where passages come from: five kinds of files and folders, told by their content.

- `passages`: a passage file as `read_passages` reads it, such as psgs_w100.tsv.
- `beir`: a folder with `corpus.jsonl`, plain or gzipped; titles may stand without text.
- `msmarco`: MS MARCO's `collection.tsv`: number, tab, text as it is, quotes included.
- `kilt`: KILT's knowledge source, cut into passages (`kilt_pages`).
- `folder`: text and Markdown files, cut into passages (`folders`).

A corpus can be read whole, or in parts that are read independently, in any process:
together they give the same passages in the same order.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

from art_jax.data import folders, kilt_pages, text_files
from art_jax.data.passages import Passage, check_passage, make_passage_parser
from art_jax.data.text_files import LineRange
from art_jax.errors import ConfigError, DataError

FORMATS = ("passages", "beir", "msmarco", "kilt", "folder")

_BEIR_FILES = ("corpus.jsonl", "corpus.jsonl.gz")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Passages that lie somewhere.

    path: of the file, or of the folder of texts.
    format: one of `FORMATS` but "beir", whose corpus is a passage file.
    max_tokens: of a passage, where the format needs cutting.
    suffixes: of text files in a folder.
    allow_empty_text: let a passage have a title and no text.
    """

    path: str
    format: str
    max_tokens: int = 100
    suffixes: tuple[str, ...] = folders.TEXT_SUFFIXES
    allow_empty_text: bool = False


@dataclasses.dataclass(frozen=True)
class CorpusPart:
    """What one process reads of a corpus.

    lines: of the file, or None where the corpus is a folder.
    names: of the folder's files.
    num_bytes: how much there is to read, to say how far one is; 0 where unknown.
    """

    lines: LineRange | None = None
    names: tuple[str, ...] = ()
    num_bytes: int = 0


def find_corpus(
    path: str | os.PathLike,
    format: str | None = None,
    *,
    max_tokens: int = 100,
    suffixes: Iterable[str] = folders.TEXT_SUFFIXES,
    allow_empty_text: bool = False,
) -> Corpus:
    """Returns what is at a path.

    Args:
        path: of a file or folder.
        format: one of `FORMATS`; None tells by content: a folder with a corpus.jsonl
            is BEIR's, any other one of texts; a file whose first line is a page is
            KILT's; a `.tsv` whose first row has two columns, the first "0", is
            MS MARCO's; any other holds passages.
        max_tokens: as in `Corpus`.
        suffixes: as in `Corpus`.
        allow_empty_text: as in `Corpus`; always so for BEIR.

    Raises:
        ConfigError: `format` is another word, `path` is a folder where the format
            wants a file or the other way round, or `max_tokens` is below 1.
        DataError: there is nothing at `path`, or it cannot be read.
    """
    path = pathlib.Path(path)
    if format is not None and format not in FORMATS:
        raise ConfigError(
            f"the format {format!r} is not known: choose one of {', '.join(FORMATS)}."
        )
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}; a passage needs at least 1.")
    if not path.exists():
        raise DataError("there is no such file or folder. Check the path.", path)
    format = format or _tell_format(path)
    if path.is_dir() != (format in ("beir", "folder")):
        wanted = "folder" if path.is_file() else "file"
        raise ConfigError(f"{path}: the format {format!r} needs a {wanted}.")
    if format == "beir":
        path, format, allow_empty_text = _beir_file(path), "passages", True
    return Corpus(str(path), format, max_tokens, tuple(suffixes), allow_empty_text)


def read_corpus(
    corpus: Corpus, *, skipped: collections.Counter[str] | None = None
) -> Iterator[Passage]:
    """Yields all passages of a corpus, in order; whether ids differ is not checked.

    Args:
        corpus: from `find_corpus`.
        skipped: counts files of a folder that give no passage, by reason.

    Raises:
        DataError: naming file and line, where something breaks its format or a
            passage is empty.
        ConfigError: a folder holds no text file.
    """
    if corpus.format == "folder":
        names, others = folders.list_files(corpus.path, corpus.suffixes)
        if skipped is not None:
            skipped += others
        part = CorpusPart(names=tuple(names))
    else:
        part = CorpusPart(lines=LineRange())
    return read_part(corpus, part, skipped=skipped)


def split_corpus(
    corpus: Corpus,
    part_bytes: int,
    *,
    skipped: collections.Counter[str] | None = None,
) -> list[CorpusPart]:
    """Parts of about `part_bytes` that together are the corpus, in order.

    Raises:
        ConfigError: the file is gzipped, which cannot be read from the middle; or a
            folder holds no text file.
        DataError: it cannot be read.
    """
    if corpus.format != "folder":
        return [
            CorpusPart(lines, num_bytes=(lines.end or lines.start) - lines.start)
            for lines in text_files.split_lines(corpus.path, part_bytes)
        ]
    names, others = folders.list_files(corpus.path, corpus.suffixes)
    if skipped is not None:
        skipped += others
    sizes = [pathlib.Path(corpus.path, name).stat().st_size for name in names]
    places = [end // part_bytes for end in itertools.accumulate(sizes)]
    parts = itertools.groupby(
        zip(places, names, sizes, strict=True), lambda row: row[0]
    )
    return [
        CorpusPart(
            names=tuple(name for _, name, _ in rows),
            num_bytes=sum(size for _, _, size in rows),
        )
        for rows in (list(part) for _, part in parts)
    ]


def read_part(
    corpus: Corpus,
    part: CorpusPart,
    *,
    skipped: collections.Counter[str] | None = None,
) -> Iterator[Passage]:
    """Yields the passages of a part, as `read_corpus` those of all parts."""
    if part.lines is None:
        for name in part.names:
            yield from folders.document_passages(
                corpus.path, name, max_tokens=corpus.max_tokens, skipped=skipped
            )
        return
    path, parse = corpus.path, _make_line_parser(corpus, part.lines)
    for number, line in text_files.read_raw_lines(path, part.lines):
        for passage in parse(text_files.decode_line(line, path, number), number):
            check_passage(
                passage, path, number, allow_empty_text=corpus.allow_empty_text
            )
            yield passage


def _make_line_parser(
    corpus: Corpus, lines: LineRange
) -> Callable[[str, int], Iterable[Passage]]:
    """Returns `parse(line, number)`, which gives the passages of a line."""
    path = corpus.path
    if corpus.format == "kilt":

        def parse_page(line: str, number: int) -> Iterable[Passage]:
            record = text_files.parse_json_object(line, path, number)
            return kilt_pages.page_passages(
                record, path, number, max_tokens=corpus.max_tokens
            )

        return parse_page
    if corpus.format == "msmarco":
        return lambda line, number: [_parse_msmarco(line, path, number)]
    parse = make_passage_parser(path)
    if lines.first_line > 1:
        # The first row says which columns there are.
        number, line = next(text_files.read_raw_lines(path))
        parse(text_files.decode_line(line, path, number), number)

    def parse_passage(line: str, number: int) -> Iterable[Passage]:
        passage = parse(line, number)
        return [] if passage is None else [passage]

    return parse_passage


def _parse_msmarco(line: str, path: str, number: int) -> Passage:
    passage_id, tab, text = line.partition("\t")
    if not tab or "\t" in text:
        raise DataError(
            f"{line.count(chr(9)) + 1} tab-separated columns; MS MARCO's collection "
            "has two: a passage's number and its text.",
            path,
            number,
        )
    return Passage(passage_id, text)


def _tell_format(path: pathlib.Path) -> str:
    if path.is_dir():
        is_beir = any((path / name).is_file() for name in _BEIR_FILES)
        return "beir" if is_beir else "folder"
    number, line = next(text_files.read_raw_lines(path), (1, b""))
    if line.lstrip().startswith(b"{"):
        text = text_files.decode_line(line, path, number)
        record = text_files.parse_json_object(text, path, number)
        return "kilt" if kilt_pages.is_page(record) else "passages"
    is_tsv = [suffix for suffix in path.suffixes if suffix != ".gz"][-1:] == [".tsv"]
    is_collection = is_tsv and line.startswith(b"0\t") and line.count(b"\t") == 1
    return "msmarco" if is_collection else "passages"


def _beir_file(folder: pathlib.Path) -> pathlib.Path:
    for name in _BEIR_FILES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"holds no {_BEIR_FILES[0]}, as a folder of BEIR's does.", folder)
