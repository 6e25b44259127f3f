"""Every benchmark is a task, with the matcher that it asks for."""

import pytest
from art_jax.tasks import beir, kilt, open_qa

from art_jax.data import benchmarks, question_table, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FAMILIES = {
    open_qa: (
        *benchmarks.OPEN_QA,
        *benchmarks.ENTITY_QUESTIONS,
        *benchmarks.MULTI_ANSWER,
    ),
    kilt: benchmarks.KILT,
    beir: (*benchmarks.BEIR, benchmarks.MS_MARCO),
}


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(WordPieceTokenizer((*SPECIAL, "who", "where")))
    yield
    vocabularies.use(None)


def test_every_set_is_a_task():
    for family in FAMILIES.values():
        for benchmark in family:
            task = seqio.TaskRegistry.get(benchmark.name)
            assert set(task.splits) == set(benchmarks.readers(benchmark))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nq_open", "string"),
        ("curatedtrec", "regex"),
        ("kilt_fever", "kilt"),
        ("beir_scifact", "string"),
    ],
)
def test_answers_are_compared_as_each_set_asks(name, match):
    (metric,) = seqio.TaskRegistry.get(name).metric_objs
    assert metric.match == match


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("entity_questions", 24),
        ("dpr_multi", 4),
        ("art_multi", 4),
    ],
)
def test_mixtures(name, members):
    assert len(seqio.MixtureRegistry.get(name).tasks) == members


def test_a_mixture_is_read_set_by_set(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    names = {
        "webquestions": "webq",
        "nq": "nq",
        "squad": "squad1",
        "triviaqa": "trivia",
    }
    for folder, stem in names.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{stem}-train.csv").write_text(f"{folder} who\t['x']\n")
    table = question_table.read_question_table("art_multi", "train", 8)
    assert sorted(table.texts) == sorted(f"{folder} who" for folder in names)
    (tmp_path / "nq" / "nq-train.csv").unlink()
    with pytest.raises(ConfigError, match="nq-train.qa.csv is missing"):
        question_table.read_question_table("art_multi", "train", 8)
