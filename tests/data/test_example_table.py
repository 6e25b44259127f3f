"""Training examples as arrays: who is kept, what is held once, and how it is read."""

import json

import numpy as np
import pytest

from art_jax.data import example_table
from art_jax.data.example_files import write_examples
from art_jax.data.example_table import ExampleSet
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.layouts import make_token_table
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("who", "wrote", "it", "?", "cat", "sat", "'", '"', "dog")
TOKENIZER = WordPieceTokenizer(SPECIAL + WORDS)


def some(*passages):
    return tuple(
        Candidate(Passage(passage_id, text, title))
        for passage_id, title, text in passages
    )


CAT, DOG = ("7", "cat", "cat sat"), ("8", "dog", "dog sat")
EXAMPLES = (
    TrainingExample(
        Question("1", "who wrote it"),
        positives=some(CAT, ("9", "", "it sat")),
        negatives=some(DOG),
        hard_negatives=some(("9", "", "it sat"), DOG, ("5", "it", "cat")),
    ),
    TrainingExample(Question("2", "no one"), positives=(), negatives=some(DOG)),
    TrainingExample(Question("3", "wrote it?"), positives=some(CAT)),
)


def texts(tokens):
    """The words of each row of a token table, its title first."""
    found = []
    for row in range(tokens.num_rows):
        start, stop = tokens.offsets[row : row + 2]
        words = [TOKENIZER.pieces[token] for token in tokens.token_ids[start:stop]]
        middle = tokens.title_lengths[row]
        found.append((" ".join(words[:middle]), " ".join(words[middle:])))
    return found


def build(*examples, **settings):
    one = ExampleSet(path="f.json", **settings)
    return example_table.build_example_table([one], [examples], TOKENIZER)


def lists(ragged):
    return [part.tolist() for part in np.split(ragged.values, ragged.offsets[1:-1])]


def test_questions_without_a_right_passage_are_dropped_and_counted():
    table = build(*EXAMPLES)
    assert texts(table.questions) == [("", "who wrote it"), ("", "wrote it ?")]
    assert (table.num_examples, table.num_dropped) == (2, (1,))
    assert table.describe() == (
        "2 questions with 4 passages: f.json 2 (1 without a right passage left out)"
    )


def test_a_passage_is_held_once():
    table = build(*EXAMPLES)
    assert texts(table.passages) == [
        ("cat", "cat sat"),
        ("", "it sat"),
        ("dog", "dog sat"),
        ("it", "cat"),
    ]
    assert table.passage_ids == ("7", "9", "8", "5")
    assert table.passages.token_ids.dtype == np.uint16
    assert lists(table.positives) == [[0, 1], [0]]
    assert lists(table.negatives) == [[2], []]
    assert lists(table.hard_negatives) == [[1, 2, 3], []]


def test_equal_texts_under_other_titles_are_other_passages():
    example = TrainingExample(
        Question("1", "it"), some(("1", "cat", "sat")), some(("2", "dog", "sat"))
    )
    assert build(example).passages.num_rows == 2


def test_rows_at_places_of_lists():
    table = build(*EXAMPLES)
    both = np.array([0, 1])
    assert table.hard_negatives.counts(both).tolist() == [3, 0]
    places = np.array([[2, 0], [-1, -1]])
    got = table.hard_negatives.pick(both, places)
    assert got.tolist() == [[3, 1], [-1, -1]]
    none = build(EXAMPLES[2]).negatives
    assert none.pick(np.array([0]), np.array([[-1]])).tolist() == [[-1]]


def test_wrong_passages_may_be_limited_and_right_ones_are_not():
    table = build(*EXAMPLES, max_passages=1)
    assert lists(table.positives) == [[0, 1], [0]]
    assert lists(table.hard_negatives) == [[1], []]


def test_questions_and_passages_are_changed_as_the_set_says():
    example = TrainingExample(
        Question("1", "who’ wrote"), some(("1", '"it"', ' "cat\nsat" '))
    )
    plain = build(example)
    assert texts(plain.questions) == [("", "who ' wrote")]
    assert texts(plain.passages) == [('" it "', '" cat sat "')]
    other = build(example, query_special_suffix="?", normalize=True)
    assert texts(other.questions) == [("", "who ' wrote ?")]
    # The marks are not at the ends of this text, where spaces are.
    assert example_table.passage_text('"cat’\nsat"', normalize=True) == "cat' sat"
    assert example_table.passage_text(' cat "', normalize=False) == 'cat "'


