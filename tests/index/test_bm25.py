import math
import sys

import numpy as np
import pytest

from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, DataError
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
    index = bm25.build_bm25(TEXTS, k1=1.5, b=0.75)
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
    index = bm25.build_bm25(TEXTS, stop_words=None)
    assert bm25.search_bm25(index, ["the"], 1).rows.tolist() == [[1]]


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
