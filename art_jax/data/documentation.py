"""A corpus that every machine has: the documentation of its Python packages.

Known-item search. Each documented object gives one question, the summary sentence of
its docstring, and passages made of what is left of the docstring, in pieces of 100
words titled by the object's dotted name. The right passage is the first piece of the
docstring that the question was cut from; only evaluation may know it.

Packages are imported, never executed otherwise, and read with `inspect`.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import pathlib
import pkgutil
import platform
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata

from art_jax import atomic
from art_jax.data import sources
from art_jax.data.passages import Passage, write_passages
from art_jax.data.questions import Question, write_questions
from art_jax.data.splitting import split_into_passages

PACKAGES = ("numpy", "jax", "flax", "optax", "orbax.checkpoint", "tensorstore")

# Importing these opens a browser or a window, prints, changes the interpreter or
# starts something; none of them documents much.
_SKIPPED_STDLIB = frozenset(
    (
        "antigravity",
        "this",
        "idlelib",
        "turtle",
        "turtledemo",
        "tkinter",
        "lib2to3",
        "test",
        "__main__",
        "ensurepip",
        "venv",
        "msilib",
        "pip",
        "rlcompleter",
        "readline",
        "sitecustomize",
        "usercustomize",
    )
)
_SKIPPED_PARTS = frozenset(
    (
        "tests",
        "test",
        "testing",
        "conftest",
        "__main__",
        "_src",
        "example",
        "examples",
        "benchmarks",
        "f2py",
        "distutils",
        "jax2tf",
        "tools",
    )
)
_MIN_SUMMARY_WORDS = 4
_MIN_PASSAGE_WORDS = 20
# A sentence ends at a full stop before white space and a capital, or at the end; the
# look-behinds keep "e.g." and "i.e." inside.
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)\.(?=\s+[A-Z`*\"'(:]|\s*$)")


@dataclasses.dataclass(frozen=True)
class DocumentationCorpus:
    """Passages, and the questions cut from them, split by a digest of their names.

    passages: every piece, in order of dotted name.
    train, dev, test: questions; `relevant_ids` holds the right passage in dev and
        test. Training questions carry `source_id` only for those who ask to exclude
        a question's own source; ART does not.
    """

    passages: tuple[Passage, ...]
    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    test: tuple[Question, ...]


def build_corpus(
    packages: Sequence[str] = PACKAGES,
    *,
    standard_library: bool = True,
    num_dev: int = 400,
    num_test: int = 800,
) -> DocumentationCorpus:
    """Returns the documentation of the standard library and `packages`.

    The order of everything depends on dotted names alone, so two machines with the
    same packages get the same corpus.

    Args:
        packages: importable names; one that is not installed is left out.
        standard_library: also read the standard library.
        num_dev: questions held out for choosing a checkpoint.
        num_test: questions held out for the report.
    """
    names = list(packages)
    if standard_library:
        public = {n for n in sys.stdlib_module_names if not n.startswith("_")}
        names += sorted(public - _SKIPPED_STDLIB)
    documents = sorted(_documents(names))
    passages, questions = [], []
    seen_texts, seen_summaries = set(), set()
    for name, docstring in documents:
        summary, rest = split_summary(docstring)
        if len(rest.split()) < _MIN_PASSAGE_WORDS or rest in seen_texts:
            continue
        seen_texts.add(rest)
        pieces = split_into_passages(rest)
        for number, piece in enumerate(pieces):
            passages.append(Passage(f"{name}#{number}", piece, name))
        if _is_question(summary) and summary not in seen_summaries:
            seen_summaries.add(summary)
            source_id = f"{name}#0"
            questions.append(
                Question(name, summary, relevant_ids=(source_id,), source_id=source_id)
            )
    questions.sort(key=lambda question: _digest(question.question_id))
    test = tuple(questions[:num_test])
    dev = tuple(questions[num_test : num_test + num_dev])
    train = tuple(
        dataclasses.replace(question, relevant_ids=())
        for question in questions[num_test + num_dev :]
    )
    return DocumentationCorpus(tuple(passages), train, dev, test)


def prepare_corpus(directory: str | None = None) -> str:
    """Returns the path of the corpus' passages, written with its questions if new.

    Writes passages.jsonl, train.jsonl, dev.jsonl and test.jsonl, which the task
    "art_quickstart" reads. A folder made from the same packages is used again.

    Args:
        directory: where to; None: `quickstart` in the data directory.
    """
    folder = pathlib.Path(directory or sources.data_root() / "quickstart")
    stamp = folder / "versions.json"
    versions = json.dumps(package_versions(), indent=1)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != versions:
        corpus = build_corpus()
        unfinished = atomic.new_directory(folder)
        write_passages(unfinished / "passages.jsonl", corpus.passages)
        for split in ("train", "dev", "test"):
            write_questions(unfinished / f"{split}.jsonl", getattr(corpus, split))
        atomic.write_text(unfinished / stamp.name, versions)
        atomic.finish_directory(folder)
    return str(folder / "passages.jsonl")


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Returns the version of Python and of each package the corpus is read from."""
    versions = {"python": platform.python_version()}
    for package in packages:
        name = package.replace(".", "-")
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def split_summary(docstring: str) -> tuple[str, str]:
    """Returns a docstring's first sentence and what is left, both on one line.

    "Return true if it is a module." and "Modules have ..." stand in one docstring,
    with an empty line between; they come out as the two parts.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n", 1)
    first = " ".join(paragraphs[0].split())
    rest = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    end = _SENTENCE_END.search(first)
    if end is None:
        return first, rest
    return first[: end.end()], f"{first[end.end() :].strip()} {rest}".strip()


def _is_question(summary: str) -> bool:
    """Whether a summary is a sentence, neither a signature nor a fragment."""
    return len(summary.split()) >= _MIN_SUMMARY_WORDS and "->" not in summary


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _documents(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (dotted name, docstring) of each documented object, each object once."""
    seen, seen_names = set(), set()
    for module in _modules(names):
        for name, value in _members(module):
            docstring = _own_docstring(value)
            # Some modules take another's name, as _pydecimal takes decimal's.
            if docstring is None or id(value) in seen or name in seen_names:
                continue
            seen.add(id(value))
            seen_names.add(name)
            yield name, docstring


