import numpy as np
import pytest

from art_jax.data.layouts import layout_rows, make_token_table
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError
from art_jax.teacher import prompts


class WordIds:
    """A tokeniser of whitespace-separated words, numbered as they come."""

    eos_id = 1
    pad_id = 0

    def __init__(self):
        self.ids = {}
        self.texts = []

    def encode_batch(self, texts):
        self.texts += texts
        return [
            [self.ids.setdefault(word, len(self.ids) + 10) for word in text.split()]
            for text in texts
        ]

    def words(self, row):
        by_id = {number: word for word, number in self.ids.items()}
        return [by_id.get(int(token), int(token)) for token in row]


INSTRUCTION = [".", "Please", "write", "a", "question"]
INSTRUCTION += ["based", "on", "this", "passage."]


def passage_words(tokenizer, max_tokens, title, text):
    layout = prompts.passage_layout(tokenizer, max_tokens)
    titles, texts = tokenizer.encode_batch([title]), tokenizer.encode_batch([text])
    (row,) = layout_rows(layout, make_token_table(titles, texts), np.array([0]))
    return tokenizer.words(row)


def test_the_teacher_reads_head_title_text_instruction_and_eos():
    words = passage_words(WordIds(), 16, "A title", "some text")
    head = ["Passage:", "A", "title", "some", "text"]
    assert words == [*head, *INSTRUCTION, 1, 0]


def test_each_piece_is_tokenised_by_itself_with_arts_wording():
    tokenizer = WordIds()
    prompts.passage_layout(tokenizer)
    assert tokenizer.texts == [
        "Passage: ",
        " . Please write a question based on this passage.",
    ]


@pytest.mark.parametrize("num_words", [1, 2, 3, 4, 50])
def test_the_instruction_is_never_cut(num_words):
    # Room for head, 3 words, instruction and EOS: fits, fits exactly, is cut.
    text = " ".join(f"w{i}" for i in range(num_words))
    words = passage_words(WordIds(), 1 + 3 + 9 + 1, "", text)
    kept = text.split()[:3]
    padding = [0] * (3 - len(kept))
    assert words == ["Passage:", *kept, *INSTRUCTION, 1, *padding]


def test_no_room_for_the_passage_is_an_error():
    with pytest.raises(ConfigError, match="no room"):
        prompts.passage_layout(WordIds(), max_tokens=1 + 9 + 1)


def test_targets_are_head_and_question_as_one_text_then_eos():
    tokenizer = WordIds()
    targets = prompts.question_targets(tokenizer, ["who is it", "why"], max_tokens=6)
    assert tokenizer.texts == ["Question: who is it", "Question: why"]
    assert targets.dtype == np.int32
    assert tokenizer.words(targets[0]) == ["Question:", "who", "is", "it", 1, 0]
    assert tokenizer.words(targets[1]) == ["Question:", "why", 1, 0, 0, 0]


@pytest.mark.parametrize("max_tokens", [4, 5, 6])
def test_a_long_question_is_cut_and_keeps_its_eos(max_tokens):
    tokenizer = WordIds()
    (row,) = prompts.question_targets(tokenizer, ["a b c"], max_tokens)
    words = ["Question:", "a", "b", "c"][: max_tokens - 1]
    assert tokenizer.words(row) == [*words, 1, *[0] * (max_tokens - len(words) - 1)]


def test_the_default_lengths_are_those_of_art():
    assert prompts.passage_layout(WordIds()).max_tokens == 512
    assert prompts.question_targets(WordIds(), ["a"]).shape == (1, 128)


def test_another_prompt_can_be_given():
    prompt = prompts.Prompt(head="Text:", instruction="Ask.", question_head="")
    tokenizer = WordIds()
    layout = prompts.passage_layout(tokenizer, prompt=prompt)
    assert tokenizer.words(layout.prefix + layout.suffix) == ["Text:", "Ask.", 1]
    assert layout.separator == ()
    prompts.question_targets(tokenizer, ["why"], prompt=prompt)
    assert tokenizer.texts[-1] == "why"


def test_a_whole_prompt_is_worded_as_in_upr():
    prompt = prompts.WholePrompt()
    passage = Passage("7", "It wades.", "Heron")
    assert prompt.text(passage) == (
        "Passage:  Heron It wades.. Please write a question based on this passage."
    )
    short = prompts.WholePrompt(head="Text:", instruction="Ask.")
    assert short.text(Passage("7", "It wades")) == "Text:  It wades. Ask."


@pytest.mark.parametrize("max_tokens", [5, 6, 7, 8])
def test_a_whole_prompt_loses_its_instruction_first(max_tokens):
    tokenizer = WordIds()
    prompt = prompts.WholePrompt(head="Text:", instruction="Now ask.")
    layout = prompt.layout(tokenizer, max_tokens)
    ids = tokenizer.encode_batch([prompt.text(Passage("7", "it wades", "Heron"))])
    (row,) = layout_rows(layout, make_token_table([()], ids), np.array([0]))
    words = ["Text:", "Heron", "it", "wades.", "Now", "ask."][: max_tokens - 1]
    assert tokenizer.words(row) == [*words, 1, *[0] * (max_tokens - len(words) - 1)]
