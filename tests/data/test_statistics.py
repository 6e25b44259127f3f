"""Passage frequencies, by hand and against a slow twin."""

import numpy as np

from art_jax.data import statistics
from art_jax.data.layouts import make_token_table


def test_by_hand():
    tokens = make_token_table([[2], []], [[3, 3, 2], [2, 4]])
    np.testing.assert_array_equal(
        statistics.passage_frequencies(tokens, 6), [0, 0, 2, 1, 1, 0]
    )
    want = [0, 0, np.log(3 / 3), np.log(3 / 2), np.log(3 / 2), 0]
    np.testing.assert_allclose(
        statistics.inverse_passage_frequencies(tokens, 6), want, rtol=1e-6
    )


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 9, rng.integers(0, 7)).tolist() for _ in range(50)]
    tokens = make_token_table([[]] * 50, texts)
    monkeypatch.setattr(statistics, "_ROWS_AT_ONCE", 7)
    want = [sum(token in text for text in texts) for token in range(9)]
    np.testing.assert_array_equal(statistics.passage_frequencies(tokens, 9), want)
