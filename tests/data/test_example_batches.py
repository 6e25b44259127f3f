"""Which questions and passages a batch has."""

import numpy as np
import pytest

from art_jax.data import example_batches
from art_jax.data.example_batches import PassageDraw
from art_jax.data.example_sets import ExampleSet
from art_jax.data.example_table import build_example_table
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.layouts import Layout
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer

SEED = 3
NUMBERS = tuple(f"n{number}" for number in range(40))
TOKENIZER = WordPieceTokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *NUMBERS))
A_SET = ExampleSet(path="train.json")


def some(*numbers):
    numbers = [number % 40 for number in numbers]
    return tuple(Candidate(Passage(str(n), NUMBERS[n])) for n in numbers)


def examples(numbers):
    """A question about each passage; every third has no hard negatives."""
    return [
        TrainingExample(
            Question(f"q{i}", NUMBERS[i]),
            positives=some(i, i + 1),
            negatives=some(i + 5, i + 9),
            hard_negatives=some(i + 3, i + 7, i + 11) if i % 3 else (),
        )
        for i in numbers
    ]


@pytest.fixture(scope="module")
def table():
    return build_example_table([A_SET], [examples(range(39))], TOKENIZER)


def drawn(table, examples=None, *, step=0, shuffle=False, **settings):
    draw = PassageDraw(**{"num_hard_negatives": 1, "num_other_negatives": 0} | settings)
    examples = np.arange(table.num_examples) if examples is None else examples
    return draw.rows(table, examples, shuffle_positives=shuffle, seed=(SEED, step))


def ids(table, rows):
    return [[table.passage_ids[row] if row >= 0 else "" for row in r] for r in rows]


def test_a_batch_has_right_then_other_then_hard_passages(table):
    rows = drawn(table, num_hard_negatives=2, num_other_negatives=1)
    assert rows.shape == (39, 4)
    for i, (right, other, *hard) in enumerate(ids(table, rows)):
        others = {str((i + 5) % 40), str((i + 9) % 40)}
        assert right == str(i)
        assert other in others
        if i % 3:
            assert len(set(hard)) == 2
            assert set(hard) <= {str((i + step) % 40) for step in (3, 7, 11)}
        else:
            # No hard ones: of two others one is taken, and one is left.
            assert [hard[0], hard[1]] == [(others - {other}).pop(), ""]


def test_without_fallback_there_is_no_passage(table):
    rows = drawn(table, np.array([0, 1]), hard_negative_fallback=False)
    assert ids(table, rows)[0] == ["0", ""]
    assert "" not in ids(table, rows)[1]


def test_what_is_drawn_depends_on_the_seed_alone(table):
    settings = {"num_hard_negatives": 2, "num_other_negatives": 1, "shuffle": True}
    first = drawn(table, **settings)
    np.testing.assert_array_equal(first, drawn(table, **settings))
    assert (first != drawn(table, step=1, **settings)).any(axis=0).all()


def test_right_passages_are_the_first_or_any(table):
    assert [row[0] for row in ids(table, drawn(table))] == list(map(str, range(39)))
    found = ids(table, drawn(table, shuffle=True))
    assert all(int(row[0]) - i in (0, 1) for i, row in enumerate(found))
    assert len({int(row[0]) - i for i, row in enumerate(found)}) == 2


def test_no_passages_are_drawn_where_none_are_asked_for(table):
    assert drawn(table, num_hard_negatives=0).shape == (39, 1)


def test_batches_are_of_one_set_each_and_an_epoch_has_its_share_of_them():
    sets = (A_SET, ExampleSet(path="b.json", sampling_rate=2.0))
    table = build_example_table(
        sets, [examples(range(24)), examples(range(24, 33))], TOKENIZER
    )
    seen = np.zeros(33, int)
    for step in range(10):
        number, rows = example_batches.choose_examples(
            table, batch_size=8, seed=SEED, step=step
        )
        assert ((rows >= 24) == (number == 1)).all()
        np.add.at(seen, rows, 1)
    # Two epochs of 3 batches of the first and 2 of the second, which has one batch.
    assert seen[:24].tolist() == [2] * 24
    assert (seen[24:].sum(), seen[24:].max()) == (4 * 8, 4)


def test_held_out_examples_come_once_each_a_set_after_the_other():
    table = build_example_table(
        (A_SET, A_SET), [examples(range(5)), examples(range(6))], TOKENIZER
    )
    got = [
        (number, rows[is_own].tolist(), rows[~is_own].tolist())
        for number, rows, is_own in example_batches.held_out_batches(table, 4)
    ]
    assert got == [
        (0, [0, 1, 2, 3], []),
        (0, [4], [0, 0, 0]),
        (1, [5, 6, 7, 8], []),
        (1, [9, 10], [5, 5]),
    ]


def test_arrays_of_a_batch(table):
    layout = Layout((2,), (3,), (3,), 4)
    scales = np.array([1.0, 0.5], np.float32)
    got = example_batches.question_arrays(layout, table, np.array([1, 0]), scales, 3)
    assert got["query_tokens"].tolist() == [[2, 5, 3, 0], [2, 4, 3, 0]]
    assert got["towers"].tolist() == [3, 3]
    assert got["loss_scales"] is scales
    assert "towers" not in example_batches.question_arrays(layout, table, [0], scales)
    # A slot without a passage holds the right one's tokens, or any if there is none.
    rows = np.array([[1, -1], [-1, -1]], np.int32)
    got = example_batches.passage_arrays(layout, table, rows)
    assert got["passage_rows"] is rows
    first, second = (
        [2, TOKENIZER.pieces.index(NUMBERS[int(table.passage_ids[row])]), 3, 0]
        for row in (1, 0)
    )
    assert got["passage_tokens"].tolist() == [[first, first], [second, second]]
