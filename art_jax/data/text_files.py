"""Text files read line by line, plain or gzipped, with the line number of every fault.

Lines end at a line feed alone, so a form feed or U+2028 inside a passage never splits
a row; a carriage return before the line feed belongs to the line end. A byte order
mark is dropped, and so are empty lines at the end of a file.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from art_jax import atomic
from art_jax.errors import ConfigError, DataError

# Longer lines are binary files or whole corpora on one line.
MAX_LINE_BYTES = 1 << 28

_COMPRESSIONS = {
    b"PK\x03\x04": "zip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
# Between two lines that hold something (more than a byte order mark), so that empty
# lines at the end of a range are at the end of the file.
_RANGE_END = re.compile(rb"[^\r\n\xbf]\r?\n(?=[^\r\n])")


@dataclasses.dataclass(frozen=True, slots=True)
class LineRange:
    """Some lines of a file, one after the other.

    start, end: bytes of the file; `end` is None where the range goes to the end.
    first_line: the 1-based number of the line that begins at `start`.
    """

    start: int = 0
    end: int | None = None
    first_line: int = 1


def file_format(path: str | os.PathLike, formats: tuple[str, ...]) -> str:
    """The format that a file's name says, `.gz` aside; by its first line if none does.

    Args:
        path: the file.
        formats: suffixes that are known, such as (".tsv", ".jsonl", ".txt").

    Raises:
        DataError: neither the name nor the first line tells.
    """
    suffixes = [suffix.lower() for suffix in pathlib.Path(path).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    if suffixes and suffixes[-1] in formats:
        return suffixes[-1]
    first = next((line for _, line in read_raw_lines(path)), b"").lstrip()
    if first.startswith(b"{") and ".jsonl" in formats:
        return ".jsonl"
    if b"\t" in first and ".tsv" in formats:
        return ".tsv"
    raise DataError(
        f"the name does not say the format. Rename it to end in one of "
        f"{', '.join(formats)}, with .gz behind it where it is compressed.",
        path,
    )


def read_raw_lines(
    path: str | os.PathLike, lines: LineRange | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yields (1-based line number, bytes without the line end) of a file.

    Args:
        path: of the file.
        lines: which of them, as `split_lines` gives them; None: all.

    Raises:
        DataError: the file cannot be read, is compressed other than by gzip, is
            damaged or truncated, is UTF-16, or has a line over `MAX_LINE_BYTES`.
    """
    lines = lines or LineRange()
    number, empty_lines, place = lines.first_line - 1, 0, lines.start
    with open_binary(path) as file:
        if lines.start:
            file.seek(lines.start)
        while lines.end is None or place < lines.end:
            try:
                line = file.readline(MAX_LINE_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(
                    f"the gzip stream is damaged or cut off after this line ({error}). "
                    "Fetch the file again.",
                    path,
                    number or None,
                ) from error
            if not line:
                return
            number += 1
            place += len(line)
            if len(line) == MAX_LINE_BYTES:
                raise DataError(
                    f"the line is longer than {MAX_LINE_BYTES} bytes: is this a text "
                    "file with one record a line?",
                    path,
                    number,
                )
            if number == 1:
                line = _without_mark(line, path)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line:
                empty_lines += 1
                continue
            for back in range(empty_lines, 0, -1):
                yield number - back, b""
            empty_lines = 0
            yield number, line


def split_lines(path: str | os.PathLike, range_bytes: int) -> list[LineRange]:
    """Ranges of about `range_bytes` that together hold every line of a file.

    Reads the file once, to count lines. Reading the ranges in order gives what reading
    the file gives, line numbers included.

    Raises:
        ConfigError: the file is gzipped, which cannot be read from the middle.
        DataError: it cannot be read.
    """
    ranges, start, first_line = [], 0, 1
    with open_binary(path) as file:
        if isinstance(file, gzip.GzipFile):
            raise ConfigError(
                f"{path} is gzipped, so it cannot be read from several places at "
                "once. Unpack it first (gunzip --keep), or read it in one piece."
            )
        block = b""
        while more := file.read(range_bytes):
            block += more
            end = _RANGE_END.search(block, max(range_bytes - 2, 0))
            if end is not None:
                ranges.append(LineRange(start, start + end.end(), first_line))
                start += end.end()
                first_line += block.count(b"\n", 0, end.end())
                block = block[end.end() :]
            elif len(block) > range_bytes + MAX_LINE_BYTES:
                # A line is too long; whoever reads it says which.
                return [*ranges, LineRange(start, None, first_line)]
    if block or not ranges:
        ranges.append(LineRange(start, start + len(block), first_line))
    return ranges


def split_content(content: bytes, path: str | os.PathLike) -> list[bytes]:
    """The lines of a small file, without line ends and byte order mark.

    Raises:
        DataError: the file is UTF-16.
    """
    lines = _without_mark(content, path).split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


def decode_line(line: bytes, path: str | os.PathLike, number: int) -> str:
    """The text of a line.

    Raises:
        DataError: the line is not UTF-8 or holds a NUL character.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not "
            "UTF-8. Convert the file, e.g. iconv -f latin1 -t utf-8.",
            path,
            number,
        ) from error
    if "\0" in text:
        raise DataError(
            "the line holds a NUL character. Text files have none: is it binary, or "
            "UTF-16 without a byte order mark?",
            path,
            number,
        )
    return text


def parse_json_object(
    line: str, path: str | os.PathLike, number: int
) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        DataError: the line is not one JSON object, names a key twice, holds NaN or
            an infinity (which JSON has not), or text that is no Unicode.
    """
    try:
        record = json_decoder(path, number).decode(line)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        # json raises a bare ValueError for a number of thousands of digits.
        raise DataError(
            f"not JSON: {error}. Write one JSON object a line.", path, number
        ) from error
    return checked_object(record, path, number)


def json_decoder(path: str | os.PathLike, number: int) -> json.JSONDecoder:
    """A decoder that raises DataError where JSON would be read more kindly than told.

    Raises:
        DataError: by the decoder, where a key is named twice, or for NaN and infinity,
            which JSON has not.
    """

    def unique_keys(pairs):
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"the key {twice!r} is given twice. Keep one of them.", path, number
            )
        return record

    def no_constant(name):
        raise DataError(
            f"{name} is not JSON. Write null, or leave the key out.", path, number
        )

    return json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=no_constant)


