import gzip
import subprocess
import sys

import pytest

from art_jax.data import sources
from art_jax.data.questions import Question, write_questions
from art_jax.errors import ConfigError, DataError

QUESTIONS = [
    Question("q1", "who?", ("Ann", "Ána"), ("p7", "p8"), "p7"),
    Question("q2", "what?"),
    Question("q3", "where?", ("",), answer_groups=(("Bonn", "Bönn"), ("Rome",))),
    Question("q4", "how?", (), ("p1", "p2"), grades=(3, 1)),
    Question("q5", "which?", evidence=(("7+1", "8+0"), ("9",))),
]


def examples_of(source, split):
    dataset = source.get_dataset(split, shuffle=False, seed=7)
    return list(dataset.as_numpy_iterator())


def test_examples_hold_every_field_in_file_order(tmp_path):
    write_questions(tmp_path / "dev.jsonl", QUESTIONS)
    source = sources.question_source(
        sources.file_readers({"dev": tmp_path / "dev.jsonl"})
    )
    examples = examples_of(source, "dev")
    assert examples[0]["question"] == b"who?"
    assert examples[1]["answers"].tolist() == []
    for example in examples:
        example["query_pretokenized"] = example.pop("question")
    assert [sources.question_of_example(example) for example in examples] == QUESTIONS


def test_files_are_opened_when_a_dataset_is_built(tmp_path):
    asked = []

    def path():
        asked.append("train")
        return tmp_path / "train.txt"

    source = sources.question_source(
        sources.file_readers({"train": path, "dev": tmp_path / "none.txt"})
    )
    assert tuple(source.splits) == ("train", "dev")
    assert asked == []
    (tmp_path / "train.txt").write_text("who?\nwhat?\n")
    assert len(examples_of(source, "train")) == 2
    with pytest.raises(DataError, match="none.txt"):
        examples_of(source, "dev")


def test_an_example_without_id_names_the_preprocessor():
    with pytest.raises(ConfigError, match="lack question_id: .*tokenize_questions"):
        sources.question_of_example({"query_pretokenized": b"who?"})


def test_data_directory_is_the_environments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ART_JAX_DATA_DIR", raising=False)
    with pytest.raises(ConfigError, match="ART_JAX_DATA_DIR"):
        sources.data_directory()
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is no directory"):
        sources.data_directory()
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    assert sources.data_directory() == tmp_path


def test_the_one_file_of_a_split_is_found(tmp_path):
    with pytest.raises(
        ConfigError, match="holds 0 files of the dev questions: .*dev.t"
    ):
        sources.find_question_file(tmp_path, "dev")
    path = tmp_path / "dev.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "who?"}\n'))
    (tmp_path / "train.txt").write_text("who?\n")
    assert sources.find_question_file(tmp_path, "dev") == path
    (tmp_path / "dev.txt").write_text("who?\n")
    with pytest.raises(ConfigError, match=r"2 files .*dev.txt, dev.jsonl.gz"):
        sources.find_question_file(tmp_path, "dev")


def test_sources_and_question_tables_import_without_tensorflow():
    code = (
        "import sys; from art_jax.data import question_table, sources\n"
        "from art_jax.evaluation import answers, measures, runs\n"
        "found = {'tensorflow', 'seqio', 'gin'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
