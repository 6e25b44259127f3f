import math
import sys

import numpy as np
import pytest

from art_jax import manifest
from art_jax.data.evidence import build_evidence
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, CorruptError, DataError
from art_jax.index import bm25

TEXTS = [
    "Cats chase mice",  # 3 words: cat chase mice
    "The cat sat, the dog sat",  # 4 words without "the": cat sat dog sat
    "mice cat",
    "",
    "A dog in C",  # 2 words: dog c
]
LENGTHS = np.array([3, 4, 2, 0, 2])


def weight(num_with_word, num_passages=5):
    return math.log(1 + (num_passages - num_with_word + 0.5) / (num_with_word + 0.5))


def saturated(count, row, k1=0.9, b=0.4):
    return count / (count + k1 * (1 - b + b * LENGTHS[row] / LENGTHS.mean()))


def test_scores_by_hand():
    results = bm25.search_bm25(bm25.build_bm25(TEXTS), ["The sitting cats sat"], 2)
    # "sitting" becomes "sit", which no passage has.
    best = weight(3) * saturated(1, 1) + weight(1) * saturated(2, 1)
    second = weight(3) * saturated(1, 2)
    np.testing.assert_array_equal(results.rows, [[1, 2]])
    np.testing.assert_allclose(results.scores, [[best, second]], rtol=1e-6)
    assert (results.scores.dtype, results.rows.dtype) == (np.float32, np.int32)


def test_parameters_reach_the_formula():
    index = bm25.build_bm25(TEXTS, bm25.Bm25Settings(k1=1.5, b=0.75))
    results = bm25.search_bm25(index, ["sat"], 1)
    want = weight(1) * saturated(2, 1, k1=1.5, b=0.75)
    np.testing.assert_allclose(results.scores, [[want]], rtol=1e-6)


def test_only_passages_that_share_a_word_are_found():
    questions = ["C", "", "the", "zebra", "cat dog mice"]
    results = bm25.search_bm25(bm25.build_bm25(TEXTS), questions, 7)
    found = [row[row >= 0].tolist() for row in results.rows]
    assert found[:4] == [[4], [], [], []]
    assert sorted(found[4]) == [0, 1, 2, 4]
    np.testing.assert_array_equal(np.isneginf(results.scores), results.rows == -1)
    assert results.rows.shape == (5, 7)


def test_stop_words_are_an_option():
    index = bm25.build_bm25(TEXTS, bm25.Bm25Settings(stop_words=None))
    assert bm25.search_bm25(index, ["the"], 1).rows.tolist() == [[1]]


def test_stems_are_an_option():
    plain = bm25.build_bm25(TEXTS, bm25.Bm25Settings(stemmer=None))
    assert bm25.search_bm25(plain, ["cats"], 3).rows.tolist() == [[0, -1, -1]]
    assert bm25.search_bm25(plain, ["chasing"], 1).rows.tolist() == [[-1]]
    stemmed = bm25.build_bm25(TEXTS)
    assert sorted(bm25.search_bm25(stemmed, ["cats"], 3).rows[0]) == [0, 1, 2]
    with pytest.raises(ConfigError, match="no stemmer 'klingon': .*english"):
        bm25.build_bm25(TEXTS, bm25.Bm25Settings(stemmer="klingon"))


def test_scores_of_named_passages_are_those_of_the_search():
    index = bm25.build_bm25(TEXTS)
    questions = ["cat dog", "zebra"]
    found = bm25.search_bm25(index, questions[:1], 5)
    rows = np.array([[3, -1, 2, 1, 0, 4], [0, 1, 2, 3, 4, -1]])
    scores = bm25.score_rows(index, questions, rows)
    by_row = dict(zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True))
    assert scores[0].tolist() == [0.0, -np.inf, *(by_row[row] for row in (2, 1, 0, 4))]
    assert scores[1].tolist() == [0, 0, 0, 0, 0, -np.inf]


@pytest.fixture
def evidence(tmp_path):
    passages = [Passage(str(n), text or "?", "t") for n, text in enumerate(TEXTS)]
    return build_evidence(passages, tmp_path / "evidence", {})


def test_an_index_is_kept_beside_its_evidence(evidence, monkeypatch):
    settings = bm25.Bm25Settings(k1=1.2)
    first = bm25.open_bm25(evidence, settings)
    folder = bm25.index_folder(evidence, settings)
    assert folder.parent == evidence.directory.parent / "bm25"
    monkeypatch.setattr(bm25, "build_bm25", None)  # it is not built again
    again = bm25.open_bm25(evidence, settings)
    questions = ["the sitting cats", "C"]
    for index in (first, again):
        built = bm25.search_bm25(index, questions, 4)
        assert (
            built.rows[0].tolist()[:3]
            == bm25.search_bm25(again, questions, 3).rows[0].tolist()
        )
    assert bm25.search_bm25(again, ["C"], 1).rows.tolist() == [[4]]
    manifest.verify_manifest(folder)
    # Other settings are another index, and so are other passages.
    assert bm25.index_folder(evidence, bm25.Bm25Settings()) != folder
    other = build_evidence([Passage("1", "x")], evidence.directory.parent / "new", {})
    assert bm25.index_folder(other, settings) != folder
    with pytest.raises(CorruptError, match="no BM25 index with these settings"):
        bm25.load_bm25(folder, bm25.Bm25Settings())


def test_what_is_read_equals_what_was_built(evidence):
    texts = map(bm25.passage_text, evidence.passages())
    built, kept = bm25.build_bm25(texts), bm25.open_bm25(evidence)
    questions = ["cats chase dogs", "mice"]
    for one, other in zip(
        bm25._all_scores(built, questions),
        bm25._all_scores(kept, questions),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_index_is_found(evidence):
    bm25.open_bm25(evidence)
    folder = bm25.index_folder(evidence, bm25.Bm25Settings())
    data = bytearray((folder / "scores.f32").read_bytes())
    data[0] ^= 1
    (folder / "scores.f32").write_bytes(data)
    with pytest.raises(CorruptError, match=r"scores\.f32 is damaged"):
        bm25.open_bm25(evidence)


@pytest.mark.parametrize("wrong", [{"k1": -1.0}, {"b": 1.5}, {"b": float("nan")}])
def test_settings_out_of_their_ranges(wrong):
    with pytest.raises(ConfigError, match="k1 must be 0 or more, b between 0 and 1"):
        bm25.Bm25Settings(**wrong)


@pytest.mark.parametrize("k", [1, 5, 20, 40])
def test_equals_a_full_sort_with_ties_to_the_lower_row(k):
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "grey"]
    texts = [" ".join(rng.choice(words, 3)) for _ in range(40)]
    index = bm25.build_bm25(texts)
    questions = ["red", "green blue", "grey grey red"]
    results = bm25.search_bm25(index, questions, k)
    for place, question in enumerate(questions):
        scores = index.retriever.get_scores(question.split())
        order = [row for row in np.argsort(-scores, kind="stable") if scores[row] > 0]
        got = results.rows[place]
        assert got[got >= 0].tolist() == order[:k]
    assert len(set(results.scores[0].tolist())) < len(results.scores[0]) or k == 1


def test_title_and_text_are_read():
    assert bm25.passage_text(Passage("1", "sat", "Cats")) == "Cats sat"


def test_nothing_to_index_or_to_ask_for():
    with pytest.raises(DataError, match="no passage has a word"):
        bm25.build_bm25(["", "the", "?"])
    with pytest.raises(ConfigError, match="k=0"):
        bm25.search_bm25(bm25.build_bm25(TEXTS), ["cat"], 0)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match="pip install"):
        bm25.build_bm25(TEXTS)
