import dataclasses

import numpy as np
import pytest

from art_jax.data import question_table, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.preprocessors import tokenize_questions
from art_jax.data.questions import Question, write_questions
from art_jax.data.sources import file_readers, question_source
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (*SPECIAL, "who", "wrote", "it", "?", "cat")
TOKENIZER = WordPieceTokenizer(PIECES)
QUESTIONS = [
    Question("q3", "Who wrote it?", ("Ann", "Ána"), ("p7", "p8"), "p7", (), (2, 1)),
    Question("q1", "cat " * 20),
    Question("q2", "cat who wrote it", ("",)),
    Question("q0", "[SEP] it", answer_groups=(("a",),), evidence=(("1+2", "3"),)),
]


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(TOKENIZER)
    yield
    vocabularies.use(None)


@pytest.fixture
def register(tmp_path):
    names = []

    def register(name, questions, split="train"):
        path = tmp_path / f"{name}.jsonl"
        write_questions(path, questions)
        vocabulary = vocabularies.query_vocabulary()
        seqio.TaskRegistry.add(
            name,
            source=question_source(file_readers({split: path})),
            preprocessors=[tokenize_questions],
            output_features={"query": seqio.Feature(vocabulary, add_eos=False)},
        )
        names.append(name)

    yield register
    for name in names:
        seqio.TaskRegistry.remove(name)


def assert_equal(table, other):
    for field in dataclasses.fields(table):
        got, want = getattr(table, field.name), getattr(other, field.name)
        assert type(got) is type(want)
        np.testing.assert_equal(got, want, err_msg=field.name)
    assert table.tokens.dtype == other.tokens.dtype == np.int32


def test_without_seqio_by_hand():
    table = question_table.question_table(iter(QUESTIONS), TOKENIZER, 6)
    np.testing.assert_array_equal(
        table.tokens,
        [
            [2, 5, 6, 7, 8, 3],
            [2, 9, 9, 9, 9, 3],
            [2, 9, 5, 6, 7, 3],
            [2, 1, 1, 1, 7, 3],
        ],
    )
    assert table.num_questions == 4
    assert table.questions == tuple(QUESTIONS)
    assert table.texts[3] == "[SEP] it"
    assert table.question_ids == ("q3", "q1", "q2", "q0")
    assert table.answers == (("Ann", "Ána"), (), ("",), ())
    assert table.relevant_ids == (("p7", "p8"), (), (), ())
    assert table.source_ids == ("p7", "", "", "")


@pytest.mark.parametrize("max_tokens", [5, 6, 7, 32])
def test_seqio_gives_the_same_arrays(register, monkeypatch, max_tokens):
    monkeypatch.setattr(question_table, "_EXAMPLES_A_FETCH", 3)
    register("table_task", QUESTIONS)
    assert_equal(
        question_table.read_question_table("table_task", "train", max_tokens),
        question_table.question_table(QUESTIONS, TOKENIZER, max_tokens),
    )


def test_a_mixture_is_its_tasks_one_after_the_other(register):
    register("table_b", QUESTIONS[:2])
    register("table_a", QUESTIONS[2:])
    register("table_c", QUESTIONS, split="dev")
    names = ["table_b", "table_a", "table_c"]
    seqio.MixtureRegistry.add("table_mixture", [(name, 5.0) for name in names])
    table = question_table.read_question_table("table_mixture", "train", 16)
    seqio.MixtureRegistry.remove("table_mixture")
    in_order = [*QUESTIONS[2:], *QUESTIONS[:2]]
    assert_equal(table, question_table.question_table(in_order, TOKENIZER, 16))


def test_unknown_names_and_splits_say_what_there_is(register):
    register("table_task", QUESTIONS)
    with pytest.raises(ConfigError, match=r"'tabel': .*Registered: .*table_task"):
        question_table.read_question_table("tabel", "train", 16)
    assert question_table.has_split("table_task", "train")
    assert not question_table.has_split("table_task", "test")
    with pytest.raises(ConfigError, match="no SeqIO task or mixture is called"):
        question_table.has_split("nowhere", "train")
    with pytest.raises(ConfigError, match="no split 'test': it has train"):
        question_table.read_question_table("table_task", "test", 16)


def test_no_questions_are_an_error():
    with pytest.raises(DataError, match="no questions"):
        question_table.question_table([], TOKENIZER, 16)
