"""What finds passages gives candidates; fusion agrees with its two halves."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.evidence import build_evidence
from art_jax.data.passages import Passage
from art_jax.data.query_forms import PLAIN
from art_jax.data.question_table import QuestionTable
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.evaluation import candidates, systems
from art_jax.index.bm25 import Bm25Settings
from art_jax.index.table import EmbeddingTable

WORDS = ["red", "green", "blue"]
PASSAGES = [Passage(f"p{n}", f"{WORDS[n % 3]} {WORDS[n % 2]}") for n in range(6)]
QUESTIONS = tuple(Question(f"p{n}", word) for n, word in enumerate(WORDS))
TABLE = QuestionTable(np.arange(3, dtype=np.int32)[:, None], QUESTIONS)
EMBEDDINGS = np.array([[1, 0], [0, 2], [3, 1], [1, 1], [0, 5], [2, 2]], np.float32)
QUERIES = np.array([[1, 0], [0, 1], [1, 1]], np.float32)


@pytest.fixture
def retriever(tmp_path):
    """One that looks queries up by their single token."""
    mesh = partitioning.make_mesh()
    rows = np.zeros((8, 2), np.float32)
    rows[:6] = EMBEDDINGS
    embeddings = partitioning.put_tree(
        jnp.asarray(rows), partitioning.row_sharding(mesh)
    )
    return types.SimpleNamespace(
        table=EmbeddingTable(embeddings, 6, 0, 0, "digest", mesh),
        evidence=build_evidence(PASSAGES, tmp_path / "evidence", {}),
        model=types.SimpleNamespace(
            tokenizer=None, max_query_tokens=8, query_forms={}, query_form=PLAIN
        ),
        encode_query_tokens=lambda tokens: QUERIES[tokens[:, 0]],
    )


def ids(found):
    return [candidates.ids_of(row) for row in found]


def test_a_retriever(retriever):
    system = systems.dense_system(retriever, 2)
    assert (system.name, system.search["exact"]) == ("retriever", True)
    assert system.max_query_tokens == 8
    found = system.retrieve(TABLE)
    assert ids(found) == [["p2", "p5"], ["p4", "p1"], ["p4", "p2"]]
    assert found[0, 0].passage == PASSAGES[2]
    assert found[0, 0].score == 3.0
    # Nothing lies deeper than the six passages there are.
    everything = systems.dense_system(retriever, 9).retrieve(TABLE)
    assert everything.shape == (3, 9)
    assert [len(row) for row in ids(everything)] == [6, 6, 6]


def test_bm25_alone(retriever):
    settings = Bm25Settings(stemmer=None)
    system = systems.bm25_system(retriever.evidence, settings, 9)
    assert system.search == {
        "method": "bm25",
        "exact": True,
        "k1": 0.9,
        "b": 0.4,
        "stemmer": None,
        "stop_words": "en_plus",
    }
    found = system.retrieve(TABLE)
    assert found.shape == (3, 9)
    # Row 0 is "red red"; "blue" is in rows 2 and 5 alone.
    assert ids(found)[0][0] == "p0"
    assert sorted(ids(found)[2]) == ["p2", "p5"]


@pytest.mark.parametrize("method", systems.FUSIONS)
def test_a_fusion_ranks_the_union(retriever, method):
    settings = Bm25Settings()
    system = systems.fusion_system(retriever, settings, 6, method=method, weight=2.0)
    assert system.search["method"] == f"fusion_{method}"
    assert system.search["depth"] == 6
    found = system.retrieve(TABLE)
    lexical = systems.bm25_system(retriever.evidence, settings, 6).retrieve(TABLE)
    dense = systems.dense_system(retriever, 6).retrieve(TABLE)
    for row, by_word, by_meaning in zip(found, lexical, dense, strict=True):
        got = {one.passage.passage_id: one.score for one in row}
        words = {one.passage.passage_id: one.score for one in by_word if one}
        if method == "dpr":
            want = {
                one.passage.passage_id: words.get(one.passage.passage_id, 0.0)
                + 2.0 * one.score
                for one in by_meaning
            }
        else:
            want = {
                one.passage.passage_id: 1 / (60 + rank)
                for rank, one in enumerate(by_meaning, 1)
            }
            for rank, name in enumerate(words, 1):
                want[name] += 1 / (60 + rank)
        assert got == pytest.approx(want)
        assert list(got.values()) == sorted(got.values(), reverse=True)


def test_fusion_of_a_few_questions_at_a_time_changes_nothing(retriever, monkeypatch):
    system = systems.fusion_system(retriever, Bm25Settings(), 3, depth=2)
    whole = system.retrieve(TABLE)
    monkeypatch.setattr(systems, "_QUESTIONS_AT_ONCE", 2)
    assert system.retrieve(TABLE).tolist() == whole.tolist()
    # Neither half looks less deep than what is asked for.
    assert system.search["depth"] == 3


def test_what_cannot_be_fused(retriever):
    with pytest.raises(ConfigError, match="choose of dpr, rrf"):
        systems.fusion_system(retriever, Bm25Settings(), 3, method="sum")
    with pytest.raises(ConfigError, match="depth of 1 or more"):
        systems.fusion_system(retriever, Bm25Settings(), 3, depth=0)


def test_rankings_of_a_file(tmp_path):
    path = tmp_path / "x.trec"
    path.write_text("p0 Q0 p5 1 2 x\np0 Q0 p4 2 1 x\np1 Q0 p1 1 1 x\n")
    system = systems.file_system(
        path, k=1, read_passages=lambda: iter(PASSAGES), missing="zero"
    )
    assert (system.name, system.search["format"]) == ("rankings", "trec")
    assert system.predict is None
    found = system.retrieve(TABLE)
    assert ids(found) == [["p5"], ["p1"], []]
    assert found[0, 0].passage.text == PASSAGES[5].text


def test_predictions_of_a_file(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "p0", "output": [{"answer": "ann"}]}\n')
    system = systems.file_system(path, k=1, missing="zero")
    assert system.name == "predictions"
    assert system.predict(TABLE) == ["ann", "", ""]
    path.write_text('{"id": "p0", "output": [{"provenance": [{"wikipedia_id": 7}]}]}\n')
    system = systems.file_system(
        path, k=1, missing="zero", read_passages=lambda: iter(PASSAGES)
    )
    assert ids(system.retrieve(TABLE)) == [["7"], [], []]
    path.write_text('{"id": "p0", "output": [{"answer": "ann"}]}\n')
    with pytest.raises(ConfigError, match="lacks 2 of 3 questions.*'p1'"):
        systems.file_system(path, k=1).predict(TABLE)


def test_a_question_is_not_its_own_answer(retriever):
    # Questions p0, p1 and p2 are passages too; p2 stands first for p0's words.
    system = systems.dense_system(retriever, 3)
    assert "p2" in ids(system.retrieve(TABLE))[2]
    found = systems.without_identical_ids(system, 2).retrieve(TABLE)
    assert ids(found) == [["p2", "p5"], ["p4", "p5"], ["p4", "p5"]]
    everything = systems.dense_system(retriever, 7)
    found = systems.without_identical_ids(everything, 6).retrieve(TABLE)
    assert [len(row) for row in ids(found)] == [5, 5, 5]
