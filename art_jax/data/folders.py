"""Folders of text and Markdown files, cut into passages.

A passage's id is its file's path in the folder and its number in the file, such as
`guide/install.md#2`. Its title is the headings it stands under, or the file's name
where there are none. Passages do not cross headings.
"""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from art_jax.data import text_files
from art_jax.data.passages import Passage
from art_jax.data.splitting import Paragraph, split_paragraphs
from art_jax.errors import ConfigError, DataError

MARKDOWN_SUFFIXES = (".md", ".markdown")
TEXT_SUFFIXES = (*MARKDOWN_SUFFIXES, ".txt", ".text", ".rst")

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
# What a line of "-" underneath separates from what follows, and makes no heading.
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[>|]|[-*+] |\d+[.)] |`{3}|~{3})| {4}|\t|\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER_END = re.compile(r"(?:---|\.\.\.)[ \t]*")
_TITLE_SEPARATOR = " > "


def list_files(
    folder: str | os.PathLike, suffixes: Sequence[str] = TEXT_SUFFIXES
) -> tuple[list[str], collections.Counter[str]]:
    """The text files under a folder, and how many others there are, by kind.

    Args:
        folder: searched to the bottom; links to folders are not followed.
        suffixes: of text files, lower-case.

    Returns:
        Paths in the folder with "/", in order of their parts, and a count of what was
        left out: "hidden" for names that begin with "." (all that is in such a folder
        counts once), or the suffix of the file.

    Raises:
        ConfigError: the folder holds no text file.
    """
    found, skipped = [], collections.Counter()
    for place, folders, names in os.walk(folder):
        hidden = [name for name in folders + names if name.startswith(".")]
        skipped["hidden"] += len(hidden)
        folders[:] = sorted(set(folders).difference(hidden))
        for name in set(names).difference(hidden):
            path = pathlib.Path(place, name)
            suffix = path.suffix.lower()
            if suffix in suffixes:
                found.append(path.relative_to(folder))
            else:
                skipped[suffix or "without a suffix"] += 1
    if not found:
        raise ConfigError(
            f"{folder} holds no text file: none of its files ends in "
            f"{', '.join(suffixes)}."
        )
    return [path.as_posix() for path in sorted(found)], +skipped


def document_passages(
    folder: str | os.PathLike,
    name: str,
    *,
    max_tokens: int = 100,
    skipped: collections.Counter[str] | None = None,
) -> Iterator[Passage]:
    """Yields the passages of one file, whole sentences of at most `max_tokens`.

    Args:
        folder: it is in.
        name: its path there, with "/".
        max_tokens: see `splitting.split_paragraphs`.
        skipped: counts files that give no passage, as "binary" or "without text".

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    skipped = collections.Counter() if skipped is None else skipped
    path = pathlib.Path(folder, name)
    text = _read_text(path)
    if text is None:
        skipped["binary"] += 1
        return
    lines = text.split("\n")
    is_markdown = path.suffix.lower() in MARKDOWN_SUFFIXES
    sections = _markdown_sections(lines) if is_markdown else iter([((), lines)])
    paragraphs, titles = [], []
    for headings, section_lines in sections:
        title = _TITLE_SEPARATOR.join(filter(None, headings)) or path.stem
        for block in _blocks(section_lines):
            paragraphs.append(Paragraph(len(paragraphs), len(titles), block))
        titles.append(title)
    number = -1
    for number, piece in enumerate(split_paragraphs(paragraphs, max_tokens)):
        yield Passage(f"{name}#{number}", piece.text, titles[piece.section])
    if number < 0:
        skipped["without text"] += 1


def _read_text(path: pathlib.Path) -> str | None:
    """The text of a file; None where it is binary, which a NUL byte tells."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", path) from error
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    lines = text_files.split_content(content, path)
    return "\n".join(
        text_files.decode_line(line, path, number)
        for number, line in enumerate(lines, 1)
    )


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    """Yields the paragraphs, which empty lines separate."""
    for has_text, block in itertools.groupby(lines, text_files.is_visible):
        if has_text:
            yield "\n".join(block)


def _markdown_sections(
    lines: Sequence[str],
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yields the headings over each part of a document, outermost first, and its lines.

    Headings are lines that begin with "#" or are underlined by "=" or "-". In fenced
    code nothing is a heading. What stands between "---" at the very top is left out.
    """
    lines = lines[_front_matter_lines(lines) :]
    headings: dict[int, str] = {}
    kept: list[str] = []
    fence = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            is_end = mark and mark[1].startswith(fence) and line.strip() == mark[1]
            fence = "" if is_end else fence
            kept.append(line)
            continue
        heading = None
        if mark:
            fence = mark[1]
        elif match := _HEADING.fullmatch(line):
            heading = len(match[1]), match[2] or "", kept
        elif (match := _UNDERLINE.fullmatch(line)) and _is_paragraph(kept[-1:]):
            heading = 1 if match[1][0] == "=" else 2, kept[-1].strip(), kept[:-1]
        if heading is None:
            kept.append(line)
            continue
        level, text, above = heading
        yield tuple(headings.values()), above
        headings = {at: name for at, name in headings.items() if at < level}
        headings[level] = text.strip()
        kept = []
    yield tuple(headings.values()), kept


def _is_paragraph(lines: Sequence[str]) -> bool:
    return any(not _NO_PARAGRAPH.match(line) for line in lines)


def _front_matter_lines(lines: Sequence[str]) -> int:
    """How many lines at the top are front matter, which begins and ends in "---"."""
    if not lines or lines[0].rstrip() != "---":
        return 0
    for number, line in enumerate(lines[1:], 2):
        if _FRONT_MATTER_END.fullmatch(line):
            return number
    return 0
