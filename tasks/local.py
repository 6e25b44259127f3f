"""Questions in a user's own files.

Two ways: `local_task(...)` registers a task for the files it is given, and
`local_example_task(...)` one for files of questions with passages; and the task
"local_questions" reads {train,dev,test}.{txt,jsonl,csv,tsv} in $ART_JAX_DATA_DIR.
In gin:

    from art_jax.tasks import local
    local.local_task:
        train = 'questions.txt'
        dev = 'dev.jsonl'
    MIXTURE_OR_TASK_NAME = @local.local_task()
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence

from art_jax.tasks import registration

from art_jax.data import example_files, sources
from art_jax.data.host_tensorflow import seqio
from art_jax.errors import ConfigError


def local_task(
    train: str | os.PathLike | None = None,
    dev: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    *,
    ks: Sequence[int] = registration.DEFAULT_KS,
    match: str = "string",
) -> str:
    """The name of the task over these files, registered at the first call with them.

    Args:
        train: the file of the split "train", read when a dataset is built; None where
            there is none.
        dev: of the split "dev".
        test: of the split "test".
        ks: depths of top-k accuracy.
        match: how answers are compared, see `art_jax.evaluation.answers`.

    Raises:
        ConfigError: no file is given.
    """
    files = _given(train, dev, test)
    name = _name(files, list(ks), match)
    if name not in seqio.TaskRegistry.names():
        registration.add_task(
            name, sources.file_readers(files), ks=tuple(ks), match=match
        )
    return name


def local_example_task(
    train: str | os.PathLike | None = None,
    dev: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    *,
    file_format: str = "dpr",
) -> str:
    """The name of the task over these files of questions with passages.

    Args:
        train: the file of the split "train", read when a dataset is built; None where
            there is none.
        dev: of the split "dev".
        test: of the split "test".
        file_format: of all of them, one of `example_files.FORMATS`: it says whether
            they are training examples or ranked passages.

    Raises:
        ConfigError: no file is given, or there is no such format.
    """
    if file_format not in example_files.FORMATS:
        raise ConfigError(
            f"there is no format {file_format!r} of examples: choose of "
            f"{', '.join(example_files.FORMATS)}"
        )
    files = _given(train, dev, test)
    name = _name(files, file_format)
    if name not in seqio.TaskRegistry.names():
        readers = {
            split: functools.partial(example_files.read_examples, path, file_format)
            for split, path in files.items()
        }
        kind = example_files.FORMATS[file_format].kind
        registration.add_example_task(name, readers, kind=kind)
    return name


def _given(train, dev, test):
    given = {"train": train, "dev": dev, "test": test}
    files = {
        split: os.path.abspath(path)
        for split, path in given.items()
        if path is not None
    }
    if not files:
        raise ConfigError("a local task has no file: give it train, dev or test")
    return files


def _name(*identity):
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return f"local_{digest[:12]}"


def question_file(split):
    """The path of a split's file, found when it is asked for."""
    return sources.find_question_file(sources.data_directory(), split)


registration.add_task(
    "local_questions",
    sources.file_readers(
        {
            split: functools.partial(question_file, split)
            for split in ("train", "dev", "test")
        }
    ),
)
