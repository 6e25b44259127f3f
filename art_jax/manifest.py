"""A list of every file in a directory, with sizes and SHA-256 digests.

Disks flip bits and copies lose files without saying so. What art_jax saves (evidence,
index, checkpoints, exports) carries `manifest.json`, written last, so a directory that
has one is complete, and one that verifies is what was saved.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from art_jax.atomic import flush_to_disk, write_text
from art_jax.errors import CorruptError

MANIFEST_NAME = "manifest.json"

_FORMAT = "art_jax.manifest"
_VERSION = 1


def write_manifest(
    directory: str | os.PathLike, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the manifest of all files under a directory and returns it.

    Every file is flushed to disk first, the manifest last: after a power cut, it is
    not there or all of it is true.

    Args:
        directory: its files are all there and no longer change.
        extra: what else to record, as JSON holds it; guarded by a digest too.

    Returns:
        {"format", "version", "files": {relative path: {"bytes", "sha256"}}, "extra",
        "sha256"}; the last is the digest of the rest.
    """
    directory = pathlib.Path(directory)
    files = {}
    for name in sorted(_file_names(directory)):
        flush_to_disk(directory / name)
        files[name] = {
            "bytes": (directory / name).stat().st_size,
            "sha256": file_sha256(directory / name),
        }
    body = {
        "format": _FORMAT,
        "version": _VERSION,
        "files": files,
        # Through JSON, so that what is returned is what read_manifest() will return.
        "extra": json.loads(json.dumps(dict(extra), allow_nan=False)),
    }
    manifest = body | {"sha256": _digest(body)}
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_text(directory / MANIFEST_NAME, text)
    for folder in {(directory / name).parent for name in files} | {directory}:
        flush_to_disk(folder)
    return manifest


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a directory, itself verified, the files unread.

    Raises:
        CorruptError: it is missing, damaged, or of a later version.
    """
    path = pathlib.Path(directory) / MANIFEST_NAME
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise CorruptError(
            f"{path} is missing, so what is beside it was never finished or is not "
            "art_jax's. Make it again, or give another directory."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path} cannot be read ({error}). {_WAY_OUT}") from error
    try:
        manifest = json.loads(text)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        is_whole = manifest["sha256"] == _digest(body) and body["format"] == _FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CorruptError(f"{path} is damaged: its own digest is wrong. {_WAY_OUT}")
    if body["version"] != _VERSION:
        raise CorruptError(
            f"{path} has version {body['version']}; this art_jax reads {_VERSION}. "
            "Use the art_jax that wrote it, or a newer one."
        )
    return manifest


def says(directory: str | os.PathLike, *, kind: str) -> bool:
    """Whether a directory has a manifest, in good order, that says it is of a kind."""
    try:
        return read_manifest(directory)["extra"].get("kind") == kind
    except CorruptError:
        return False


def verify_manifest(
    directory: str | os.PathLike, *, check_digests: bool = True
) -> dict[str, Any]:
    """The manifest of a directory, after its files were held against it.

    Args:
        directory: that `write_manifest` was called on.
        check_digests: read every byte; otherwise names and sizes alone.

    Raises:
        CorruptError: naming the file that is missing, additional, of another size or
            of another content; or the manifest where it is damaged.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    expected, found = manifest["files"], _file_names(directory)
    for name in sorted(expected.keys() - found):
        raise CorruptError(f"{directory / name} is missing. {_WAY_OUT}")
    for name in sorted(found - expected.keys()):
        raise CorruptError(
            f"{directory / name} does not belong there: the manifest does not list "
            "it. Move it away."
        )
    for name, entry in expected.items():
        num_bytes = (directory / name).stat().st_size
        if num_bytes != entry["bytes"]:
            raise CorruptError(
                f"{directory / name} has {num_bytes} bytes instead of "
                f"{entry['bytes']}. {_WAY_OUT}"
            )
    if check_digests:
        for name, entry in expected.items():
            if file_sha256(directory / name) != entry["sha256"]:
                raise CorruptError(
                    f"{directory / name} is damaged: its SHA-256 is not the one it "
                    f"was saved with. {_WAY_OUT}"
                )
    return manifest


def file_sha256(path: str | os.PathLike) -> str:
    """The hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_WAY_OUT = "Restore it from a copy, or make it again."


def _file_names(directory: pathlib.Path) -> set[str]:
    """The files under a directory, as relative paths with "/", the manifest aside."""
    names = {
        (pathlib.Path(folder) / name).relative_to(directory).as_posix()
        for folder, _, file_names in os.walk(directory)
        for name in file_names
    }
    # And what a kill left of one.
    unfinished = {name for name in names if name.startswith(f".{MANIFEST_NAME}.")}
    return names - unfinished - {MANIFEST_NAME}


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
