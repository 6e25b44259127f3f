"""What questions are offered: right, hard wrong and uniform passages, by hand."""

import dataclasses
import json

import numpy as np
import pytest

from art_jax.data import evidence
from art_jax.data.example_sets import ExampleSet
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passage_mix import PassageMix, find_given, open_mix
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError

TOKENIZER = WordPieceTokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "p"))
NUM_ROWS = 6
QUESTIONS = ("a", "b", "c", "a")
SETS = (ExampleSet(path="given to find_given"),)


def candidates(*ids):
    return tuple(Candidate(Passage(one, "p")) for one in ids)


EXAMPLES = (
    TrainingExample(
        Question("1", "a"),
        positives=candidates("p3", "gone", "p1"),
        hard_negatives=candidates("p0", "p4", "p0", "p5"),
    ),
    TrainingExample(Question("2", "a"), positives=candidates("p2")),
    TrainingExample(Question("3", "b"), positives=candidates("p2")),
    TrainingExample(Question("4", "asked by nobody"), positives=candidates("p0")),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    some = [Passage(f"p{row}", f"p {row}") for row in range(NUM_ROWS)]
    folder = tmp_path_factory.mktemp("evidence") / "store"
    return evidence.build_evidence(some, folder, {"retriever": TOKENIZER})


def find(store, **settings):
    mix = PassageMix(SETS, **settings)
    return find_given(mix, EXAMPLES, QUESTIONS, store)


EVERY = np.arange(4)


def test_right_passages_are_the_first_that_the_evidence_has(store):
    given = find(store, num_positives=2)
    # Of two examples of a text the first counts; c has none.
    want = [[3, 1], [2, -1], [-1, -1], [3, 1]]
    np.testing.assert_array_equal(given.draw(EVERY, seed=0, step=0), want)


def test_hard_negatives_are_drawn_anew_and_none_twice(store):
    given = find(store, num_hard_negatives=2)
    drawn = np.stack([given.draw(EVERY, seed=0, step=step) for step in range(50)])
    assert {tuple(sorted(row)) for row in drawn[:, 0].tolist()} == {
        (0, 4),
        (0, 5),
        (4, 5),
    }
    assert (drawn[:, 1:3] == -1).all()


def test_uniform_passages_reach_every_row(store):
    given = find_given(PassageMix(num_uniform=30), (), QUESTIONS, store)
    rows = given.draw(EVERY, seed=0, step=0)
    assert rows.shape == (4, 30)
    assert rows.dtype == np.int32
    assert set(rows.ravel().tolist()) == set(range(NUM_ROWS))


def test_a_draw_depends_on_seed_and_step_alone(store):
    given = find(store, num_positives=1, num_hard_negatives=1, num_uniform=9)
    rows = given.draw(EVERY, seed=1, step=2)
    assert rows[0, 0] == 3  # right ones first, then hard ones, then any
    assert rows[0, 1] in (0, 4, 5)
    np.testing.assert_array_equal(rows, given.draw(EVERY, seed=1, step=2))
    for other in ((1, 3), (2, 2)):
        seed, step = other
        assert (rows != given.draw(EVERY, seed=seed, step=step)).any()


def test_in_batch_all_questions_are_offered_the_same(store):
    settings = {"num_positives": 1, "num_hard_negatives": 1}
    own = find(store, **settings).draw(EVERY[:3], seed=0, step=0)
    given = find(store, in_batch=True, **settings)
    rows = given.draw(EVERY[:3], seed=0, step=0)
    np.testing.assert_array_equal(rows, [own.ravel().tolist()] * 3)
    assert rows.shape[1] == given.mix.num_given(3) == 6
    assert find(store, **settings).mix.num_given(3) == 2


def test_it_says_how_many_questions_have_what(store):
    given = find(store, num_positives=1, num_hard_negatives=1, num_uniform=30)
    assert given.describe() == (
        "30 uniform, 1 right (3 of 4 questions have any), "
        "1 hard wrong (2 of 4 questions have any) passages"
    )
    given = find(store, num_positives=1, in_batch=True)
    assert given.describe().endswith("any) passages of all questions of a batch")


def test_examples_are_read_from_their_files(store, tmp_path):
    record = {
        "question": "b",
        "answers": [],
        "positive_ctxs": [{"title": "", "text": "p 5", "passage_id": "p5"}],
        "hard_negative_ctxs": [{"title": "", "text": "p 1", "passage_id": "p1"}],
    }
    (tmp_path / "train.json").write_text(json.dumps([record]))
    sets = [ExampleSet(path=str(tmp_path / "train.json"))]
    mix = PassageMix(sets, num_positives=1, num_hard_negatives=1)
    given = open_mix(mix, QUESTIONS, store, TOKENIZER)
    np.testing.assert_array_equal(given.draw(EVERY[:2], seed=0, step=0)[1], [5, 1])
    assert open_mix(mix, QUESTIONS, store, TOKENIZER) is given


def test_examples_of_other_questions_or_passages_are_an_error(store):
    mix = PassageMix(SETS, num_positives=1)
    with pytest.raises(DataError, match="no right passage of any training question"):
        find_given(mix, EXAMPLES, ["d"], store)
    mix = dataclasses.replace(mix, num_positives=0, num_hard_negatives=1)
    with pytest.raises(DataError, match="no hard wrong passage"):
        find_given(mix, EXAMPLES, ["b"], store)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one is above"),
        ({"num_uniform": 1, "num_positives": -1}, "none of them is below 0"),
        ({"num_positives": 1}, "needs examples"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        PassageMix(**settings)
