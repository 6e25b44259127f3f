"""What format a file is in, told by what stands in it, where that is certain."""

import os
import re
from collections.abc import Set

from art_jax.data import beir_folders, convert, text_files
from art_jax.data.convert import FORMATS, Format
from art_jax.data.json_files import (
    first_character,
    first_json_record,
    read_json_entries,
)
from art_jax.data.judgments import BEIR_HEADER
from art_jax.data.questions import parse_answers
from art_jax.errors import ConfigError, DataError

Path = str | os.PathLike

# Keys that a record of one format alone has; the first row that fits says it.
_KEYS = (
    ({"positive_ctxs"}, "dpr"),
    ({"question", "ctxs", "target"}, "fid"),
    ({"question", "ctxs"}, "dpr-results"),
    ({"query", "positive_passages"}, "tevatron"),
    ({"anchor", "positive"}, "sentence-transformers"),
    ({"query", "pos"}, "flagembedding"),
    ({"docid", "text"}, "tevatron-corpus"),
    ({"docid", "document_text"}, "tevatron-corpus"),
    ({"id", "input"}, "kilt"),
    ({"_id", "title", "text"}, "beir-corpus"),
    ({"id", "title", "text"}, "beir-corpus"),
)
# The same, of files that are one array.
_KEYS_OF_ARRAYS = (
    ({"question", "annotations"}, "ambigqa"),
    ({"utterance", "targetValue"}, "webquestions"),
    ({"question", "answers"}, "entity-questions"),
)
_MORE_OF_A_QUESTION = {
    "answers",
    "answer",
    "relevant_ids",
    "source_id",
    "answer_groups",
    "evidence",
}
_BEIR_NAMES = {"corpus.jsonl": "beir-corpus", "queries.jsonl": "beir-queries"}
# Files that are one object with its records in a list.
_MEMBERS = {"Data": "triviaqa", "data": "squad", "Questions": "webqsp"}
_MEMBER = re.compile(r'"(Data|data|Questions)"\s*:\s*\[')


def guess_source(path: Path) -> tuple[str, ...]:
    """The names of the formats that a file may be in; one where that is certain.

    Read from its first record, and from its name where that is one of BEIR's.

    Raises:
        DataError: the file cannot be opened, or its first record is broken.
    """
    if os.path.isdir(path):
        return ("beir",) if beir_folders.is_beir_folder(path) else ()
    start = first_character(path)
    if start == "[":
        return by_keys(first_json_record(path).keys(), path, is_array=True)
    if start == "{":
        return _of_object(path)
    if convert.suffix_of(path) == ".txt" and not _by_columns(path):
        return ("text-passages", "text-questions")
    return _by_columns(path)


def guess_target(
    path: Path, kind: type, formats: dict[str, Format] = FORMATS
) -> tuple[str, ...]:
    """The names of the formats of a kind that a file of this name may be written in."""
    name = os.path.basename(os.fspath(path)).lower().removesuffix(".gz")
    if name in _BEIR_NAMES and formats[_BEIR_NAMES[name]].kind is kind:
        return (_BEIR_NAMES[name],)
    suffix = convert.suffix_of(path)
    return tuple(
        name
        for name, one in formats.items()
        if one.kind is kind
        and one.write is not None
        and (suffix in one.suffixes or (not suffix and not one.suffixes))
    )


def chosen(names: tuple[str, ...], path: Path, flag: str) -> str:
    """The one name, if it is one.

    Raises:
        ConfigError: there is none or more.
    """
    if len(names) == 1:
        return names[0]
    which = f"it may be {' or '.join(names)}" if names else "nothing in it says so"
    raise ConfigError(f"the format of {path} is not certain ({which}): give {flag}.")


def by_keys(keys: Set[str], path: Path, *, is_array: bool) -> tuple[str, ...]:
    """The names of the formats that a record of these keys may be of.

    Args:
        keys: of the record.
        path: its file, whose name counts where it is one of BEIR's.
        is_array: whether the file is a JSON array, and not an object a line.
    """
    known = (*_KEYS, *_KEYS_OF_ARRAYS) if is_array else _KEYS
    found = next((name for needed, name in known if needed <= keys), None)
    if found:
        return (found,)
    if is_array:
        return ()
    if {"question", "answer"} == keys:
        return ("nq-open",)
    if "question" in keys or ("text" in keys and _MORE_OF_A_QUESTION & keys):
        return ("beir-queries",)
    if "text" not in keys:
        return ()
    name = os.path.basename(os.fspath(path)).lower().removesuffix(".gz")
    by_name = _BEIR_NAMES.get(name)
    return (by_name,) if by_name else ("beir-corpus", "beir-queries")


def _of_object(path: Path) -> tuple[str, ...]:
    """One object a line, or one object that holds all."""
    try:
        keys = first_json_record(path).keys()
    except DataError:
        keys = ()  # Its first line is not the whole of it.
    member = next((name for key, name in _MEMBERS.items() if key in keys), None)
    if member:
        return (member,)
    if keys and not _is_of_contexts(path):
        return by_keys(keys, path, is_array=False)
    if _is_of_contexts(path):
        return ("pyserini",)
    with text_files.open_binary(path) as file:
        found = _MEMBER.search(file.read(1 << 16).decode(errors="replace"))
    return (_MEMBERS[found[1]],) if found else ()


def _is_of_contexts(path: Path) -> bool:
    """Whether the first member of the file's object is a question with contexts."""
    try:
        _, _, values = next(read_json_entries(path))
    except (DataError, StopIteration):
        return False
    return {"question", "contexts"} <= values.keys()


def _by_columns(path: Path) -> tuple[str, ...]:
    number, raw = next(text_files.read_raw_lines(path), (1, b""))
    line = text_files.decode_line(raw, path, number)
    if line == BEIR_HEADER:
        return ("beir-qrels",)
    words, fields = line.split(), line.split("\t")
    if len(words) == 6 and words[1] == "Q0" and words[3].isdecimal():
        return ("trec-run",)
    if len(words) == 4 and words[1] in ("0", "Q0") and _is_whole(words[3]):
        return ("trec-qrels",)
    names = {field.strip().lower() for field in fields}
    if {"id", "text"} <= names <= {"id", "text", "title"}:
        return ("dpr-passages",)
    if len(fields) == 2 and parse_answers(fields[1]) is not None:
        return ("dpr-questions",)
    if len(fields) == 2:
        return ("dpr-passages", "msmarco-queries")
    if len(fields) == 3:
        has_grade = _is_whole(fields[2])
        return ("dpr-passages", "beir-qrels") if has_grade else ("dpr-passages",)
    return ("curatedtrec",) if len(fields) == 4 and fields[1] == "factoid" else ()


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isdecimal()