def checked_object(record: Any, path: str | os.PathLike, number: int) -> dict[str, Any]:
    """A JSON value, if it is an object.

    Raises:
        DataError: it is not.
    """
    if not isinstance(record, dict):
        raise DataError(
            f"a JSON object is needed, not {_json_type(record)}: write {{...}}.",
            path,
            number,
        )
    return record


def json_objects(
    record: dict[str, Any], key: str, path: str | os.PathLike, number: int
) -> list[dict[str, Any]]:
    """The objects of a list under one key; none where it is null or not there.

    Raises:
        DataError: the value is no list of objects.
    """
    values = record.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
        raise DataError(f"{key!r} must be a list of objects.", path, number)
    return values


def json_text(
    record: dict[str, Any], key: str, path: str | os.PathLike, number: int
) -> str:
    """The text of one key of a JSON object; "" where it is null or not there.

    Raises:
        DataError: the value is not a string, or is one that UTF-8 cannot hold.
    """
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{key!r} is {_json_type(value)}; it must be a string.", path, number
        )
    return checked_text(value, key, path, number)


def json_id(
    record: dict[str, Any],
    keys: tuple[str, ...],
    path: str | os.PathLike,
    number: int,
) -> str | None:
    """The id of a JSON object, under the first of `keys` that it has; None if none.

    A whole number counts as its decimal digits.

    Raises:
        DataError: the value is neither a string nor a whole number.
    """
    key = next((key for key in keys if key in record), None)
    if key is None:
        return None
    value = record[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    return json_text(record, key, path, number)


def checked_text(
    value: str, name: str, path: str | os.PathLike | None, number: int | None
) -> str:
    r"""The text itself, if it can be written as UTF-8 and has no NUL character.

    JSON can smuggle in both: `"\ud800"`, `"\u0000"`.

    Raises:
        DataError: it cannot, or it has.
    """
    if "\0" in value:
        raise DataError(f"{name!r} holds a NUL character. Remove it.", path, number)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{name!r} holds half of a surrogate pair "
                f"(U+{ord(value[error.start]):04X}), which is no character. Remove it.",
                path,
                number,
            ) from error
    return value


