import collections
import dataclasses

import pytest

from art_jax.data.answer_targets import (
    AnswerCodec,
    TargetRules,
    answer_groups,
    draw_target,
    split_answers,
)
from art_jax.data.questions import Question
from art_jax.errors import ConfigError

A, B, C, SEP, EOS = [10], [20, 21], [30, 31, 32], [5, 6], 1


def draw(answers, seed=(0,), **rules):
    return draw_target(answers, TargetRules(**rules), seed, separator=SEP, eos_id=EOS)


def test_groups_are_answers_with_their_aliases_or_each_alone():
    question = Question("q", "?", ("x", "y", "z"), answer_groups=(("x", "y"), ("z",)))
    assert answer_groups(question, "sequence") == (("x", "y"), ("z",))
    assert answer_groups(question, "one") == (("x",), ("y",), ("z",))
    aliases = Question("q", "?", ("x", "y", "x"))
    assert answer_groups(aliases, "sequence") == (("x", "y", "x"),)
    assert answer_groups(aliases, "one") == (("x",), ("y",))
    assert answer_groups(Question("q", "?"), "one") == ()
    assert answer_groups(Question("q", "?"), "sequence") == ()


def test_one_answer_is_drawn_and_each_is_as_likely():
    counts = collections.Counter(
        tuple(draw([A, B, C], seed=(7, step))) for step in range(600)
    )
    assert set(counts) == {(*A, EOS), (*B, EOS), (*C, EOS)}
    assert min(counts.values()) > 150
    assert draw([A, B, C], seed=(7, 3)) == draw([A, B, C], seed=(7, 3))
    assert draw([C], max_tokens=3) == [30, 31, EOS]


def test_a_sequence_is_all_answers_parted_by_the_separator():
    rules = {"form": "sequence", "max_tokens": 40}
    assert draw([B, A, C], **rules) == [*B, *SEP, *A, *SEP, *C, EOS]
    assert draw([A], **rules) == [*A, EOS]
    seen = {tuple(draw([A, B], (0, n), order="shuffled", **rules)) for n in range(20)}
    assert seen == {(*A, *SEP, *B, EOS), (*B, *SEP, *A, EOS)}


@pytest.mark.parametrize(
    ("max_tokens", "want"),
    [
        (3, [20, 21, EOS]),
        (2, [20, EOS]),
        (5, [20, 21, EOS]),
        (6, [20, 21, 5, 6, 10, EOS]),
        (10, [20, 21, 5, 6, 10, EOS]),
        (11, [20, 21, 5, 6, 10, 5, 6, 30, 31, 32, EOS]),
    ],
)
def test_no_answer_of_a_sequence_is_cut_but_a_first(max_tokens, want):
    assert draw([B, A, C], form="sequence", max_tokens=max_tokens) == want


def test_what_is_said_is_split_again():
    ids = [*B, *SEP, *A, EOS, 0, 0]
    assert split_answers(ids, separator=SEP, eos_id=EOS) == [B, A]
    assert split_answers([*B, 5], separator=SEP, eos_id=EOS) == [[*B, 5]]
    assert split_answers([*SEP, *SEP, *A, *SEP], separator=SEP, eos_id=EOS) == [A]
    assert split_answers([*B, *SEP, *A], separator=(), eos_id=EOS) == [[*B, *SEP, *A]]
    assert split_answers([EOS, *A], separator=SEP, eos_id=EOS) == []


@dataclasses.dataclass(frozen=True)
class Letters:
    """A letter's id is its code; "#" has none."""

    eos_id = 1

    def encode_batch(self, texts):
        return [[ord(letter) for letter in text if letter != "#"] for text in texts]

    def decode_batch(self, rows):
        return ["".join(map(chr, row)) for row in rows]


def test_a_codec_goes_both_ways():
    rules = TargetRules("sequence", separator=";", max_tokens=9)
    codec = AnswerCodec(Letters(), rules)
    ids = codec.draw(codec.tokenizer.encode_batch(["ab", "c"]), (0,))
    assert ids == [97, 98, 59, 99, 1]
    assert codec.texts(ids) == ("ab", "c")
    # What is empty, or nothing but spaces, is no answer.
    assert codec.texts([59, 32, 59, 32, 97, 1]) == ("a",)
    one = AnswerCodec(Letters(), TargetRules(separator=";"))
    assert one.texts(ids) == ("ab;c",)
    assert one.texts([1]) == ()


def test_a_codec_needs_texts_and_a_separator():
    class Blind:
        eos_id = 1

    with pytest.raises(ConfigError, match="Blind has no decode_batch"):
        AnswerCodec(Blind(), TargetRules())
    with pytest.raises(ConfigError, match="separator '#' has no token"):
        AnswerCodec(Letters(), TargetRules("sequence", separator="#"))
    AnswerCodec(Letters(), TargetRules("one", separator="#"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "two"}, "form is 'two'"),
        ({"order": "given"}, "order is 'given'"),
        ({"max_tokens": 1}, "max_tokens is 1"),
    ],
)
def test_rules_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TargetRules(**change)
