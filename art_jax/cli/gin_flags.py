"""T5X's gin flags: --gin_file, --gin_search_paths, --gin.NAME=VALUE."""

import argparse
import copy
import dataclasses
import difflib
import inspect
import logging
import pathlib
import tokenize
from collections.abc import Callable, Collection, Sequence
from typing import Any

import art_jax
from art_jax.errors import ConfigError, require_package

# From a checkout gin/ is beside the package; a wheel holds it inside.
PACKAGE_ROOTS = (
    pathlib.Path(art_jax.__file__).parent.parent,
    pathlib.Path(art_jax.__file__).parent,
)

_COMMAND_LINE = "--gin"
_GIN_ERRORS = (
    *(ValueError, TypeError, NameError, AttributeError),
    *(ImportError, SyntaxError),
)


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a verb's parser."""
    group = parser.add_argument_group("gin, as in T5X")
    group.add_argument(
        "--gin_file", action="append", default=[], help="a gin file; later ones win"
    )
    group.add_argument(
        "--gin_search_paths", default=".", help="where gin files are, by commas"
    )
    group.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="as --gin.NAME=VALUE; text needs quotes inside: --gin.QUERIES='\"q.txt\"'",
    )


def rewrite_gin_flags(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with --gin.NAME=VALUE as --gin_bindings='NAME = VALUE'.

    Raises:
        ConfigError: a --gin.NAME has no value.
    """
    rewritten = []
    for argument in arguments:
        if not argument.startswith("--gin."):
            rewritten.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            raise ConfigError(f"{argument} needs a value: --gin.NAME=VALUE")
        rewritten.append(f"--gin_bindings={name.strip()} = {value}")
    return rewritten


def parse_gin(
    files: Sequence[str], bindings: Sequence[str], search_paths: str = "."
) -> None:
    """Makes gin hold what the files and then the bindings say.

    Stricter than gin: a macro that is bound and that nothing reads is an error, since
    it is a misspelt one as a rule.

    Args:
        files: gin files, found in `search_paths` and then in the package.
        bindings: "NAME = VALUE".
        search_paths: folders, separated by commas.

    Raises:
        ConfigError: a file is missing, a name is unknown, a value cannot be read.
    """
    gin = require_package("gin", purpose="A gin file")
    gin.clear_config()
    roots = _roots(search_paths)
    for root in roots:
        gin.add_config_file_search_path(str(root))
    check_macros(files, bindings, roots)
    # gin logs an error for each root that an included file is not in.
    root_logger = logging.getLogger()
    root_logger.addFilter(_is_not_about_a_path)
    try:
        gin.parse_config_files_and_bindings(
            [str(find_gin_file(name, roots)) for name in files], list(bindings)
        )
    except _GIN_ERRORS as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"gin: {error}") from error
    finally:
        root_logger.removeFilter(_is_not_about_a_path)


def _is_not_about_a_path(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Path not found")


def call(function):
    """Returns what a gin-configured function returns, with no argument given.

    Raises:
        ConfigError: a required value was never bound, or a macro has no value.
    """
    import gin

    try:
        configured = gin.get_configurable(function)
    except (KeyError, ValueError):
        raise ConfigError(_never_configured(function)) from None
    try:
        return configured()
    except RuntimeError as error:
        if "gin.REQUIRED" not in str(error) and "required" not in str(error).lower():
            raise
        raise ConfigError(f"gin: {error}") from error


def configured_one(functions: Sequence[Callable]) -> Callable:
    """Returns the one of some functions that the gin files configure.

    Raises:
        ConfigError: they configure none, or several.
    """
    found = [one for one in functions if _bindings(one)]
    if not found:
        raise ConfigError(_never_configured(*functions))
    if len(found) > 1:
        raise ConfigError(
            f"the gin files configure {' and '.join(map(_name, found))}, but a run is "
            "one of them: include the files of one only."
        )
    return found[0]


def bound_arguments(function, names: Collection[str]) -> dict[str, Any]:
    """Returns some of the arguments a gin-configured function would be called with.

    Those that are references are built; the others are left alone, whatever making
    them would do.

    Args:
        function: that the gin files configure.
        names: of arguments; what gin does not bind has the function's default.

    Raises:
        ConfigError: the files never configure the function, or an argument cannot be
            built.
    """
    parameters = inspect.signature(function).parameters
    bound = _bindings(function)
    found = {name: bound.get(name, parameters[name].default) for name in names}
    if not bound or inspect.Parameter.empty in found.values():
        raise ConfigError(_never_configured(function))
    try:
        # gin builds what a reference stands for when it is copied.
        return {name: copy.deepcopy(value) for name, value in found.items()}
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"gin: {error}") from error


def bound_text(function, name: str) -> str | None:
    """Returns an argument that is text, or a macro of text; else None.

    Nothing is called, even where the argument is what a function returns.
    """
    import gin

    value = gin.get_bindings(function, resolve_references=False).get(name)
    while getattr(value, "selector", None) == "gin.macro":
        value = gin.query_parameter(f"{value.scoped_selector}.value")
    return value if isinstance(value, str) else None


def required_macros(
    files: Sequence[str], bindings: Sequence[str], search_paths: str = "."
) -> list[str]:
    """Returns the macros that are left at %gin.REQUIRED; arguments of `parse_gin`."""
    require_package("gin", purpose="A gin file")
    macros = _collect(files, bindings, _roots(search_paths))
    return sorted(macros.required)


def _roots(search_paths: str) -> list[pathlib.Path]:
    return [*map(pathlib.Path, search_paths.split(",")), *PACKAGE_ROOTS]


def _bindings(function: Callable) -> dict[str, Any]:
    """The arguments that gin binds, not built; none where it does not know it."""
    import gin

    try:
        return gin.get_bindings(function, resolve_references=False)
    except (KeyError, ValueError):
        return {}


def _name(function: Callable) -> str:
    return f"{function.__module__}.{function.__name__}"


def _never_configured(*functions: Callable) -> str:
    names = " nor ".join(map(_name, functions))
    return (
        f"the gin files never configure {names}: give a run file such as "
        "--gin_file=gin/runs/own_documents.gin"
    )


def find_gin_file(name: str, roots: Sequence[pathlib.Path]) -> pathlib.Path:
    """Returns where a gin file is.

    Raises:
        ConfigError: it is in none of the roots.
    """
    for root in (pathlib.Path(), *roots):
        if (root / name).is_file():
            return root / name
    raise ConfigError(
        f"there is no gin file {name}: looked in "
        f"{', '.join(str(root.resolve()) for root in roots)}."
    )


def check_macros(
    files: Sequence[str], bindings: Sequence[str], roots: Sequence[pathlib.Path]
) -> None:
    """Raises where a macro is misspelt, or has no value.

    That is: bound and never read, read and never bound, or left at %gin.REQUIRED.

    Args:
        files: gin files; what they include counts.
        bindings: "NAME = VALUE".
        roots: where files are looked for.

    Raises:
        ConfigError: with the nearest name there is, or all that are required.
    """
    macros = _collect(files, bindings, roots)
    for name, place in macros.bound.items():
        if name not in macros.read:
            raise ConfigError(
                f"{place}: nothing reads the macro {name}.{_nearest(name, macros.read)}"
            )
    for name in sorted(macros.read - macros.bound.keys()):
        raise ConfigError(
            f"the macro %{name} is read but never bound: give --gin.{name}=VALUE."
            f"{_nearest(name, macros.bound)}"
        )
    missing = sorted(macros.required)
    if missing:
        raise ConfigError(
            f"{files[-1] if files else _COMMAND_LINE} needs {', '.join(missing)}: give "
            f"each a value, as in --gin.{missing[0]}='\"...\"'."
        )


@dataclasses.dataclass(frozen=True)
class Macros:
    """The macros of some gin files; filled file by file.

    bound: where each was bound last.
    read: those that some value mentions.
    required: those whose last value is %gin.REQUIRED.
    """

    bound: dict[str, str]
    read: set[str]
    required: set[str]


def _collect(files: Sequence[str], bindings: Sequence[str], roots) -> Macros:
    macros = Macros({}, set(), set())
    for name in files:
        _collect_file(find_gin_file(name, roots), roots, macros)
    for binding in bindings:
        _collect_statements(binding, _COMMAND_LINE, roots, macros)
    return macros


def _collect_file(path: pathlib.Path, roots, macros: Macros) -> None:
    text = path.read_text(encoding="utf-8")
    _collect_statements(text, str(path), roots, macros)


def _collect_statements(text: str, place: str, roots, macros: Macros) -> None:
    from gin import config_parser

    class Reads(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_configurable_name, evaluate):
            return None

        def macro(self, macro_name):
            if "." not in macro_name:  # not gin.REQUIRED and other constants
                macros.read.add(macro_name)
            return f"%{macro_name}"

    def bind(name: str, value: object, line: int) -> None:
        is_file = place != _COMMAND_LINE
        macros.bound[name] = f"{place}:{line}" if is_file else place
        if value == "%gin.REQUIRED":
            macros.required.add(name)
        else:
            macros.required.discard(name)

    try:
        for statement in config_parser.ConfigParser(text, Reads()):
            if isinstance(statement, config_parser.IncludeStatement):
                _collect_file(find_gin_file(statement.filename, roots), roots, macros)
            elif not getattr(statement, "arg_name", True):  # a macro's binding
                bind(statement.selector, statement.value, statement.location.line_num)
    except (SyntaxError, tokenize.TokenError) as error:
        number = getattr(error, "lineno", None) or 1
        lines = text.splitlines() or [""]
        line = lines[min(number, len(lines)) - 1].strip()
        where = place if place == _COMMAND_LINE else f"{place}:{number}"
        message = getattr(error, "msg", str(error)).splitlines()[0].rstrip(".")
        if "malformed node" in message:  # Python's words for a name without quotes
            message = "it is no number, quoted text, list, %MACRO or @function"
        raise ConfigError(
            f"{where}: gin cannot read {line!r} ({message}). Text needs quotes inside "
            "the shell's: --gin.PASSAGES='\"p.tsv\"'"
        ) from error


def _nearest(name: str, names) -> str:
    close = difflib.get_close_matches(name, [n for n in names if "." not in n], n=1)
    return f" Did you mean {close[0]}?" if close else ""
