"""What tests of every search compare with: a stable full sort, in NumPy."""

import numpy as np
import pytest

from art_jax import partitioning


def _small_integers(seed, *shape):
    # Small integers: each dot product is exact in float32 and bfloat16 sums, so == is
    # right, and ties are common.
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def _full_sort(queries, table, k, excluded=None):
    scores = queries @ table.T
    for query, row in (
        np.argwhere(np.ones_like(excluded)) if excluded is not None else []
    ):
        if 0 <= excluded[query, row] < len(table):
            scores[query, excluded[query, row]] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, rows, 1)
    rows = np.where(best == -np.inf, -1, rows)
    missing = ((0, 0), (0, max(0, k - best.shape[1])))
    best = np.pad(best, missing, constant_values=-np.inf)
    return best, np.pad(rows, missing, constant_values=-1)


def _place(table, mesh, dtype=np.float32):
    padded = partitioning.padded_rows(len(table), mesh)
    # Padding rows score high, so that a search that does not mask them fails.
    whole = np.full((padded, table.shape[1]), 9, np.float32)
    whole[: len(table)] = table
    array = partitioning.put_global(whole, partitioning.row_sharding(mesh))
    return array.astype(dtype)


@pytest.fixture(scope="session")
def small_integers():
    """(seed, *shape) -> float32 numbers from -2 to 2."""
    return _small_integers


@pytest.fixture(scope="session")
def full_sort():
    """(queries, table, k, excluded) -> scores and rows [B, k], by a stable sort."""
    return _full_sort


@pytest.fixture(scope="session")
def place():
    """(table, mesh, dtype) -> the table on the mesh, padded with high rows."""
    return _place
