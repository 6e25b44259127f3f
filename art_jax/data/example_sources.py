"""SeqIO sources over questions with passages: to train on, to rerank, to read.

An example has the fields of a question (see `sources`) and, for each list of candidates
that its kind has, the lists of strings `LIST_ids`, `LIST_titles` and `LIST_texts` and,
as strings of JSON, `LIST_scores` and `LIST_has_answer`, lists with null where nothing
is known. The lists, and one string more, are

    TrainingExample   positives, negatives, hard_negatives; dataset
    RankedQuestion    candidates; target

Any of the lists may be empty, `positives` among them. TensorFlow is imported, and a
file opened, only when a dataset is built.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from art_jax.data import sources
from art_jax.data.example_files import Example
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.passages import Passage

_LISTS = {
    TrainingExample: ("positives", "negatives", "hard_negatives"),
    RankedQuestion: ("candidates",),
}
_STRINGS = {TrainingExample: "dataset", RankedQuestion: "target"}

Readers = Mapping[str, Callable[[], Iterable[Example]]]


def example_source(readers: Readers, kind: type = TrainingExample):
    """A SeqIO source (`seqio.FunctionDataSource`) over examples that a function reads.

    Examples come in the order they are read in, one at a time, so a file larger than
    memory can be read. A source has a single shard, and its iterators cannot be saved.

    Args:
        readers: for each split, a function that gives its examples; called when a
            dataset is built, and again for each pass over it.
        kind: `TrainingExample` or `RankedQuestion`.
    """
    from art_jax.data.host_tensorflow import seqio

    def dataset(split: str, shuffle_files: bool, seed: int | None = None):
        del shuffle_files, seed  # One file a split; SeqIO shuffles its examples.
        readers[split]()  # A file that is missing is missed now.
        return example_dataset(readers[split], kind)

    return seqio.FunctionDataSource(dataset, splits=tuple(readers))


def example_dataset(read: Callable[[], Iterable[Example]], kind: type):
    """The examples as a `tf.data.Dataset`, in order.

    Args:
        read: gives the examples; called for each pass over the dataset.
        kind: that they are of.
    """
    from art_jax.data.host_tensorflow import tf

    def rows() -> Iterator[dict[str, Any]]:
        for example in sources.telling_errors(read()):
            yield example_fields(example)

    question = sources.question_dataset([]).element_spec
    string, strings = tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.string)
    passages = {}
    for name in _LISTS[kind]:
        passages |= dict.fromkeys((f"{name}_ids", f"{name}_titles"), strings)
        passages |= {f"{name}_texts": strings}
        passages |= dict.fromkeys((f"{name}_scores", f"{name}_has_answer"), string)
    ragged = {
        name: strings if isinstance(spec, tf.RaggedTensorSpec) else spec
        for name, spec in question.items()
    }
    return tf.data.Dataset.from_generator(
        rows, output_signature={**ragged, **passages, _STRINGS[kind]: string}
    )


def example_fields(example: Example) -> dict[str, Any]:
    """The fields of an example, as texts and lists of texts."""
    kind = type(example)
    fields = sources.question_fields(example.question)
    for name in _LISTS[kind]:
        candidates = getattr(example, name)
        passages = [candidate.passage for candidate in candidates]
        fields[f"{name}_ids"] = [passage.passage_id for passage in passages]
        fields[f"{name}_titles"] = [passage.title for passage in passages]
        fields[f"{name}_texts"] = [passage.text for passage in passages]
        scores = [candidate.score for candidate in candidates]
        fields[f"{name}_scores"] = json.dumps(scores)
        has_answer = [candidate.has_answer for candidate in candidates]
        fields[f"{name}_has_answer"] = json.dumps(has_answer)
    fields[_STRINGS[kind]] = getattr(example, _STRINGS[kind])
    return fields


def example_of_fields(fields: Mapping, kind: type = TrainingExample) -> Example:
    """The example of a task's tokenised features, as NumPy sees them (bytes for text).

    Args:
        fields: what `example_source` gives, once `preprocessors.tokenize_questions` has
            put `query_pretokenized` in the place of `question`. Lists may be padded
            with `sources.NO_TEXT`.
        kind: that it is of.

    Raises:
        ConfigError: the fields of the question are missing.
    """
    lists = {name: _candidates(fields, name) for name in _LISTS[kind]}
    string = _STRINGS[kind]
    return kind(
        question=sources.question_of_example(fields),
        **lists,
        **{string: fields[string].decode()},
    )


def _candidates(fields: Mapping, name: str) -> tuple[Candidate, ...]:
    ids, titles, texts = (
        [text.decode() for text in fields[f"{name}_{part}"] if text != sources.NO_TEXT]
        for part in ("ids", "titles", "texts")
    )
    scores = json.loads(fields[f"{name}_scores"])
    has_answer = json.loads(fields[f"{name}_has_answer"])
    return tuple(
        Candidate(Passage(one, text, title), score, has)
        for one, title, text, score, has in zip(
            ids, titles, texts, scores, has_answer, strict=True
        )
    )
