"""Counts over the whole evidence."""

import numpy as np

from art_jax.data.layouts import TokenTable

_ROWS_AT_ONCE = 1 << 16


def passage_frequencies(tokens: TokenTable, vocab_size: int) -> np.ndarray:
    """Returns in how many passages each token occurs, [V] int64."""
    counts = np.zeros(vocab_size, np.int64)
    for first in range(0, tokens.num_rows, _ROWS_AT_ONCE):
        offsets = tokens.offsets[first : first + _ROWS_AT_ONCE + 1]
        ids = np.asarray(tokens.token_ids[offsets[0] : offsets[-1]], np.int64)
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        # One number for each pair of row and token; a pair counts once.
        pairs = np.unique(rows * vocab_size + ids)
        counts += np.bincount(pairs % vocab_size, minlength=vocab_size)
    return counts


def inverse_passage_frequencies(tokens: TokenTable, vocab_size: int) -> np.ndarray:
    """Returns log((N + 1) / (n + 1)) of tokens in n of N passages, [V] float32.

    Tokens that are in no passage at all, special ones among them, get 0: they say
    nothing of any passage.
    """
    counts = passage_frequencies(tokens, vocab_size)
    weights = np.log((tokens.num_rows + 1) / (counts + 1))
    return np.where(counts > 0, weights, 0).astype(np.float32)
