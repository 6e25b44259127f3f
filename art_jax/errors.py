"""The errors a user can meet, each with the exit code of the command line.

Every message says what is wrong, where (file and line, or the setting's name),
the rule that was broken and the way out.
"""

import importlib
import types


class ArtJaxError(Exception):
    """Any error art_jax raises on purpose; the command line prints no traceback."""

    exit_code = 1


class ConfigError(ArtJaxError, ValueError):
    """Wrong usage or configuration: a flag, a gin binding, sizes that do not fit."""

    exit_code = 2


class DataError(ArtJaxError, ValueError):
    """Input that breaks its format's rules.

    Attributes:
        path: the file, or None where the data did not come from one.
        line: the 1-based line, or None.
    """

    exit_code = 3

    def __init__(self, message: str, path: object = None, line: int | None = None):
        self.path, self.line = path, line
        place = "" if path is None else f"{path}: "
        if path is not None and line is not None:
            place = f"{path}:{line}: "
        super().__init__(place + message)


class CorruptError(ArtJaxError):
    """A checkpoint, index or evidence store that is damaged or of another model."""

    exit_code = 4


class DivergedError(ArtJaxError):
    """Training stopped because loss or gradients stayed non-finite."""

    exit_code = 6


class PreemptedError(ArtJaxError):
    """Stopped by a signal after a good save; the same command goes on from there."""

    exit_code = 75


def require_package(
    name: str, *, purpose: str, extra: str | None = None
) -> types.ModuleType:
    """Returns the imported module `name`, or says how to install it.

    Args:
        name: the module to import.
        purpose: what needs it, as the start of a sentence ("BM25 search").
        extra: the extra of art_jax that brings it; None: a plain installation does.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
            raise
        wanted = f"'art-jax[{extra}]'" if extra else "art-jax"
        raise ConfigError(
            f"{purpose} needs the package {name.split('.')[0]!r}, which is not "
            f"installed: pip install {wanted}"
        ) from error
