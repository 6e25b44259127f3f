"""Data sets of training examples, and how each is trained on."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from art_jax.data import example_files, subsets
from art_jax.data.examples import TrainingExample
from art_jax.data.query_forms import QueryForm
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ExampleSet:
    """One data set of training examples, and how it is trained on.

    task: a SeqIO task or mixture of examples, such as "biencoder_nq" of
        `art_jax.tasks.dpr`; a mixture is read as one set.
    path: a file, in place of a task.
    file_format: of the file, one of `example_files.FORMATS`.
    split: of the task.
    name: in reports; "" for that of the task or file.
    sampling_rate: how often an epoch goes through it; 0.5: each time the other half.
    loss_scale: multiplies its batches' losses.
    shuffle_positives: learn from any of a question's right passages, drawn each time,
        and not from the first alone.
    num_examples: so many of its examples, always the same ones; None: all.
    query_task: what the retriever that is trained calls the set's task, under which
        it keeps how its questions are read, see `query_forms`; "": they are read as
        any question is, but for the suffix.
    query_special_suffix: put behind a question that does not end in it, such as "?".
    marker, special, keep_mention, tower: as of `QueryForm`.
    normalize: in passages, line feeds become spaces, and a quotation mark at either
        end is taken off. Typographic apostrophes become plain ones.
    max_passages: of each question's wrong passages, so many of either kind are kept,
        the first ones, to save memory; None: all.

    Raises:
        ConfigError: there is not one source, a number is not positive, or questions
            are to be read in a way that no `query_task` keeps.

    Source: DPR's official configuration, whose names most of these are, as described
        in reference/systems.md. Differs in: `max_passages`, `num_examples` and
        `query_task`, which it has not.
    """

    task: str | None = None
    path: str | None = None
    file_format: str = "dpr"
    split: str = "train"
    name: str = ""
    sampling_rate: float = 1.0
    loss_scale: float = 1.0
    shuffle_positives: bool = False
    num_examples: int | None = None
    query_task: str = ""
    query_special_suffix: str = ""
    marker: str = ""
    special: tuple[str, ...] = ()
    keep_mention: bool = False
    tower: str = ""
    normalize: bool = False
    max_passages: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "special", tuple(self.special))
        if (self.task is None) == (self.path is None):
            raise ConfigError(
                f"an ExampleSet has task {self.task!r} and path {self.path!r}: give "
                "one of the two."
            )
        if self.path is not None and self.file_format not in example_files.formats_of(
            TrainingExample
        ):
            raise ConfigError(
                f"{self.path} is of format {self.file_format!r}: training examples are "
                f"{', '.join(example_files.formats_of(TrainingExample))}."
            )
        if self.sampling_rate <= 0 or self.loss_scale <= 0:
            raise ConfigError(
                f"sampling_rate ({self.sampling_rate}) and loss_scale "
                f"({self.loss_scale}) of {self.label} must be above 0: leave a set out "
                "to train without it."
            )
        if self.max_passages is not None and self.max_passages < 0:
            raise ConfigError(f"max_passages is {self.max_passages}: 0 or more.")
        if self.num_examples is not None and self.num_examples < 1:
            raise ConfigError(f"num_examples is {self.num_examples}: 1 or more.")
        if not self.query_task and self.query_form != QueryForm(
            suffix=self.query_special_suffix
        ):
            raise ConfigError(
                f"{self.label} has a marker, special texts, a mention or a tower, "
                "which the retriever must know when it is asked: give it a query_task."
            )

    @property
    def label(self) -> str:
        """What reports and errors call it."""
        return self.name or self.task or pathlib.Path(self.path).name

    @property
    def query_form(self) -> QueryForm:
        """How its questions are read."""
        return QueryForm(
            marker=self.marker,
            suffix=self.query_special_suffix,
            special=self.special,
            keep_mention=self.keep_mention,
            tower=self.tower,
        )


def choose_sets(
    sets: Sequence[ExampleSet],
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    num_examples: int | None = None,
) -> tuple[ExampleSet, ...]:
    """Some of several sets, such as all but one task's, or few examples of one.

    Args:
        sets: with a `query_task` each.
        only: tasks to keep; none: all.
        without: tasks to leave out.
        num_examples: of each set that is kept; None: as it says itself.

    Raises:
        ConfigError: a task is none of the sets', or no set is left.
    """
    tasks = {one.query_task for one in sets}
    if unknown := [*({*only, *without} - tasks)]:
        raise ConfigError(
            f"{', '.join(sorted(unknown))}: no such task, choose of "
            f"{', '.join(sorted(tasks))}."
        )
    chosen = [
        one
        for one in sets
        if one.query_task in (only or tasks) and one.query_task not in without
    ]
    if not chosen:
        raise ConfigError("no data set is left: leave out fewer tasks.")
    if num_examples is None:
        return tuple(chosen)
    return tuple(dataclasses.replace(one, num_examples=num_examples) for one in chosen)


def query_forms_of(sets: Sequence[ExampleSet]) -> dict[str, QueryForm]:
    """How the questions of each task are read, by `query_task`.

    Raises:
        ConfigError: two sets of a task say different things.
    """
    forms: dict[str, QueryForm] = {}
    for one in sets:
        if not one.query_task:
            continue
        known = forms.setdefault(one.query_task, one.query_form)
        if known != one.query_form:
            raise ConfigError(
                f"{one.label} reads questions of query_task {one.query_task!r} in "
                f"another way ({one.query_form}) than a set before it ({known}): give "
                "both the same, or call the tasks differently."
            )
    return forms


def towers_of(
    sets: Sequence[ExampleSet], query_towers: Sequence[str]
) -> tuple[int | None, ...]:
    """The question tower of each set; None where there is one for all.

    Args:
        sets: that name a tower each, or none.
        query_towers: the encoder's.

    Raises:
        ConfigError: a set names a tower that the encoder has not, or none of several.
    """
    known = tuple(query_towers) or ("",)
    for one in sets:
        if one.tower not in known:
            raise ConfigError(
                f"the questions of {one.label} go through the tower {one.tower!r}, but "
                f"DualEncoder.query_towers are {', '.join(query_towers) or 'none'}: "
                "name one of them in its ExampleSet."
            )
    return tuple(known.index(one.tower) if query_towers else None for one in sets)


def read_set(
    one: ExampleSet, tokenizer: WordPieceTokenizer
) -> Iterator[TrainingExample]:
    """Yields the examples of a set, as they are in its file."""
    examples = _read_all(one, tokenizer)
    if one.num_examples is None:
        return examples
    with_positives = (example for example in examples if example.positives)
    return iter(subsets.sampled(with_positives, one.num_examples))


def _read_all(
    one: ExampleSet, tokenizer: WordPieceTokenizer
) -> Iterator[TrainingExample]:
    if one.path is not None:
        yield from example_files.read_examples(one.path, one.file_format)
        return
    from art_jax.data import vocabularies
    from art_jax.data.example_sources import example_of_fields
    from art_jax.data.question_table import read_task, tasks_with_split

    vocabularies.use(tokenizer)
    for task in tasks_with_split(one.task, one.split):
        # Questions are tokenised below, with the rest; two tokens are the fewest.
        for _, examples in read_task(task, one.split, 3, example_of_fields):
            yield from examples
