"""What a reranker or a reader reads of a question and a passage, as token ids."""

import dataclasses
import string
from collections.abc import Sequence

import numpy as np

from art_jax.data.layouts import TokenTable
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError

JOINT_TEMPLATE = "question: {q} index: {i} title: {t} context: {c}"
POINTWISE_TEMPLATE = "Query: {q} Document: {c} Relevant:"

_FIELDS = {"q", "i", "t", "c"}


@dataclasses.dataclass(frozen=True)
class PassagePrompt:
    """A template that a question and a passage are put into.

    Its parts are tokenised apart, as SentencePiece does with what spaces part anyway;
    an index is one token, the one that the decoder says for it.

    Attributes:
        template: with {q} the question, {c} the passage's text, and, if wanted, {t} its
            title and {i} its index, each once, parted by spaces. JPR's was not
            published: the default is FiD's with an index.
        max_tokens: L, of a row, the end-of-sequence token included. The text's end is
            cut so that the rest fits; then the end of what is before it.

    Raises:
        ConfigError: a field is missing, unknown or there twice.
    """

    template: str = JOINT_TEMPLATE
    max_tokens: int = 360

    def __post_init__(self):
        fields = [field for _, field in self.parts() if field]
        if (
            not {"q", "c"} <= set(fields) <= _FIELDS
            or len(set(fields)) < len(fields)
            or fields[-1] != "c"
        ):
            raise ConfigError(
                f"the template {self.template!r} has the fields {fields}: it must have "
                "{q} and at last {c}, and may have {i} and {t} before that, each once."
            )

    @property
    def has_index(self) -> bool:
        """Whether the index is in it."""
        return any(field == "i" for _, field in self.parts())

    def parts(self) -> list[tuple[str, str]]:
        """The texts of the template, each with the field behind it, "" for none."""
        try:
            found = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise ConfigError(f"the template {self.template!r}: {error}.") from error
        return [(text.strip(), field or "") for text, field, *_ in found]


@dataclasses.dataclass(frozen=True, eq=False)
class PromptRows:
    """A prompt whose texts are tokenised.

    parts: ids, and the field behind them.
    max_tokens: L.
    eos_id: at the end of each row.

    Raises:
        ConfigError: the prompt has no room for anything else.
    """

    parts: tuple[tuple[tuple[int, ...], str], ...]
    max_tokens: int
    eos_id: int = 1

    def __post_init__(self):
        fixed = sum(len(ids) for ids, _ in self.parts) + 1
        if fixed >= self.max_tokens:
            raise ConfigError(
                f"the prompt takes {fixed} of {self.max_tokens} tokens a passage: "
                "raise max_tokens."
            )

    def row(
        self,
        question: Sequence[int],
        index_token: int,
        title: Sequence[int],
        text: Sequence[int],
    ) -> list[int]:
        """The ids of one passage, at most max_tokens."""
        values = {"q": question, "i": (index_token,), "t": title}
        head, tail = [], [self.eos_id]
        for ids, field in self.parts:
            if not field:
                tail = [*ids, self.eos_id]
                break
            head += ids
            head += values.get(field, ())
        room = self.max_tokens - len(tail)
        return [*head, *text[: max(room - len(head), 0)]][:room] + tail

    def layout(
        self,
        questions: TokenTable,
        question_rows: np.ndarray,
        passages: TokenTable,
        passage_rows: np.ndarray,
        index_tokens: np.ndarray,
    ) -> np.ndarray:
        """Rows of several questions' passages.

        Args:
            questions: token ids of all questions.
            question_rows: [B] int, of which these are.
            passages: token ids of all passages.
            passage_rows: [B, n] int; -1 for none, whose row is all padding.
            index_tokens: [B, n] int, of each passage's index.

        Returns:
            [B, n, max_tokens] int32, padded with 0.
        """
        tokens = np.zeros((*passage_rows.shape, self.max_tokens), np.int32)
        for line, question in enumerate(question_rows.tolist()):
            asked = _ids(questions, question)
            for column, row in enumerate(passage_rows[line].tolist()):
                if row < 0:
                    continue
                ids, split = _ids(passages, row), passages.title_lengths[row]
                found = self.row(
                    asked, int(index_tokens[line, column]), ids[:split], ids[split:]
                )
                tokens[line, column, : len(found)] = found
        return tokens


def make_rows(prompt: PassagePrompt, tokenizer: Tokenizer) -> PromptRows:
    """The prompt in a tokeniser's ids; rows end in its end of sequence, or in 1."""
    texts, fields = zip(*prompt.parts(), strict=True)
    ids = tokenizer.encode_batch(list(texts))
    return PromptRows(
        tuple(zip(map(tuple, ids), fields, strict=True)),
        prompt.max_tokens,
        getattr(tokenizer, "eos_id", 1),
    )


def _ids(tokens: TokenTable, row: int) -> list[int]:
    return tokens.token_ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