def test_questions_are_read_as_their_task_says(tmp_path):
    tokenizer = WordPieceTokenizer((*TOKENIZER.pieces, "[unused0]", "[unused2]"))
    mention, marker = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    text = "dog " * 20 + "[START_ENT] cat"
    long = TrainingExample(Question("4", text), some(CAT))
    sets = (
        ExampleSet(path="a.json"),
        ExampleSet(path="b.json", query_task="qa", marker="[Q]"),
        ExampleSet(
            path="c.json", query_task="el", special=["[START_ENT]"], keep_mention=True
        ),
    )
    table = example_table.build_example_table(
        sets, [EXAMPLES[:1], EXAMPLES[:1], [long, *EXAMPLES[:1]]], tokenizer, 8
    )
    rows = np.split(table.questions.token_ids, table.questions.offsets[1:-1])
    plain, marked, window, short = (row.tolist() for row in rows)
    assert marked == [marker, *plain]
    assert short == plain
    assert mention in window[:6]
    assert window[-1] == tokenizer.pieces.index("cat")
    assert len(window) < 8


def test_sets_follow_one_another_and_share_passages():
    sets = (ExampleSet(path="a.json"), ExampleSet(path="b.json", name="two"))
    table = example_table.build_example_table(
        sets, [EXAMPLES[:2], EXAMPLES[2:]], TOKENIZER
    )
    assert table.set_offsets.tolist() == [0, 1, 2]
    assert table.num_dropped == (1, 0)
    assert lists(table.positives) == [[0, 1], [0]]
    assert "two 1" in table.describe()


def test_more_texts_than_one_call_takes(monkeypatch):
    monkeypatch.setattr(example_table, "_TEXTS_A_CALL", 2)
    got = build(*EXAMPLES)
    assert texts(got.passages) == texts(build(*EXAMPLES).passages)
    assert got.questions.offsets.tolist() == [0, 3, 6]


def test_files_and_tasks_are_read_alike(tmp_path):
    from art_jax.tasks import registration

    from art_jax.data.example_files import read_examples
    from art_jax.data.host_tensorflow import seqio

    path = tmp_path / "train.json"
    write_examples(path, EXAMPLES, "dpr")
    registration.add_example_task(
        "examples_of_a_test", {"train": lambda: read_examples(path, "dpr")}
    )
    try:
        from_task, from_file = (
            example_table.read_example_table((one,), TOKENIZER)
            for one in (
                ExampleSet(task="examples_of_a_test"),
                ExampleSet(path=str(path)),
            )
        )
    finally:
        seqio.TaskRegistry.remove("examples_of_a_test")
    for name in ("questions", "passages"):
        assert texts(getattr(from_task, name)) == texts(getattr(from_file, name))
    for name in ("positives", "negatives", "hard_negatives"):
        assert lists(getattr(from_task, name)) == lists(getattr(from_file, name))
    assert from_task.passage_ids == from_file.passage_ids == ("7", "9", "8", "5")
    assert from_task.describe().startswith("2 questions with 4 passages: examples_of")


def test_some_rows_as_a_table_of_their_own():
    tokens = make_token_table([[1], [], [2, 3]], [[4, 5], [6], []])
    got = example_table.take_rows(tokens, np.array([2, 0]))
    assert got.token_ids.tolist() == [2, 3, 1, 4, 5]
    assert got.offsets.tolist() == [0, 2, 5]
    assert got.title_lengths.tolist() == [2, 1]


def test_right_passages_that_are_unknown_are_taken_out():
    more = TrainingExample(Question("4", "cat"), some(DOG, CAT), some(CAT), some(DOG))
    sets = (ExampleSet(path="a.json"), ExampleSet(path="b.json"))
    table = example_table.build_example_table(
        sets, [EXAMPLES, (*EXAMPLES[2:], more)], TOKENIZER
    )
    is_dog = np.array([passage_id == "8" for passage_id in table.passage_ids])
    with pytest.raises(DataError, match=r"a.json has no question whose right passage"):
        example_table.keep_positives(table, is_dog)
    is_known = np.array([passage_id in "89" for passage_id in table.passage_ids])
    got = example_table.keep_positives(table, is_known)
    assert texts(got.questions) == [("", "who wrote it"), ("", "cat")]
    assert got.set_offsets.tolist() == [0, 1, 2]
    assert got.num_dropped == (2, 1)
    assert lists(got.positives) == [[1], [2]]
    assert lists(got.negatives) == [[2], [0]]
    assert lists(got.hard_negatives) == [[1, 2, 3], [2]]


def test_right_passages_are_looked_up_by_id():
    table = build(*EXAMPLES)

    def row_of(passage_id):
        if passage_id == "9":
            raise DataError("nowhere")
        return 10 * int(passage_id)

    got, rows = example_table.find_positives(table, row_of)
    # Wrong passages are not looked up.
    assert rows.tolist() == [70, -1, -1, -1]
    assert lists(got.positives) == [[0], [0]]


def test_a_set_without_right_passages_is_refused(tmp_path):
    path = tmp_path / "none.json"
    path.write_text(json.dumps([{"question": "who", "positive_ctxs": []}]))
    with pytest.raises(DataError, match="none.json has 1 questions and none has a"):
        example_table.read_example_table((ExampleSet(path=str(path)),), TOKENIZER)
