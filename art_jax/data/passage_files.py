"""Files of passages beyond those that `passages` reads, and what each format holds.

    tevatron-corpus   JSON lines: docid, title, text (or document_text)

`keep_X(passage, line)` is what a file of format X holds of a passage.
"""

import json
import os
from collections.abc import Iterable, Iterator

from art_jax.data import text_files
from art_jax.data.passages import Passage, SeenIds, check_passage
from art_jax.data.question_files import one_line
from art_jax.errors import DataError

Path = str | os.PathLike


def keep_dpr_passage(passage: Passage, line: int) -> Passage:
    """What a row of DPR's holds: all but line feeds, which become spaces."""
    del line
    parts = (passage.passage_id, passage.text, passage.title)
    return Passage(*(part.replace("\n", " ") for part in parts))


def keep_text_passage(passage: Passage, line: int) -> Passage:
    """What a line of text holds: the title and the text; its number is the id."""
    return Passage(str(line), one_line(titled_text(passage)))


def titled_text(passage: Passage) -> str:
    """The text with its title before it, where there is one."""
    return f"{passage.title} {passage.text}" if passage.title else passage.text


def read_tevatron_corpus(path: Path) -> Iterator[Passage]:
    """Yields the passages of a corpus of Tevatron's, in order.

    Raises:
        DataError: naming file and line, as `read_passages`.
    """
    seen_ids = SeenIds()

    def parse(line: str, number: int) -> Passage:
        return parse_tevatron_passage(line, path, number)

    number = 0
    for number, line in text_files.read_raw_lines(path):
        passage = parse(text_files.decode_line(line, path, number), number)
        check_passage(passage, path, number, allow_empty_text=True)
        if not seen_ids.add(passage.passage_id):
            text_files.check_first_use(
                path, parse, "passage", passage.passage_id, number
            )
        yield passage
    if not number:
        raise DataError("the file holds no passages. Give at least one.", path)


def parse_tevatron_passage(line: str, path: Path, number: int) -> Passage:
    """The passage on a line.

    Raises:
        DataError: the line is no JSON object, or lacks 'docid' or its text.
    """
    record = text_files.parse_json_object(line, path, number)
    passage_id = text_files.json_id(record, ("docid",), path, number)
    text_key = next((key for key in ("text", "document_text") if key in record), None)
    if passage_id is None or text_key is None:
        raise DataError(
            f"the key {'docid' if passage_id is None else 'text'!r} is missing (there "
            f"are {', '.join(map(repr, record)) or 'none'}). A passage of Tevatron's "
            'is {"docid": ..., "title": ..., "text": ...}.',
            path,
            number,
        )
    text = text_files.json_text(record, text_key, path, number)
    title = text_files.json_text(record, "title", path, number)
    return Passage(passage_id, text, title)


def write_tevatron_corpus(path: Path, passages: Iterable[Passage]) -> int:
    """Writes a corpus of Tevatron's and returns how many passages.

    Raises:
        DataError: a passage breaks a rule, or an id is given twice.
    """
    seen_ids, count = SeenIds(), 0
    with text_files.open_new_text(path) as file:
        for count, passage in enumerate(passages, 1):  # noqa: B007
            check_passage(passage, None, None, allow_empty_text=True)
            if not seen_ids.add(passage.passage_id):
                raise DataError(f"the id {passage.passage_id!r} is given twice.")
            record = {
                "docid": passage.passage_id,
                "title": passage.title,
                "text": passage.text,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count