def _modules(names: Iterable[str]) -> Iterator[types.ModuleType]:
    for name in names:
        module = _import_quietly(name)
        if module is None:
            continue
        yield module
        for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
            if not info.name.startswith("_") and info.name not in _SKIPPED_PARTS:
                yield from _modules([f"{name}.{info.name}"])


def _import_quietly(name: str) -> types.ModuleType | None:
    """Returns the module, or None where it cannot be imported here."""
    sink = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit):
            # Optional or platform modules fail in many ways; each is just not there.
            return None


def _members(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    """Yields the module and its public classes, functions and their methods."""
    package = module.__name__.split(".")[0]
    yield module.__name__, module
    for name in sorted(vars(module)):
        value = vars(module)[name]
        if name.startswith("_") or not _belongs_to(value, package):
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for method_name in sorted(vars(value)):
                if not method_name.startswith("_"):
                    method = inspect.getattr_static(value, method_name)
                    yield f"{module.__name__}.{name}.{method_name}", method


def _belongs_to(value: object, package: str) -> bool:
    if inspect.ismodule(value):
        return False
    is_documented_kind = callable(value) or inspect.isclass(value)
    home = getattr(value, "__module__", None) or ""
    return is_documented_kind and home.lstrip("_").split(".")[0] in {
        package,
        "builtins",
    }


def _own_docstring(value: object) -> str | None:
    """Returns the docstring written for this object, not one it inherits."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    try:
        docstring = value.__doc__
    except Exception:  # A descriptor may run any code to answer.
        return None
    if not isinstance(docstring, str) or not docstring.strip():
        return None
    is_instance = not (
        inspect.ismodule(value)
        or inspect.isclass(value)
        or inspect.isroutine(value)
        or inspect.isdatadescriptor(value)
    )
    if is_instance and docstring == type(value).__doc__:
        return None
    return docstring
