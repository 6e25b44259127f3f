"""Every benchmark is a task, with the matcher that it asks for."""

import json

import numpy as np
import pytest
from art_jax.tasks import (
    beir,
    dpr,  # noqa: F401 (registers)
    generation,
    kilt,
    open_qa,
)

from art_jax.data import benchmarks, question_table, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError
from art_jax.evaluation import ranking, text_measures

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FAMILIES = {
    open_qa: (
        *benchmarks.OPEN_QA,
        *benchmarks.ENTITY_QUESTIONS,
        *benchmarks.MULTI_ANSWER,
    ),
    kilt: benchmarks.KILT,
    generation: benchmarks.GENERATION,
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
        ("entity_questions_p17", "string"),
    ],
)
def test_answers_are_compared_as_each_set_asks(name, match):
    (metric,) = seqio.TaskRegistry.get(name).metric_objs
    assert metric.match == match


def metric_names(name):
    metrics = seqio.TaskRegistry.get(name).metric_objs
    return [type(metric).__name__ for metric in metrics]


def test_each_family_has_its_measures():
    assert metric_names("kilt_fever") == ["KiltRetrieval"]
    assert metric_names("kilt_fever_128") == ["KiltRetrieval"]
    assert metric_names("ambigqa") == ["MultiAnswer", "TopKAccuracy"]
    assert metric_names("curatedtrec_sets") == ["MultiAnswer", "TopKAccuracy"]
    for name, ignores in (("beir_arguana", True), ("msmarco_passage", False)):
        (metric,) = seqio.TaskRegistry.get(name).metric_objs
        assert metric.ignore_identical_ids == ignores
        for measure in metric.measures:
            ranking.depth_of(measure)
    for benchmark in benchmarks.GENERATION:
        (metric,) = seqio.TaskRegistry.get(benchmark.name).metric_objs
        assert set(metric.measures) <= set(text_measures.MEASURES)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("kilt_multitask", 8),
        ("kilt_multitask_without_wow", 7),
        ("multikilt", 8),
        ("multikilt_without_zeroshot_re", 7),
        ("entity_questions", 24),
        ("dpr_multi", 4),
        ("art_multi", 4),
    ],
)
def test_mixtures(name, members):
    assert len(seqio.MixtureRegistry.get(name).tasks) == members


def test_a_mixture_leaves_one_out_and_takes_less_of_two():
    for mixture, stem in (("kilt_multitask", "kilt"), ("multikilt", "multikilt")):
        every = {task.name for task in seqio.MixtureRegistry.get(mixture).tasks}
        assert {f"{stem}_trex_100k", f"{stem}_zeroshot_re_100k"} < every
        without = seqio.MixtureRegistry.get(f"{mixture}_without_trex")
        left = {task.name for task in without.tasks}
        assert every - left == {f"{stem}_trex_100k"}


def test_few_shots_are_some_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    (tmp_path / "kilt").mkdir()
    lines = [f'{{"id": "{n}", "input": "who"}}\n' for n in range(140)]
    (tmp_path / "kilt" / "nq-train-kilt.jsonl").write_text("".join(lines))
    (tmp_path / "kilt" / "nq-dev-kilt.jsonl").write_text("".join(lines))
    ids = {
        name: question_table.read_question_table(name, "train", 4).question_ids
        for name in ("kilt_nq", "kilt_nq_128", "kilt_nq_1024")
    }
    assert ids["kilt_nq"] == ids["kilt_nq_1024"] == tuple(map(str, range(140)))
    assert len(ids["kilt_nq_128"]) == 128
    assert list(ids["kilt_nq_128"]) == [
        i for i in ids["kilt_nq"] if i in ids["kilt_nq_128"]
    ]
    dev = question_table.read_question_table("kilt_nq_128", "dev", 4)
    assert dev.num_questions == 140


def test_a_mention_far_into_a_document_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    vocabularies.use(
        WordPieceTokenizer((*SPECIAL, "who", "[", "]", "_", "start", "ent"))
    )
    (tmp_path / "kilt").mkdir()
    far = "who " * 60 + "[START_ENT] who [END_ENT]"
    lines = [{"id": "far", "input": far}, {"id": "near", "input": far[-49:]}]
    path = tmp_path / "kilt" / "aidayago2-dev-kilt.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    table = question_table.read_question_table("kilt_aidayago2", "dev", 32)
    marker = [6, 9, 8, 10, 7]  # [ start _ ent ]
    rows = [" ".join(map(str, row)) for row in table.tokens.tolist()]
    assert all(" ".join(map(str, marker)) in row for row in rows)
    # The near one is read from its start, the far one from 12 to 20 tokens before.
    assert rows[1].startswith("2 5 5 5 5 5 5 6 ")
    place = rows[0].split().index("6") - 1
    assert 12 <= place <= 20
    other = question_table.read_question_table("kilt_aidayago2", "dev", 32)
    np.testing.assert_array_equal(table.tokens, other.tokens)


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
