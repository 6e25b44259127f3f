"""JSON files: what somebody else wrote is what it should be, or an error names it."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from art_jax.errors import CorruptError

_MAX_BYTES = 100_000_000


def read_object(path: str | os.PathLike) -> dict:
    """The object that a JSON file holds.

    Raises:
        CorruptError: the file cannot be read, is larger than 100 MB, is not JSON, is
            nested too deep to be read, or holds something else than an object.
    """
    return _read(path, dict, "object")


def read_array(path: str | os.PathLike) -> list:
    """The array that a JSON file holds; errors as `read_object`."""
    return _read(path, list, "array")


def write_object(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Writes an object as JSON, its keys in order."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _read(path: str | os.PathLike, kind: type, name: str) -> Any:
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path} is not JSON that can be read ({error}): copy it again from its "
            "source."
        ) from error
    if not isinstance(value, kind):
        raise CorruptError(
            f"{path} holds a {type(value).__name__} where a JSON {name} is needed: "
            "copy it again from its source."
        )
    return value
