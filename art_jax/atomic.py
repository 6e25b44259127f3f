"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file so that a kill leaves the old one or the new one."""
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def new_directory(path: str | os.PathLike) -> pathlib.Path:
    """Returns an empty folder to fill, beside `path`; `finish_directory` moves it."""
    unfinished = unfinished_directory(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def unfinished_directory(path: str | os.PathLike) -> pathlib.Path:
    """Returns where `new_directory(path)` is, for processes that did not call it."""
    return _beside(path, "unfinished")


def finish_directory(path: str | os.PathLike) -> None:
    """Moves what `new_directory(path)` gave to `path`, in place of what is there.

    No file system can swap two folders in one step everywhere, so what was there is
    set aside first; `recover_directory` brings it back after a kill in between.
    """
    path, aside = pathlib.Path(path), _beside(path, "replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.replace(aside)
    unfinished_directory(path).replace(path)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def building_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """An empty folder to fill; it becomes `path` at the end, or goes on an error."""
    unfinished = new_directory(path)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finish_directory(path)


def recover_directory(path: str | os.PathLike) -> None:
    """Undoes a `finish_directory` that was killed between its two moves."""
    path, aside = pathlib.Path(path), _beside(path, "replaced")
    if aside.exists() and not path.exists():
        # Another process may have brought it back in between.
        with contextlib.suppress(FileNotFoundError):
            aside.replace(path)


def remove_directory(path: str | os.PathLike) -> None:
    """Removes a folder; a kill leaves it whole or with a name nobody looks for."""
    aside = _beside(path, "removed")
    shutil.rmtree(aside, ignore_errors=True)
    pathlib.Path(path).replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(path: str | os.PathLike, state: str) -> pathlib.Path:
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}.{state}")
