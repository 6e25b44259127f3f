"""Files of JSON objects: one a line, or in one array or object, never held whole."""

import codecs
import gzip
import os
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.errors import DataError

_CHUNK_BYTES = 1 << 20
_PEEKED_BYTES = 1 << 16
_SPACE = " \t\r\n"
# An error this near the end of what was read may be that of a token cut in two.
_CUT_CHARACTERS = 16


def read_json_records(
    path: str | os.PathLike,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line where it starts, object) of a file of JSON objects.

    Args:
        path: a JSON array of objects, as DPR, FiD and AmbigQA publish theirs, or one
            object a line; plain or gzipped. Which of them, the first character tells.

    Raises:
        DataError: naming file and line, where it is neither, is not UTF-8, is damaged
            or cut off, or holds no object; or as `text_files.parse_json_object`.
    """
    records = _read_array if first_character(path) == "[" else _read_lines
    is_empty = True
    for number, record in records(path):
        is_empty = False
        yield number, record
    if is_empty:
        raise DataError("the file holds no JSON object.", path)


def first_json_record(path: str | os.PathLike) -> dict[str, Any]:
    """The first object that `read_json_records` gives."""
    _, record = next(read_json_records(path))
    return record


def first_character(path: str | os.PathLike) -> str:
    """A file's first that is no space; "" where a reader will say what is wrong."""
    with text_files.open_binary(path) as file:
        try:
            start = file.read(_PEEKED_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return ""
    return start.decode("utf-8-sig", errors="replace").lstrip(_SPACE)[:1]


def _read_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in text_files.read_raw_lines(path):
        text = text_files.decode_line(line, path, number)
        if text.strip():
            yield number, text_files.parse_json_object(text, path, number)


def read_json_entries(
    path: str | os.PathLike,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (line where it starts, key, object) of one JSON object of objects.

    Raises:
        DataError: as `read_json_records`, or a key comes twice.
    """
    text = _Text(path)
    seen = set()
    for _ in _items(text, "{", "}"):
        number, key = text.line, text.decode()
        if not isinstance(key, str):
            text.fail(f"a key in double quotes is needed, not {key!r}.")
        if key in seen:
            text.fail(f"the key {key!r} is given twice. Keep one of them.")
        seen.add(key)
        text.skip(":")
        yield number, key, text_files.checked_object(text.decode(), path, number)
    text.end()
    if not seen:
        raise DataError("the file holds no JSON object.", path)


def read_json_member(
    path: str | os.PathLike, key: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line where it starts, object) of the array under a key of one object.

    Such as `{"version": "1.1", "data": [...]}`. What stands under other keys is read
    over.

    Raises:
        DataError: as `read_json_records`, or the key is missing.
    """
    text = _Text(path)
    was_found = False
    for _ in _items(text, "{", "}"):
        name = text.decode()
        text.skip(":")
        if name != key:
            text.decode()
            continue
        was_found = True
        yield from _read_items(text)
    text.end()
    if not was_found:
        raise DataError(f"the file is no JSON object with {key!r}, a list.", path)


def read_json_columns(
    path: str | os.PathLike, names: Collection[str]
) -> dict[str, dict[str, Any]]:
    """The columns of a table that is one object of objects, by name and row.

    Such as `{"query": {"0": "who?", ...}, "answers": {"0": [...], ...}, ...}`, as
    pandas writes them and MS MARCO publishes its. Other columns are read over.

    Raises:
        DataError: as `read_json_records`, or a column is missing.
    """
    text = _Text(path)
    columns: dict[str, dict[str, Any]] = {}
    for _ in _items(text, "{", "}"):
        name = text.decode()
        text.skip(":")
        column = columns.setdefault(name, {}) if name in names else {}
        for _ in _items(text, "{", "}"):
            row = text.decode()
            text.skip(":")
            value = text.decode()
            if name in names:
                column[row] = value
    text.end()
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"the file has no column {missing[0]!r}.", path)
    return columns


def _read_array(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _Text(path)
    yield from _read_items(text)
    text.end()


def _read_items(text: "_Text") -> Iterator[tuple[int, dict[str, Any]]]:
    for _ in _items(text, "[", "]"):
        number = text.line
        yield number, text_files.checked_object(text.decode(), text.path, number)


def _items(text: "_Text", opening: str, closing: str) -> Iterator[None]:
    """Goes from item to item of an array or object; the caller reads each."""
    text.skip(opening)
    while text.peek() != closing:
        yield
        if text.peek() == ",":
            text.skip(",")
            if text.peek() == closing:
                text.fail("there is a comma behind the last item. Remove it.")
        elif text.peek() != closing:
            text.fail(f"',' or {closing!r} must follow, not {text.peek()!r}.")
    text.skip(closing)


class _Text:
    """A file's text, read piece by piece as it is used up.

    path: of the file.
    line: the line that the next character stands on, from 1.
    """

    def __init__(self, path: str | os.PathLike):
        self.line = 1
        self.path = path
        self._pieces = self._read()
        self._text, self._place, self._is_whole = "", 0, False

    def fail(self, message: str):
        """Raises DataError at this line."""
        raise DataError(message, self.path, self.line)

    def peek(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            while self._place < len(self._text):
                letter = self._text[self._place]
                if letter not in _SPACE:
                    return letter
                self._advance(self._place + 1)
            if not self._more():
                return ""

    def end(self) -> None:
        """Raises DataError where anything but spaces is left."""
        if self.peek():
            self.fail(f"{self.peek()!r} stands behind what is the file's whole.")

    def skip(self, letter: str) -> None:
        """Goes past a character that `peek` gave."""
        if self.peek() != letter:
            self.fail(f"{letter!r} is needed, not {self.peek()!r}.")
        self._advance(self._place + 1)

    def decode(self) -> Any:
        """The value that starts at the next character."""
        if not self.peek():
            self.fail("the file is cut off here. Fetch it again.")
        decoder = text_files.json_decoder(self.path, self.line)
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
                break
            except DataError:
                raise
            except (ValueError, RecursionError) as error:
                if not self._may_be_cut(error) or not self._more():
                    self.fail(f"not JSON: {error}.")
        self._advance(end)
        return value

    def _may_be_cut(self, error: Exception) -> bool:
        place = getattr(error, "pos", None)
        if place is None:
            return False
        is_open = str(error).startswith("Unterminated string")
        return is_open or place >= len(self._text) - _CUT_CHARACTERS

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _more(self) -> bool:
        """Reads on; False at the end of the file."""
        piece = next(self._pieces, "")
        self._text, self._place = self._text[self._place :] + piece, 0
        if len(self._text) > text_files.MAX_LINE_BYTES:
            self.fail(
                f"an object is longer than {text_files.MAX_LINE_BYTES} characters: is "
                "this a list of records?"
            )
        return bool(piece)

    def _read(self) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        with text_files.open_binary(self.path) as file:
            while True:
                try:
                    piece = file.read(_CHUNK_BYTES)
                    text = decode(piece, final=not piece)
                except UnicodeDecodeError as error:
                    self.fail(f"the text after this line is not UTF-8 ({error}).")
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    self.fail(f"the gzip stream is damaged or cut off ({error}).")
                if not piece:
                    return
                if "\0" in text:
                    self.fail("a NUL character stands after this line.")
                if text:
                    yield text
