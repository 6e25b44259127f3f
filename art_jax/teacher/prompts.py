"""What the T5 teacher reads: a passage with an instruction, and a question to score."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from art_jax.data.layouts import Layout, layout_token_lists
from art_jax.data.passages import Passage


class TeacherTokenizer(Protocol):
    """What a prompt needs of a tokeniser; `SentencePieceTokenizer` has it."""

    eos_id: int
    pad_id: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, no special tokens added."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The texts around a passage and before a question; the default is ART's.

    Attributes:
        head: before the passage.
        instruction: after it; never cut, however long the passage.
        question_head: before the question. Its tokens are scored with the question's.

    Source: arXiv:2206.10658 and its official code, whose wording this is.
    """

    head: str = "Passage: "
    instruction: str = " . Please write a question based on this passage."
    question_head: str = "Question: "


ART = Prompt()


@dataclasses.dataclass(frozen=True)
class WholePrompt:
    """A prompt that is one text with its passage, and is cut as one; UPR's.

    A passage that fills the row takes the instruction's place, so that a teacher reads
    no instruction at all.

    Attributes:
        head: before the title; a space follows it too.
        instruction: after the text's added full stop and a space.

    Source: arXiv:2204.07496 and its official code, whose wording this is.
    """

    head: str = "Passage: "
    instruction: str = "Please write a question based on this passage."

    def text(self, passage: Passage) -> str:
        """Returns the passage with the prompt around it."""
        return f"{self.head} {passage.title} {passage.text}. {self.instruction}"

    def layout(self, tokenizer: TeacherTokenizer, max_tokens: int = 512) -> Layout:
        """Returns how such a text is laid out: cut at the right, then EOS.

        Raises:
            ConfigError: `max_tokens` leaves no room for a text.
        """
        return Layout((), (), (tokenizer.eos_id,), max_tokens, tokenizer.pad_id)


def passage_layout(
    tokenizer: TeacherTokenizer, max_tokens: int = 512, prompt: Prompt = ART
) -> Layout:
    """How the teacher reads passages: head, title, text, instruction and EOS.

    Title and text follow each other with nothing between, and each piece is
    tokenised by itself, as in ART's code.

    Args:
        tokenizer: the teacher's.
        max_tokens: the longest row; a passage is cut so that the rest fits.
        prompt: the texts.

    Raises:
        ConfigError: `max_tokens` leaves no room for the passage.
    """
    head, instruction = tokenizer.encode_batch([prompt.head, prompt.instruction])
    return Layout(
        prefix=tuple(head),
        separator=(),
        suffix=(*instruction, tokenizer.eos_id),
        max_tokens=max_tokens,
        pad_id=tokenizer.pad_id,
    )


def question_targets(
    tokenizer: TeacherTokenizer,
    questions: Sequence[str],
    max_tokens: int = 128,
    prompt: Prompt = ART,
) -> np.ndarray:
    """The tokens whose log-likelihood the teacher gives.

    `prompt.question_head` and the question are tokenised as one text, cut to
    `max_tokens - 1` tokens and closed by EOS.

    Args:
        tokenizer: the teacher's.
        questions: B texts.
        max_tokens: T, the length of a row.
        prompt: the texts.

    Returns:
        [B, T] int32, filled with `pad_id`.
    """
    texts = [prompt.question_head + question for question in questions]
    layout = Layout((), (), (tokenizer.eos_id,), max_tokens, tokenizer.pad_id)
    return layout_token_lists(layout, tokenizer.encode_batch(texts))
