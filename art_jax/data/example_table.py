"""Training examples as arrays on the host: questions, passages, and which go together.

A passage that many questions have is held once. Token ids are bare, as in the evidence
store: special tokens come with the layout when a batch is made.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from art_jax.data.example_sets import ExampleSet, query_forms_of, read_set
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.layouts import TokenTable
from art_jax.data.passages import Passage
from art_jax.data.query_forms import QueryForm, encode_queries, find_special_ids
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import DataError

_TEXTS_A_CALL = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class RaggedRows:
    """A list of rows for each example.

    offsets: [n + 1] int64, where each list starts in `values`.
    values: [t] int32, rows of the passages.
    """

    offsets: np.ndarray
    values: np.ndarray

    def counts(self, examples: np.ndarray) -> np.ndarray:
        """The lengths of some examples' lists, [b] int64."""
        return self.offsets[examples + 1] - self.offsets[examples]

    def pick(self, examples: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The rows at some places of some examples' lists, int32; -1 for place -1.

        Args:
            examples: [b] int.
            places: [b, k] int, each below its list's length, or -1.
        """
        at = self.offsets[examples][:, None] + np.maximum(places, 0)
        if not len(self.values):
            return np.full(places.shape, -1, np.int32)
        values = self.values[np.minimum(at, len(self.values) - 1)]
        return np.where(places >= 0, values, -1).astype(np.int32)

    def keep(self, is_kept: np.ndarray) -> "RaggedRows":
        """The lists without some of their values; is_kept: [t] bool."""
        before = np.concatenate([[0], np.cumsum(is_kept)])
        return RaggedRows(before[self.offsets], self.values[is_kept])

    def take(self, examples: np.ndarray) -> "RaggedRows":
        """The lists of some examples, [b] int in ascending order."""
        is_kept = np.zeros(len(self.offsets) - 1, bool)
        is_kept[examples] = True
        lengths = np.diff(self.offsets)
        values = self.values[np.repeat(is_kept, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths[is_kept])])
        return RaggedRows(offsets.astype(np.int64), values)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleTable:
    """n training examples of several sets, set after set, and their M passages.

    sets: where they are from.
    set_offsets: [sets + 1] int64, the first example of each; the last is n.
    num_dropped: for each set, questions left out for want of a right passage.
    questions: n rows of token ids.
    passages: M rows of token ids, all different.
    passage_ids: M ids, "" where a file does not say; of equal passages the first's.
    positives: rows of right passages, one at least, the surest first.
    negatives: rows of wrong ones drawn without regard to the question.
    hard_negatives: rows of wrong ones that look right.
    """

    sets: tuple[ExampleSet, ...]
    set_offsets: np.ndarray
    num_dropped: tuple[int, ...]
    questions: TokenTable
    passages: TokenTable
    passage_ids: tuple[str, ...]
    positives: RaggedRows
    negatives: RaggedRows
    hard_negatives: RaggedRows

    @property
    def num_examples(self) -> int:
        """The number of examples, n."""
        return self.questions.num_rows

    def describe(self) -> str:
        """One line for people: each set's questions, and the passages of all."""
        sizes = np.diff(self.set_offsets)
        parts = [
            f"{one.label} {size:,}"
            + (f" ({dropped:,} without a right passage left out)" if dropped else "")
            for one, size, dropped in zip(
                self.sets, sizes, self.num_dropped, strict=True
            )
        ]
        return (
            f"{self.num_examples:,} questions with {self.passages.num_rows:,} passages:"
            f" {', '.join(parts)}"
        )


# Read before any stage is trained, so that what is wrong with a file is said at once,
# and not again when the stage's turn comes.
@functools.lru_cache(maxsize=4)
def read_example_table(
    sets: tuple[ExampleSet, ...],
    tokenizer: WordPieceTokenizer,
    max_query_tokens: int = 256,
) -> ExampleTable:
    """The table of some sets, read from their files or SeqIO tasks, in their order.

    The last tables read are kept.

    Args:
        sets: where the examples are, and how each is read.
        tokenizer: of both encoders.
        max_query_tokens: Q, by which long documents are cut around their mention.

    Raises:
        ConfigError: a task is not registered, or has no such split.
        DataError: a file breaks its format, or a set has no question with a right
            passage.
    """
    return build_example_table(
        sets,
        [read_set(one, tokenizer) for one in sets],
        tokenizer,
        max_query_tokens,
    )


def build_example_table(
    sets: Sequence[ExampleSet],
    examples: Sequence[Iterable[TrainingExample]],
    tokenizer: WordPieceTokenizer,
    max_query_tokens: int = 256,
) -> ExampleTable:
    """The table of examples that are at hand.

    Args:
        sets: how each is to be read.
        examples: for each set, its examples, read once.
        tokenizer: of both encoders.
        max_query_tokens: Q, as for `read_example_table`.

    Raises:
        ConfigError: two sets of a task read its questions in different ways, or the
            vocabulary has no row for a marker.
        DataError: a set has no question with a right passage.
    """
    query_forms_of(sets)
    special_ids = find_special_ids([one.query_form for one in sets], tokenizer)
    questions = _QuestionRows(tokenizer, special_ids, max_query_tokens)
    passages = _Pool(tokenizer)
    lists = {name: _Lists() for name in ("positives", "negatives", "hard_negatives")}
    set_offsets, num_dropped = [0], []
    for one, some_examples in zip(sets, examples, strict=True):
        dropped = 0
        for example in some_examples:
            if not example.positives:
                dropped += 1
                continue
            questions.add(example.question, one.query_form)
            for name, rows in lists.items():
                candidates = getattr(example, name)
                if name != "positives":
                    candidates = candidates[: one.max_passages]
                rows.add(passages.rows_of(candidates, one.normalize))
        if len(questions) == set_offsets[-1]:
            raise DataError(
                f"{one.label} has {dropped} questions and none has a right passage: "
                "there is nothing to train on.",
                one.path,
            )
        set_offsets.append(len(questions))
        num_dropped.append(dropped)
    return ExampleTable(
        sets=tuple(sets),
        set_offsets=np.array(set_offsets, np.int64),
        num_dropped=tuple(num_dropped),
        questions=questions.finish(),
        passages=passages.tokens.finish(),
        passage_ids=tuple(passages.ids),
        **{name: rows.finish() for name, rows in lists.items()},
    )


def keep_positives(table: ExampleTable, is_kept: np.ndarray) -> ExampleTable:
    """The table with some right passages alone, without questions that have no more.

    Args:
        table: of any examples.
        is_kept: [M] bool, of its passages; wrong ones stay.

    Raises:
        DataError: a set has no question left.
    """
    positives = table.positives.keep(is_kept[table.positives.values])
    is_left = np.diff(positives.offsets) > 0
    examples = np.flatnonzero(is_left)
    set_offsets = np.concatenate([[0], np.cumsum(is_left)])[table.set_offsets]
    for one, size in zip(table.sets, np.diff(set_offsets), strict=True):
        if not size:
            raise DataError(
                f"{one.label} has no question whose right passage is known here: are "
                "its passage_ids those of PASSAGES?",
                one.path,
            )
    dropped = np.diff(table.set_offsets) - np.diff(set_offsets)
    return dataclasses.replace(
        table,
        set_offsets=set_offsets,
        num_dropped=tuple(
            int(count) for count in np.array(table.num_dropped) + dropped
        ),
        questions=take_rows(table.questions, examples),
        positives=positives.take(examples),
        negatives=table.negatives.take(examples),
        hard_negatives=table.hard_negatives.take(examples),
    )


def find_positives(
    table: ExampleTable, row_of: Callable[[str], int]
) -> tuple[ExampleTable, np.ndarray]:
    """The table's questions whose right passages are known elsewhere, and where.

    Args:
        table: of any examples.
        row_of: from a passage's id to its row there; raises DataError for none.

    Returns:
        The table, and [M] int32, of its passages; -1 for those that no question asks
        for or that are nowhere.

    Raises:
        DataError: a set has no question left.
    """
    rows = np.full(table.passages.num_rows, -1, np.int32)
    for row in np.unique(table.positives.values).tolist():
        with contextlib.suppress(DataError):
            rows[row] = row_of(table.passage_ids[row])
    return keep_positives(table, rows >= 0), rows


def take_rows(tokens: TokenTable, rows: np.ndarray) -> TokenTable:
    """Some rows of a token table as a table of their own; rows: [n] int."""
    lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    shift = np.repeat(tokens.offsets[rows] - offsets[:-1], lengths)
    places = np.arange(offsets[-1]) + shift
    return TokenTable(tokens.token_ids[places], offsets, tokens.title_lengths[rows])


def passage_text(text: str, *, normalize: bool) -> str:
    """A passage's text as it is tokenised, without white space at its ends.

    Source: DPR's official code, as described in reference/systems.md, section 3.1.
    """
    if normalize:
        text = text.replace("\n", " ").replace("’", "'")
        text = text.removeprefix('"').removesuffix('"')
    return text.strip()


class _Lists:
    """Lists of rows, one after the other."""

    def __init__(self):
        self._lengths: list[int] = []
        self._values: list[np.ndarray] = []

    def add(self, rows: Sequence[int]) -> None:
        self._lengths.append(len(rows))
        self._values.append(np.array(rows, np.int32))

    def finish(self) -> RaggedRows:
        offsets = np.zeros(len(self._lengths) + 1, np.int64)
        np.cumsum(self._lengths, out=offsets[1:])
        empty = np.zeros(0, np.int32)
        return RaggedRows(offsets, np.concatenate([empty, *self._values]))


class _TokenRows:
    """Rows of token ids on their way into a TokenTable, many tokenised in one call."""

    def __init__(self, tokenizer: WordPieceTokenizer):
        self._tokenizer = tokenizer
        self._dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        self._waiting: list = []
        self._ids: list[np.ndarray] = []
        self._lengths: list[tuple[int, int]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def finish(self) -> TokenTable:
        self._tokenize()
        lengths = np.array(self._lengths, np.int64).reshape(-1, 2)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths.sum(axis=1), out=offsets[1:])
        ids = np.concatenate([np.zeros(0, self._dtype), *self._ids])
        return TokenTable(ids, offsets, lengths[:, 0].astype(np.int32))

    def _wait(self, item) -> None:
        self._count += 1
        self._waiting.append(item)
        if len(self._waiting) == _TEXTS_A_CALL:
            self._tokenize()

    def _tokenize(self) -> None:
        """Takes in what waits."""
        raise NotImplementedError

    def _take_in(
        self, encoded: Sequence[Sequence[int]], lengths: Iterable[tuple[int, int]]
    ) -> None:
        """Adds rows: all their ids in order, and of each those of title and text."""
        self._lengths += lengths
        self._ids.append(
            np.array([token for ids in encoded for token in ids], self._dtype)
        )
        self._waiting = []


class _PassageRows(_TokenRows):
    def add(self, title: str, text: str) -> None:
        self._wait((title, text))

    def _tokenize(self) -> None:
        flat = [part for pair in self._waiting for part in pair]
        encoded = self._tokenizer.encode_batch(flat)
        lengths = list(map(len, encoded))
        self._take_in(encoded, zip(lengths[::2], lengths[1::2], strict=True))


class _QuestionRows(_TokenRows):
    """Questions, each read as its form says; rows without a title."""

    def __init__(
        self,
        tokenizer: WordPieceTokenizer,
        special_ids: Mapping[str, int],
        max_tokens: int,
    ):
        super().__init__(tokenizer)
        self._special_ids = special_ids
        self._max_tokens = max_tokens
        self._form = QueryForm()

    def add(self, question: Question, form: QueryForm) -> None:
        if form != self._form:
            self._tokenize()
            self._form = form
        self._wait(question)

    def _tokenize(self) -> None:
        encoded = encode_queries(
            self._waiting,
            self._form,
            tokenizer=self._tokenizer,
            special_ids=self._special_ids,
            max_tokens=self._max_tokens,
        )
        self._take_in(encoded, [(0, len(ids)) for ids in encoded])


class _Pool:
    """Passages that are all different, by title and text."""

    def __init__(self, tokenizer: WordPieceTokenizer):
        self.tokens = _PassageRows(tokenizer)
        self.ids: list[str] = []
        self._row_of: dict[bytes, int] = {}

    def rows_of(self, candidates: Sequence[Candidate], normalize: bool) -> list[int]:
        return [self._row(candidate.passage, normalize) for candidate in candidates]

    def _row(self, passage: Passage, normalize: bool) -> int:
        text = passage_text(passage.text, normalize=normalize)
        # A digest takes less memory than the text, of which there are millions.
        content = f"{passage.title}\0{text}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(content, digest_size=16).digest()
        row = self._row_of.setdefault(digest, len(self.ids))
        if row == len(self.ids):
            self.ids.append(passage.passage_id)
            self.tokens.add(passage.title, text)
        return row
