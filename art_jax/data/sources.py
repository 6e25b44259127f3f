"""SeqIO sources over files of questions, and where those files are.

An example is one question: the strings `question`, `question_id` and `source_id`, the
lists of strings `answers` and `relevant_ids`, either of which may be empty, and as
strings of JSON `grades`, a list of numbers, `answer_groups` and `evidence`, lists of
lists.
TensorFlow is imported, and a file opened, only when a dataset is built.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from art_jax.data.questions import FORMATS, Question, read_questions
from art_jax.errors import ArtJaxError, ConfigError

DATA_DIR_VARIABLE = "ART_JAX_DATA_DIR"
# Pads lists of strings; questions never hold a NUL character.
NO_TEXT = b"\0"
_JSON_FIELDS = ("answer_groups", "grades", "evidence")
_LISTS = ("answers", "relevant_ids")
_FIELDS = ("question", "question_id", "source_id", *_LISTS, *_JSON_FIELDS)

# What readers raised inside TensorFlow, which passes on no more than the message.
_raised: list[ArtJaxError] = []

QuestionFile = str | os.PathLike | Callable[[], str | os.PathLike]


def data_root() -> pathlib.Path:
    """Where the data sets of registered tasks are: $ART_JAX_DATA_DIR, or data."""
    return pathlib.Path(os.environ.get(DATA_DIR_VARIABLE) or "data")


def data_directory() -> pathlib.Path:
    """The same, as a directory that is there.

    Raises:
        ConfigError: it is not.
    """
    root = data_root()
    if not root.is_dir():
        raise ConfigError(
            f"{root} is no directory: set the environment variable "
            f"{DATA_DIR_VARIABLE} to the one that holds the data sets"
        )
    return root


def find_question_file(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """The file of a split in a directory: `SPLIT.jsonl`, .csv, .tsv or .txt, or .gz.

    Raises:
        ConfigError: there is no such file, or more than one.
    """
    names = [f"{split}{suffix}" for suffix in FORMATS]
    candidates = [
        pathlib.Path(directory, name + gz) for name in names for gz in ("", ".gz")
    ]
    found = [path for path in candidates if path.exists()]
    if len(found) != 1:
        raise ConfigError(
            f"{directory} holds {len(found)} files of the {split} questions"
            f"{''.join(f', {path.name}' for path in found)}: put one there, named "
            f"{' or '.join(names)}, gzipped if you like"
        )
    return found[0]


def file_readers(
    files: Mapping[str, QuestionFile],
) -> dict[str, Callable[[], Iterator[Question]]]:
    """For each split a function that reads its file of questions.

    Args:
        files: what `read_questions` reads, or a function that gives its path once the
            split is asked for.
    """

    def reader(path: QuestionFile) -> Callable[[], Iterator[Question]]:
        return lambda: read_questions(path() if callable(path) else path)

    return {split: reader(path) for split, path in files.items()}


def question_source(readers: Mapping[str, Callable[[], Iterable[Question]]]):
    """A SeqIO source (`seqio.FunctionDataSource`) over questions that a function reads.

    Examples come in the order they are read in. A source has a single shard; its
    iterators can be saved, up to the tokenising preprocessor, which cannot.

    Args:
        readers: for each split, a function that gives its questions; called when a
            dataset is built.
    """
    from art_jax.data.host_tensorflow import seqio

    def dataset(split: str, shuffle_files: bool, seed: int | None = None):
        del shuffle_files, seed  # One file a split; SeqIO shuffles its examples.
        return question_dataset(list(readers[split]()))

    return seqio.FunctionDataSource(dataset, splits=tuple(readers))


def question_dataset(questions: Sequence[Question]):
    """The questions as a `tf.data.Dataset` of examples, in order."""
    from art_jax.data.host_tensorflow import tf

    strings = functools.partial(tf.constant, dtype=tf.string)
    lists = functools.partial(tf.ragged.constant, dtype=tf.string, ragged_rank=1)
    rows = [question_fields(question) for question in questions]
    columns = {}
    for name in _FIELDS:
        tensor = lists if name in _LISTS else strings
        columns[name] = tensor([row[name] for row in rows])
    return tf.data.Dataset.from_tensor_slices(columns)


def question_fields(question: Question) -> dict[str, str | tuple[str, ...]]:
    """The fields of a question's example, as texts and lists of texts."""
    return {
        "question": question.text,
        "question_id": question.question_id,
        "answers": question.answers,
        "relevant_ids": question.relevant_ids,
        "source_id": question.source_id,
        # SeqIO cannot pad lists of lists of unequal lengths.
        **{name: json.dumps(getattr(question, name)) for name in _JSON_FIELDS},
    }


def iterate_dataset(dataset) -> Iterator[dict]:
    """Yields the examples of a `tf.data.Dataset` as NumPy arrays.

    TensorFlow hides what a reader raises behind an error of its own; here it comes out
    as it was raised.

    Raises:
        ArtJaxError: what a reader that went through `telling_errors` raised.
    """
    from art_jax.data.host_tensorflow import tf

    _raised.clear()
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError:
        if _raised:
            raise _raised.pop() from None
        raise


def telling_errors(rows: Iterable) -> Iterator:
    """Yields the rows and keeps what they raise, for `iterate_dataset` to tell."""
    try:
        yield from rows
    except ArtJaxError as error:
        _raised.append(error)
        raise


def question_of_example(example: Mapping) -> Question:
    """The question of a tokenised example, as NumPy sees it (bytes for strings).

    Args:
        example: with `query_pretokenized` and `question_id`; the others where there
            are any. Lists may be padded with `NO_TEXT`.

    Raises:
        ConfigError: one of the first two is missing.
    """
    missing = {"query_pretokenized", "question_id"} - set(example)
    if missing:
        raise ConfigError(
            f"examples lack {', '.join(sorted(missing))}: end the task's preprocessors "
            "with art_jax.data.preprocessors.tokenize_questions"
        )

    def texts(name: str) -> tuple[str, ...]:
        return tuple(text.decode() for text in example.get(name, ()) if text != NO_TEXT)

    def values(name: str) -> list:
        return json.loads(example.get(name, b"[]").decode())

    return Question(
        question_id=example["question_id"].decode(),
        text=example["query_pretokenized"].decode(),
        answers=texts("answers"),
        relevant_ids=texts("relevant_ids"),
        source_id=example.get("source_id", b"").decode(),
        answer_groups=tuple(map(tuple, values("answer_groups"))),
        grades=tuple(values("grades")),
        evidence=tuple(map(tuple, values("evidence"))),
    )
