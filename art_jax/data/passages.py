r"""Passages, and the files that hold them.

Three formats, each also gzipped (told by content, not by name):

- `.tsv`, as DPR and ART publish them: `id<TAB>text[<TAB>title]`, with or without a
  header row, which may also give the columns in another order. A field may be quoted:
  it starts with `"`, inner quotes are doubled, and the closing `"` stands before a tab
  or the line end. One line is one passage: a quote that does not close on its line is
  an ordinary character, so a stray quote never swallows the rows behind it.
- `.jsonl`, as in BEIR: `{"_id": ..., "title": ..., "text": ...}`, one object a line.
- `.txt`: one passage a line; its id is its line number.

Readers stream: they hold one passage, and what tells a repeated id.
"""

import array
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Set

from art_jax.data import text_files
from art_jax.errors import ConfigError, DataError

FORMATS = (".tsv", ".jsonl", ".txt")

_QUOTED_FIELD = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"(?=\t|$)')
_NEEDS_QUOTES = re.compile(r'["\t\r]')
_JSON_ID_KEYS = ("_id", "id")
_COLUMNS = ("id", "text", "title")


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text to search for.

    passage_id: its id in the corpus file, unique there.
    text: what is searched and shown.
    title: of the document it was cut from; "" where there is none.
    """

    passage_id: str
    text: str
    title: str = ""


def read_passages(
    path: str | os.PathLike, *, allow_empty_text: bool = False
) -> Iterator[Passage]:
    """Yields the passages of a file, in order.

    Args:
        path: a `.tsv`, `.jsonl` or `.txt` file, plain or gzipped; with another name,
            the first line tells the format.
        allow_empty_text: let a passage have a title and no text, as some BEIR
            corpora do; otherwise that is an error, since little can find it.

    Raises:
        DataError: naming file and line, where a row breaks its format, the text is
            not UTF-8, an id is empty or given twice, or a passage is empty; or where
            the file holds no passage at all.
    """
    parse = make_passage_parser(path)
    seen_ids = SeenIds()
    is_empty_file = True
    for number, line in text_files.read_raw_lines(path):
        passage = parse(text_files.decode_line(line, path, number), number)
        if passage is None:
            continue
        is_empty_file = False
        check_passage(passage, path, number, allow_empty_text=allow_empty_text)
        if not seen_ids.add(passage.passage_id):
            text_files.check_first_use(
                path, make_passage_parser(path), "passage", passage.passage_id, number
            )
        yield passage
    if is_empty_file:
        raise DataError("the file holds no passages. Give at least one.", path)


def select_passages(
    passages: Iterable[Passage],
    ids: Set[str],
    *,
    source: str = "among those given",
    path: str | os.PathLike | None = None,
) -> dict[str, Passage]:
    """The passages of some ids of a ranking, by their ids.

    Args:
        passages: of a corpus; read once, and few of many are held.
        ids: of passages.
        source: where they must be, in words, for the error.
        path: the file that the error is of.

    Raises:
        DataError: one is not there.
    """
    found = {one.passage_id: one for one in passages if one.passage_id in ids}
    missing = ids - found.keys()
    if missing:
        raise DataError(
            f"{len(missing)} passages of the run are not {source}, such as "
            f"{min(missing)!r}: it is of another corpus.",
            path,
        )
    return found


def write_passages(path: str | os.PathLike, passages: Iterable[Passage]) -> int:
    """Writes passages in the format that the name says and returns how many.

    What is written reads back equal. The file appears only when it is whole.

    Args:
        path: ends in `.tsv`, `.jsonl` or `.txt`, with `.gz` behind it to compress.
        passages: with unique ids, and a text or a title each; for `.txt`, with ids
            "1", "2", ... and no titles.

    Raises:
        ConfigError: the name says none of the formats.
        DataError: a passage breaks a rule, or holds a line break that the format
            cannot hold (`.jsonl` holds everything).
    """
    header, format_line = line_format(path)
    seen_ids = SeenIds()
    count = 0
    with text_files.open_new_text(path) as file:
        file.write(header)
        for count, passage in enumerate(passages, 1):  # noqa: B007
            check_passage(passage, None, None, allow_empty_text=True)
            if not seen_ids.add(passage.passage_id):
                raise DataError(f"the id {passage.passage_id!r} is given twice.")
            file.write(format_line(passage, count) + "\n")
    return count


def check_passage(
    passage: Passage,
    path: str | os.PathLike | None,
    number: int | None,
    *,
    allow_empty_text: bool = False,
) -> None:
    """Raises where a passage could not be found or named.

    Args:
        passage: to check.
        path: of its file, or None.
        number: of its line, or None.
        allow_empty_text: let the text be empty where the title is not.

    Raises:
        DataError: the id or the text holds nothing that can be seen, or any part
            cannot be written as UTF-8.
    """
    for name in ("passage_id", "text", "title"):
        text_files.checked_text(getattr(passage, name), name, path, number)
    if not text_files.is_visible(passage.passage_id):
        raise DataError("the id is empty. Give each passage its own.", path, number)
    if text_files.is_visible(passage.text):
        return
    has_title = text_files.is_visible(passage.title)
    if has_title and allow_empty_text:
        return
    what = "has a title but no text" if has_title else "is empty"
    raise DataError(
        f"the passage {passage.passage_id!r} {what}, so no search can find it. Give "
        "it text or take it out.",
        path,
        number,
    )


def make_passage_parser(
    path: str | os.PathLike,
) -> Callable[[str, int], Passage | None]:
    """Returns `parse(line, number) -> Passage`, or None for a header row.

    Lines must come in order from the first: in a TSV file it fixes the columns.

    Raises:
        DataError: by `parse`, where a line breaks the format; here, where the format
            cannot be told.
    """
    file_format = text_files.file_format(path, FORMATS)
    if file_format == ".tsv":
        return _make_tsv_parser(path)
    if file_format == ".jsonl":
        return lambda line, number: _parse_json(line, path, number)
    return lambda line, number: Passage(str(number), line)


def split_fields(line: str, num_fields: int) -> list[str] | None:
    r"""The tab-separated fields of a line, or None where it has not `num_fields`.

    A quoted field may hold tabs. Where reading it so gives another number of fields,
    quotes are given meaning only inside one tab-free field, so that
    `7<TAB>"so it began<TAB>a title"` still has three.

    Args:
        line: without its line end.
        num_fields: that the line must have.
    """
    for split in (_split_quoted, _split_at_tabs):
        fields = split(line)
        if len(fields) == num_fields:
            return fields
    return None


def _split_quoted(line: str) -> list[str]:
    if '"' not in line:
        return line.split("\t")
    fields, start = [], 0
    while True:
        match = _QUOTED_FIELD.match(line, start)
        if match:
            fields.append(match[1].replace('""', '"'))
            end = match.end()
        else:
            end = line.find("\t", start)
            end = len(line) if end < 0 else end
            fields.append(line[start:end])
        if end == len(line):
            return fields
        start = end + 1


def _split_at_tabs(line: str) -> list[str]:
    fields = line.split("\t")
    matches = [_QUOTED_FIELD.fullmatch(field) for field in fields]
    return [
        match[1].replace('""', '"') if match else field
        for field, match in zip(fields, matches, strict=True)
    ]


def _make_tsv_parser(path):
    columns: tuple[str, ...] = ()

    def parse(line: str, number: int) -> Passage | None:
        nonlocal columns
        if not columns:
            columns, is_header = _tsv_columns(line, path, number)
            if is_header:
                return None
        fields = split_fields(line, len(columns))
        if fields is None:
            found = len(_split_at_tabs(line))
            raise DataError(
                f"{found} column{'s' * (found != 1)} where the first row says "
                f"{len(columns)} ({', '.join(columns)}), separated by tabs. A tab "
                'inside a field needs quotes around the field ("a<TAB>b").',
                path,
                number,
            )
        return Passage(**dict(zip(_FIELD_NAMES[columns], fields, strict=True)))

    return parse


def _tsv_columns(line: str, path, number: int) -> tuple[tuple[str, ...], bool]:
    """The columns that the first row says, and whether it is a header."""
    for split in (_split_quoted, _split_at_tabs):
        fields = split(line)
        if len(fields) not in (2, 3):
            continue
        names = tuple(field.strip().lower() for field in fields)
        if names in _FIELD_NAMES:
            return names, True
        return _COLUMNS[: len(fields)], False
    raise DataError(
        f"{len(_split_at_tabs(line))} tab-separated columns; a passage has two or "
        "three: id, text and, if there is one, title.",
        path,
        number,
    )


def _field_names() -> dict[tuple[str, ...], tuple[str, ...]]:
    """What each allowed order of columns is called in `Passage`."""
    orders = [("id", "text"), ("text", "id"), ("id", "text", "title")]
    orders += [("id", "title", "text"), ("title", "id", "text")]
    orders += [("title", "text", "id"), ("text", "id", "title")]
    orders += [("text", "title", "id")]
    return {
        order: tuple("passage_id" if name == "id" else name for name in order)
        for order in orders
    }


_FIELD_NAMES = _field_names()


def _parse_json(line: str, path: str | os.PathLike, number: int) -> Passage:
    record = text_files.parse_json_object(line, path, number)
    passage_id = text_files.json_id(record, _JSON_ID_KEYS, path, number)
    if passage_id is None or "text" not in record:
        missing = "text" if passage_id is not None else "_id"
        raise DataError(
            f"the key {missing!r} is missing (there are "
            f"{', '.join(map(repr, record)) or 'none'}). A passage is "
            '{"_id": ..., "title": ..., "text": ...}.',
            path,
            number,
        )
    text = text_files.json_text(record, "text", path, number)
    title = text_files.json_text(record, "title", path, number)
    return Passage(passage_id, text, title)


def line_format(
    path: str | os.PathLike,
) -> tuple[str, Callable[[Passage, int], str]]:
    """What a passage file begins with, and `format_line(passage, number) -> line`.

    Args:
        path: its name says the format.

    Raises:
        ConfigError: the name says none of the formats.
    """
    name = os.fspath(path).lower().removesuffix(".gz")
    if name.endswith(".tsv"):
        return "\t".join(_COLUMNS) + "\n", _tsv_line
    if name.endswith(".jsonl"):
        return "", _json_line
    if name.endswith(".txt"):
        return "", _text_line
    raise ConfigError(
        f"{path}: the name must end in one of {', '.join(FORMATS)}, with .gz behind "
        "it to compress."
    )


def _tsv_line(passage: Passage, count: int) -> str:
    fields = (passage.passage_id, passage.text, passage.title)
    if any("\n" in field for field in fields):
        raise DataError(
            f"the passage {passage.passage_id!r} holds a line break, which a .tsv "
            "file cannot: write .jsonl, or replace it by a space."
        )
    return "\t".join(map(quoted_field, fields))


def quoted_field(field: str) -> str:
    """The field as a row of tab-separated ones holds it, in quotes where it must be."""
    if not _NEEDS_QUOTES.search(field):
        return field
    return '"' + field.replace('"', '""') + '"'


def _json_line(passage: Passage, count: int) -> str:
    record = {"_id": passage.passage_id, "title": passage.title, "text": passage.text}
    return json.dumps(record, ensure_ascii=False)


def _text_line(passage: Passage, count: int) -> str:
    is_line = passage.passage_id == str(count) and not passage.title
    is_line &= "\n" not in passage.text and not passage.text.endswith("\r")
    # A byte order mark at the start of a file is not text.
    is_line &= count > 1 or not passage.text.startswith("\ufeff")
    if not is_line:
        raise DataError(
            f"the passage {passage.passage_id!r} does not fit a .txt file, which has "
            "texts of one line, their line numbers for ids and no titles: write "
            ".jsonl or .tsv."
        )
    return passage.text


class SeenIds:
    """The ids met so far, kept small: 8-byte hashes, and a range for counted ids.

    A corpus whose ids count up by one, as DPR's 21 million do, takes no memory. Other
    ids took at most 33 bytes each, 3 million of them; a set of integers took 100.
    """

    def __init__(self):
        self._start = self._stop = 0  # ids met as decimal numbers, counting up
        # A hash stands at its lowest bits, or the first free place behind. 0 is free.
        self._places = array.array("q", bytes(8 * 1024))
        self._num_hashes = 0

    def add(self, passage_id: str) -> bool:
        """Adds an id; False where it, or one of equal hash, was there already."""
        hashed = hash(passage_id) or 1
        place = self._place_of(hashed)
        if self._places[place]:
            return False
        if passage_id.isdecimal() and len(passage_id) < 19:
            value = int(passage_id)
            if str(value) == passage_id:
                if self._start <= value < self._stop:
                    return False
                if self._start == self._stop:
                    self._start = self._stop = value
                if value == self._stop:
                    self._stop += 1
                    return True
        self._places[place] = hashed
        self._num_hashes += 1
        if 3 * self._num_hashes > 2 * len(self._places):
            self._grow()
        return True

    def _place_of(self, hashed: int) -> int:
        """Where a hash stands, or would stand."""
        places = self._places
        mask = len(places) - 1
        place = hashed & mask
        while places[place] and places[place] != hashed:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        before = self._places
        self._places = array.array("q", bytes(16 * len(before)))
        for hashed in filter(None, before):
            self._places[self._place_of(hashed)] = hashed
