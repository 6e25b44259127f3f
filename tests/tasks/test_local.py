import functools
import json

import numpy as np
import pytest
from art_jax.tasks import local

from art_jax.data import (
    example_files,
    example_sources,
    question_table,
    vocabularies,
)
from art_jax.data.examples import Candidate
from art_jax.data.passages import Passage
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError
from art_jax.evaluation import evaluator

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(WordPieceTokenizer((*SPECIAL, "who", "where")))
    yield
    vocabularies.use(None)


def test_a_users_files_become_a_task_with_their_splits(tmp_path):
    (tmp_path / "questions.txt").write_text("who\nwhere\n")
    (tmp_path / "dev.csv").write_text('who\t["A\\\\wn"]\n')
    name = local.local_task(
        tmp_path / "questions.txt", dev=tmp_path / "dev.csv", ks=[1], match="regex"
    )
    table = question_table.read_question_table(name, "train", 4)
    assert table.texts == ("who", "where")
    metrics = evaluator.evaluate_task(
        name,
        "dev",
        lambda questions: np.array([[Candidate(Passage("p", "by ann"))]], object),
        max_tokens=4,
    ).metrics
    assert metrics == {"top_1_accuracy": 1.0, "num_questions": 1}
    with pytest.raises(ConfigError, match="no split 'test'"):
        question_table.read_question_table(name, "test", 4)


def test_the_same_files_are_one_task_and_others_another(tmp_path, monkeypatch):
    name = local.local_task("a.txt", ks=[1, 5])
    assert name.startswith("local_")
    assert local.local_task("a.txt", ks=(1, 5)) == name
    assert local.local_task("./a.txt", ks=(1, 5)) == name
    others = {
        local.local_task("a.txt"),
        local.local_task("b.txt", ks=(1, 5)),
        local.local_task(dev="a.txt", ks=(1, 5)),
        local.local_task("a.txt", ks=(1, 5), match="kilt"),
    }
    assert len(others | {name}) == 5
    monkeypatch.chdir(tmp_path)
    assert local.local_task("a.txt", ks=(1, 5)) != name


def test_no_files_are_an_error():
    with pytest.raises(ConfigError, match="train, dev or test"):
        local.local_task()


@pytest.mark.parametrize(
    ("file_format", "key"), [("dpr", "positive_ctxs"), ("fid", "ctxs")]
)
def test_files_of_questions_with_passages(tmp_path, file_format, key):
    record = {"question": "who", "answers": ["x"], key: [{"text": "one", "id": "7"}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps([record]))
    name = local.local_example_task(path, file_format=file_format)
    assert local.local_example_task(path, file_format=file_format) == name
    assert local.local_example_task(dev=path, file_format=file_format) != name
    (task,) = question_table.tasks_with_split(name, "train")
    kind = example_files.FORMATS[file_format].kind
    make_row = functools.partial(example_sources.example_of_fields, kind=kind)
    ((tokens, examples),) = question_table.read_task(task, "train", 4, make_row)
    assert tokens.tolist() == [[2, 5, 3, 0]]
    assert examples == list(example_files.read_examples(path, file_format))


def test_another_format_of_examples_is_an_error():
    with pytest.raises(ConfigError, match="no format 'x' of examples: choose of dpr,"):
        local.local_example_task("a.json", file_format="x")
    with pytest.raises(ConfigError, match="train, dev or test"):
        local.local_example_task()


def test_local_questions_finds_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    (tmp_path / "test.txt").write_text("where\n")
    table = question_table.read_question_table("local_questions", "test", 4)
    assert table.texts == ("where",)
    with pytest.raises(ConfigError, match="0 files of the dev questions"):
        question_table.read_question_table("local_questions", "dev", 4)
