"""Files and folders that appear whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import BinaryIO

from art_jax.errors import ConfigError


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file so that a kill leaves the old one or the new one."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that is at `path`, whole and on disk, when the block has succeeded.

    After an error what was at `path` still is.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    flush_to_disk(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def building_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """An empty folder to fill; it becomes `path` at the end, or goes on an error.

    Raises:
        ConfigError: another process is filling one for `path`.
    """
    path = pathlib.Path(path)
    with locked_directory(unfinished_directory(path), making=path) as unfinished:
        clear_directory(unfinished)
        try:
            yield unfinished
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        finish_directory(path)


@contextlib.contextmanager
def locked_directory(
    path: str | os.PathLike, *, making: str | os.PathLike
) -> Iterator[pathlib.Path]:
    """A folder, made if it is not there, that no other process locks meanwhile.

    The lock is on the folder itself, so a killed process leaves none behind. Where the
    file system has no locks there is none.

    Args:
        path: of the folder.
        making: what is made with its help, to be named in the error.

    Raises:
        ConfigError: another process has it.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not _lock(descriptor, path):
            raise ConfigError(
                f"another process is building {making}. Wait for it to end."
            )
        yield path
    finally:
        os.close(descriptor)


def clear_directory(path: str | os.PathLike) -> None:
    """Removes what is in a folder."""
    for child in pathlib.Path(path).iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


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


def flush_to_disk(path: str | os.PathLike) -> None:
    """Has the disk hold what was written to a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: pathlib.Path) -> bool:
    """Locks an open folder; False where another process has it or moved it away."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _beside(path: str | os.PathLike, state: str) -> pathlib.Path:
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}.{state}")