def is_visible(text: str) -> bool:
    """True where a text has any character that is seen when printed.

    White space, control characters, zero-width and private-use characters are not;
    a tokeniser drops all of them.
    """
    return any(letter.isprintable() and not letter.isspace() for letter in text)


def check_first_use(
    path: str | os.PathLike,
    parse: Callable[[str, int], Any],
    kind: str,
    given_id: str,
    number: int,
) -> None:
    """Reads the file again up to line `number` and raises if the id was used before.

    The set of seen ids keeps hashes alone; this tells a true repetition from two ids
    of equal hash, and where the first use was.

    Args:
        path: of the file.
        parse: (line, number) -> a row, or None for a header.
        kind: of its rows, "passage" or "question"; the row's `<kind>_id` is its id.
        given_id: that seems to be given twice.
        number: of the line where it was seen now.

    Raises:
        DataError: naming both lines.
    """
    for earlier, line in read_raw_lines(path):
        if earlier >= number:
            return
        row = parse(decode_line(line, path, earlier), earlier)
        if row is not None and getattr(row, f"{kind}_id") == given_id:
            raise DataError(
                f"the id {given_id!r} is given twice, first on line {earlier}. "
                f"Each {kind} needs its own.",
                path,
                number,
            )


def copy_unpacked(path: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies a file, unpacked where it is gzipped; `target` appears when it is whole.

    Raises:
        DataError: the file cannot be read, or is damaged or cut off.
    """
    with open_binary(path) as file, atomic.new_file(target) as copy:
        try:
            shutil.copyfileobj(file, copy, 1 << 20)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"the gzip stream is damaged or cut off ({error}). Fetch the file "
                "again.",
                path,
            ) from error


def is_gzipped(path: str | os.PathLike) -> bool:
    """Whether a file's content is compressed by gzip, whatever its name says."""
    with open_binary(path) as file:
        return isinstance(file, gzip.GzipFile)


@contextlib.contextmanager
def open_new_text(path: str | os.PathLike) -> Iterator[IO[str]]:
    """Opens a text file that appears at `path`, whole, when the block has succeeded.

    UTF-8, line feeds; gzipped where the name ends in `.gz`, the same bytes each time.
    """
    with open_new_binary(path) as file, _text_writer(file) as writer:
        yield writer


@contextlib.contextmanager
def open_new_binary(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens a file as `open_new_text` does, for bytes."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(atomic.new_file(path))
        if os.fspath(path).lower().endswith(".gz"):
            # No name and no time in the header: same rows, same bytes.
            inner = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
            file = stack.enter_context(inner)
        yield file


@contextlib.contextmanager
def _text_writer(file: IO[bytes]) -> Iterator[IO[str]]:
    writer = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    yield writer
    writer.flush()
    writer.detach()


@contextlib.contextmanager
def open_binary(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens a file for reading its uncompressed bytes, whatever its name says."""
    try:
        raw = open(path, "rb")  # noqa: SIM115 (closed below, whichever way it goes)
    except FileNotFoundError as error:
        raise DataError("there is no such file. Check the path.", path) from error
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}.", path) from error
    with raw:
        start = raw.peek(10)
        for magic, name in _COMPRESSIONS.items():
            if start.startswith(magic):
                raise DataError(
                    f"is compressed with {name}, which is not read here. Decompress "
                    "it, or compress it with gzip.",
                    path,
                )
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield unzipped
        else:
            yield raw


def _without_mark(line: bytes, path: str | os.PathLike) -> bytes:
    if line.startswith(_UTF16_MARKS):
        raise DataError(
            "the file is UTF-16. Convert it, e.g. iconv -f utf-16 -t utf-8.", path, 1
        )
    return line.removeprefix(_UTF8_MARK)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
