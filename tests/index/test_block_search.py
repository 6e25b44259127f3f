"""The plain search equals a stable full sort; NaN and zeros rank as they should."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax.index import block_search

SEARCH = jax.jit(block_search.block_top_k, static_argnames=("k", "block_rows"))


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize(
    ("num_rows", "block_rows"), [(1, 1), (9, 3), (40, 7), (40, 50), (2, 1)]
)
def test_blocks_change_nothing(num_rows, block_rows, seed, small_integers, full_sort):
    queries, table = small_integers(seed, 2, 3), small_integers(seed + 1, num_rows, 3)
    found = SEARCH(
        queries,
        table,
        k=4,
        first_row=0,
        num_rows=num_rows,
        excluded_rows=jnp.zeros((2, 0), jnp.int32),
        block_rows=block_rows,
    )
    want_scores, want_rows = full_sort(queries, table, 4)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


@pytest.mark.parametrize("nan", [np.nan, np.copysign(np.nan, -1)])
def test_nan_of_either_sign_ranks_first(nan):
    # inf - inf is a NaN with its sign bit set on x86, which top_k ranks below -inf.
    scores = jnp.asarray([[np.inf, 1, nan, -np.inf]], jnp.float32)
    rows = jnp.asarray([[4, 5, 6, 7]], jnp.int32)
    found = block_search.keep_best(scores, rows, 4)
    np.testing.assert_array_equal(found.rows, [[6, 4, 5, -1]])
    assert np.isnan(found.scores[0, 0])


def test_zeros_of_either_sign_are_equal():
    scores = jnp.asarray([[-0.0, 0.0, -0.0, -1.0]], jnp.float32)
    rows = jnp.asarray([[1, 2, 3, 4]], jnp.int32)
    found = block_search.keep_best(scores, rows, 3)
    np.testing.assert_array_equal(found.rows, [[1, 2, 3]])
