import dataclasses

import numpy as np
import pytest

from art_jax.data.answer_targets import TargetRules
from art_jax.data.example_files import write_examples
from art_jax.data.examples import RankedQuestion
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.methods.ranked_table import RankedSet
from art_jax.methods.reading.reader_table import (
    build_reader_table,
    read_held_out,
    read_reader_table,
)


def test_it_holds_passages_and_the_answers_that_can_be_said(rankings, tokenizer):
    rules = TargetRules("sequence")
    rankings = [
        dataclasses.replace(one, candidates=one.candidates[:2]) for one in rankings
    ]
    table = build_reader_table(rankings, tokenizer, rules)
    kept = []
    for one in rankings:
        words = [each.passage.text.split() for each in one.candidates]
        order = [word for text in words for word in text]
        fruits = sorted(set(one.question.answers) & set(order), key=order.index)
        if fruits:
            kept.append((one, fruits))
    assert table.num_left_out == len(rankings) - len(kept) > 0
    for ids, row, (one, fruits) in zip(
        table.answers, table.ranked.rows, kept, strict=True
    ):
        assert list(ids) == [tuple(one) for one in tokenizer.encode_batch(fruits)]
        assert np.count_nonzero(row >= 0) == len(one.candidates)
    every = build_reader_table(
        rankings, tokenizer, dataclasses.replace(rules, grounded=False)
    )
    assert every.num_left_out == 0
    assert [len(ids) for ids in every.answers] == [
        len(one.question.answers) for one in rankings
    ]


def test_without_anything_to_say_there_is_no_table(rankings, tokenizer):
    silent = [RankedQuestion(Question("q", "w1"), rankings[0].candidates)]
    with pytest.raises(DataError, match="1 questions, and no passage holds"):
        build_reader_table(silent, tokenizer, TargetRules())


def write_set(path, rankings, **more):
    # One answer each, which all files can hold.
    bare = [
        dataclasses.replace(
            one,
            question=dataclasses.replace(
                one.question, answers=one.question.answers[:1], answer_groups=()
            ),
        )
        for one in rankings
    ]
    write_examples(path, bare, "dpr-results")
    return RankedSet(path=str(path), **more), bare


def test_sets_are_read_as_deep_as_they_say(rankings, tokenizer, tmp_path):
    first, bare = write_set(tmp_path / "a.json", rankings[:10], depth=2)
    second, more = write_set(tmp_path / "b.json", rankings[10:])
    shallow = [dataclasses.replace(one, candidates=one.candidates[:2]) for one in bare]
    want = build_reader_table([*shallow, *more], tokenizer, TargetRules())
    found = read_reader_table((first, second), TargetRules(), tokenizer)
    np.testing.assert_array_equal(found.ranked.rows, want.ranked.rows)
    assert found.answers == want.answers
    assert found is read_reader_table((first, second), TargetRules(), tokenizer)
    questions, held_out = read_held_out((first, second), 12, tokenizer)
    assert [one.text for one in questions] == [
        one.question.text for one in rankings[:12]
    ]
    assert held_out.rows.shape == (12, 6)
    assert (held_out.rows[:10, 2:] == -1).all()


def test_sets_that_do_not_fit_are_refused(rankings, tokenizer, tmp_path):
    one, _ = write_set(tmp_path / "a.json", rankings)
    other = dataclasses.replace(one, match="kilt")
    with pytest.raises(ConfigError, match="have the same match"):
        read_reader_table((one, other), TargetRules(), tokenizer)
    silent = [dataclasses.replace(rankings[0], question=Question("q", "w1"))]
    write_examples(tmp_path / "b.json", silent, "dpr-results")
    with pytest.raises(DataError, match=r"dev_sets b\.json has an answer"):
        read_held_out((RankedSet(path=str(tmp_path / "b.json")),), None, tokenizer)
