"""DPR's and KILT's files of training examples, read through SeqIO."""

import gzip
import json

import pytest
from art_jax.tasks import dpr  # noqa: F401 (registers)

from art_jax.data import benchmarks, example_sources, question_table, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.passages import Passage
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTEXT = {"title": "T", "text": "x", "score": 3.5, "passage_id": "7"}
RECORD = {
    "dataset": "nq_dev_psgs_w100",
    "question": "who",
    "answers": ["Ann"],
    "positive_ctxs": [CONTEXT],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{**CONTEXT, "passage_id": "8"}],
}


@pytest.fixture(autouse=True)
def _vocabulary(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    vocabularies.use(WordPieceTokenizer((*SPECIAL, "who", "where")))
    yield
    vocabularies.use(None)


def read(name, split):
    for task in question_table.tasks_with_split(name, split):
        yield from question_table.read_task(
            task, split, 4, example_sources.example_of_fields
        )


def test_names_of_tasks_mixtures_and_files():
    for benchmark in (*benchmarks.BIENCODER, *benchmarks.MULTIKILT):
        task = seqio.TaskRegistry.get(benchmark.name)
        assert set(task.splits) == set(benchmark.files)
    names = {name for one in benchmarks.BIENCODER for name in one.files.values()}
    assert len(names) == 11
    assert "biencoder-nq-adv-hn-train.json" in names
    files = benchmarks.MULTIKILT[5].files
    assert files["train"] == "zeroshot-train-multikilt.json"
    assert len(seqio.MixtureRegistry.get("biencoder_multi").tasks) == 4


def test_examples_of_the_published_file(tmp_path):
    (tmp_path / "dpr").mkdir()
    path = tmp_path / "dpr" / "biencoder-nq-dev.json.gz"
    records = [RECORD, {**RECORD, "positive_ctxs": []}, {**RECORD, "question": "where"}]
    path.write_bytes(gzip.compress(json.dumps(records, indent=1).encode()))
    ((tokens, (first, second)),) = read("biencoder_nq", "dev")
    assert tokens.tolist() == [[2, 5, 3, 0], [2, 6, 3, 0]]
    assert first.question.text == "who"
    assert first.question.answers == ("Ann",)
    assert first.positives[0].passage == Passage("7", "x", "T")
    assert first.positives[0].score == 3.5
    assert [one.passage.passage_id for one in first.hard_negatives] == ["8"]
    assert first.dataset == "nq_dev_psgs_w100"
    # The one between them has no positive.
    assert second.question.text == "where"


def test_faults_are_told_as_elsewhere(tmp_path):
    with pytest.raises(ConfigError, match="biencoder-trivia-train.json is missing"):
        list(read("biencoder_trivia", "train"))
    (tmp_path / "ur").mkdir()
    path = tmp_path / "ur" / "nq-dev-multikilt.json"
    path.write_text(json.dumps([RECORD, {"answers": []}]))
    with pytest.raises(DataError, match="nq-dev-multikilt.json:1: 'question' is missi"):
        list(read("multikilt_nq", "dev"))
