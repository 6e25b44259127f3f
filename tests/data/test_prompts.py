import dataclasses

import numpy as np
import pytest

from art_jax.data.layouts import make_token_table
from art_jax.data.prompts import (
    POINTWISE_TEMPLATE,
    PassagePrompt,
    PromptRows,
    make_rows,
)
from art_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Words:
    """A word's id is its number."""

    names: tuple[str, ...]
    eos_id = 1

    def encode_batch(self, texts):
        return [[self.names.index(word) for word in text.split()] for text in texts]


@pytest.fixture
def tokenizer():
    fields = ("question:", "index:", "title:", "context:")
    indexes = (f"<{number}>" for number in range(8))
    return Words(("<pad>", "</s>", *indexes, *fields, "w1", "w2", "w3", "w4"))


def test_a_row_is_the_template_with_its_fields_filled(tokenizer):
    rows = make_rows(PassagePrompt(max_tokens=12), tokenizer)
    question, title, text = tokenizer.encode_batch(["w1", "w2 w3", "w4"])
    want = ["question:", "w1", "index:", "<5>", "title:", "w2", "w3", "context:", "w4"]
    (ids,) = tokenizer.encode_batch([" ".join(want)])
    assert rows.row(question, tokenizer.names.index("<5>"), title, text) == [*ids, 1]


def test_what_stands_behind_the_text_is_never_cut():
    # As in "Query: {q} Document: {c} Relevant:", with ids 5, 6, 7 for the three words.
    rows = PromptRows((((5,), "q"), ((6,), "c"), ((7,), "")), max_tokens=7)
    assert rows.row([9], 0, [], [20]) == [5, 9, 6, 20, 7, 1]
    assert rows.row([9], 0, [], [20, 21, 22, 23]) == [5, 9, 6, 20, 21, 7, 1]
    assert rows.row([9] * 9, 0, [], [20]) == [5, 9, 9, 9, 9, 7, 1]


def test_rows_of_a_batch_are_padded_and_missing_passages_are_padding(tokenizer):
    rows = make_rows(
        PassagePrompt("question: {q} index: {i} context: {c}", 9), tokenizer
    )
    questions = make_token_table([(), ()], [[11], [12, 13]])
    passages = make_token_table([[30], []], [[20, 21], [22]])
    tokens = rows.layout(
        questions,
        np.array([1, 0]),
        passages,
        np.array([[1, 0], [0, -1]]),
        np.array([[3, 4], [5, 6]]),
    )
    question, index, context = tokenizer.encode_batch(["question: index: context:"])[0]
    assert tokens.tolist() == [
        [
            [question, 12, 13, index, 3, context, 22, 1, 0],
            [question, 12, 13, index, 4, context, 20, 21, 1],
        ],
        [[question, 11, index, 5, context, 20, 21, 1, 0], [0] * 9],
    ]


@pytest.mark.parametrize(
    "template",
    ["{q}", "{c}", "{c} {q}", "{q} {x} {c}", "{q} {q} {c}", "{q} {i} {c} {t}", "{q"],
)
def test_a_template_that_cannot_be_filled_is_an_error(template):
    with pytest.raises(ConfigError, match="template"):
        PassagePrompt(template)


def test_a_prompt_needs_room(tokenizer):
    with pytest.raises(ConfigError, match="takes 5 of 5 tokens"):
        make_rows(PassagePrompt(max_tokens=5), tokenizer)
    assert PassagePrompt().has_index
    assert not PassagePrompt(POINTWISE_TEMPLATE).has_index
    # Parts with nothing before their field are parts too.
    assert PassagePrompt("{i} {q} {c}").has_index
