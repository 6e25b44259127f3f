import dataclasses

import numpy as np
import pytest

from art_jax.data.example_files import write_examples
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.methods.ranked_table import (
    GIVEN,
    RankedSet,
    as_ranking,
    build_ranked_table,
    read_ranked_table,
)


def test_it_holds_rankings_and_which_passage_holds_which_answer(tokenizer):
    shared = Passage("1", "w1 apple", "w2")
    ranked = [
        RankedQuestion(
            Question(
                "a", "w1", ("apple", "pear"), answer_groups=(("apple",), ("pear",))
            ),
            (Candidate(shared, 3.0), Candidate(Passage("2", "pear apple"), 1.5)),
        ),
        RankedQuestion(Question("b", "w2 w3", ("plum", "apple")), (Candidate(shared),)),
        RankedQuestion(Question("c", "w4"), (Candidate(Passage("3", "w5")),)),
        RankedQuestion(Question("d", "w4", ("plum",)), ()),
    ]
    table = build_ranked_table(ranked, tokenizer)
    np.testing.assert_array_equal(table.rows, [[0, 1], [0, -1], [2, -1], [-1, -1]])
    np.testing.assert_array_equal(
        table.priors, [[3, 1.5], [0, -np.inf], [0, -np.inf], [-np.inf, -np.inf]]
    )
    # The second question's answers are aliases of one; the third has none.
    assert [held.tolist() for held in table.held] == [
        [[True, False], [True, True]],
        [[True]],
        [[]],
        [],
    ]
    assert table.answerable().tolist() == [0, 1]
    ids = [ids for text in ("w2", "w1 apple") for ids in tokenizer.encode_batch([text])]
    assert table.passages.token_ids[:3].tolist() == ids[0] + ids[1]
    assert table.passages.title_lengths.tolist() == [1, 0, 0]
    assert table.num_questions == 4


def test_rankings_are_cut_and_priors_replaced(rankings, tokenizer):
    table = build_ranked_table(rankings, tokenizer, depth=2)
    assert table.rows.shape == (20, 2)
    assert all(len(held) == 2 for held in table.held)
    priors = np.arange(40.0).reshape(20, 2)
    np.testing.assert_array_equal(table.with_priors(priors).priors, priors)
    with pytest.raises(ValueError, match="priors"):
        table.with_priors(priors[:3])


def test_questions_without_answers_alone_are_a_table_too(rankings, tokenizer):
    one = dataclasses.replace(rankings[0], question=Question("q", "w1"))
    assert not len(build_ranked_table([one], tokenizer).answerable())


def test_sets_are_read_from_files(rankings, tokenizer, tmp_path):
    path = tmp_path / "ranked.json"
    # DPR's format has no answer groups, so each question keeps one answer.
    ranked = [
        dataclasses.replace(
            one,
            question=dataclasses.replace(
                one.question, answers=one.question.answers[:1], answer_groups=()
            ),
        )
        for one in rankings
    ]
    write_examples(path, ranked, "dpr-results")
    want = build_ranked_table(ranked, tokenizer, depth=3)
    found = read_ranked_table((RankedSet(path=str(path), depth=3),), tokenizer)
    np.testing.assert_array_equal(found.rows, want.rows)
    for one, other in zip(found.held, want.held, strict=True):
        np.testing.assert_array_equal(one, other)


EXAMPLE = TrainingExample(
    Question("a", "w1", ("w9",)),
    positives=(Candidate(Passage("1", "w2"), 9.0), Candidate(Passage("2", "w3"))),
    negatives=(Candidate(Passage("3", "w4 w9")),),
    hard_negatives=(Candidate(Passage("4", "w5")),),
)


@pytest.mark.parametrize(
    ("depth", "ids"),
    [(None, "4312"), (4, "4312"), (3, "412"), (2, "12"), (1, "1")],
)
def test_an_example_is_a_ranking_with_what_is_right_at_its_end(depth, ids):
    ranked = as_ranking(EXAMPLE, depth)
    assert "".join(one.passage.passage_id for one in ranked.candidates) == ids
    for one in ranked.candidates:
        assert (one.has_answer, one.score) == (one.passage.passage_id in "12", None)
    assert ranked.question == EXAMPLE.question


@pytest.mark.parametrize("file_format", ["dpr", "tevatron"])
def test_what_is_right_is_told_by_training_examples(tokenizer, tmp_path, file_format):
    path = tmp_path / "examples"
    write_examples(path, [EXAMPLE], file_format)
    given = RankedSet(path=str(path), file_format=file_format, depth=3, match=GIVEN)
    (held,) = read_ranked_table((given,), tokenizer).held
    np.testing.assert_array_equal(held, [[False], [True], [True]])
    looked_for = dataclasses.replace(given, depth=None, match="string")
    if file_format == "dpr":  # Tevatron's has no answers.
        (held,) = read_ranked_table((looked_for,), tokenizer).held
        np.testing.assert_array_equal(held, [[False], [True], [False], [False]])


def test_what_is_right_is_told_by_rankings(tokenizer):
    candidates = (
        Candidate(Passage("1", "w2"), 2.0, False),
        Candidate(Passage("2", "w3"), 1.0, True),
    )
    one = RankedQuestion(Question("a", "w1"), candidates)
    empty = RankedQuestion(Question("b", "w1"), ())
    table = build_ranked_table([one, empty], tokenizer, match=GIVEN)
    assert [held.tolist() for held in table.held] == [[[False], [True]], []]
    assert table.held[1].shape == (0, 1)
    unknown = dataclasses.replace(candidates[0], has_answer=None)
    one = dataclasses.replace(one, candidates=(candidates[1], unknown))
    with pytest.raises(DataError, match="question 'a' has passages of which no"):
        build_ranked_table([one], tokenizer, match=GIVEN)


def test_what_does_not_fit_is_said(tokenizer):
    with pytest.raises(ConfigError, match="give one of the two"):
        RankedSet()
    with pytest.raises(ConfigError, match="of format 'csv': choose of dpr, tevatron"):
        RankedSet(path="x.json", file_format="csv")
    with pytest.raises(ConfigError, match="depth of x.json is 0"):
        RankedSet(path="x.json", depth=0)
    sets = RankedSet(path="x.json"), RankedSet(path="x.json", depth=2)
    with pytest.raises(ConfigError, match="same depth and match"):
        read_ranked_table(sets, tokenizer)
    with pytest.raises(ConfigError, match="no train_sets"):
        read_ranked_table((), tokenizer)
