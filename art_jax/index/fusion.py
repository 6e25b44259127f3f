"""Two rankings made one: DPR's weighted sum of scores, and reciprocal rank fusion.

Both take what two searches found, [B, n] each, and give the best k of their union;
equal scores go to the lower row.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.index.table import EmbeddingTable
from art_jax.index.table_rows import tie
from art_jax.types import SearchResults

# DPR's, chosen on its development questions.
DPR_WEIGHT, DPR_DEPTH = 1.1, 2000
RRF_K = 60
_ROWS_A_CALL = 1 << 14


def weighted_sum(
    lexical: SearchResults,
    dense: SearchResults,
    *,
    lexical_scores: Callable[[np.ndarray], np.ndarray],
    dense_scores: Callable[[np.ndarray], np.ndarray],
    k: int,
    weight: float = DPR_WEIGHT,
) -> SearchResults:
    """The best of both searches by lexical score + weight x dense score.

    A passage that one search alone found has a score by the other too, which is
    computed, not guessed.

    Args:
        lexical: [B, n] of BM25, NumPy; row -1 where there are no more.
        dense: [B, n'] of a dense search, likewise.
        lexical_scores: from rows [B, m], -1 for none, to their lexical scores [B, m],
            such as `bm25.score_rows`.
        dense_scores: the same of dense scores, such as `score_rows`.
        k: rows kept a question; at most n + n'.
        weight: of the dense score.

    Returns:
        NumPy arrays [B, k]: scores float64, rows int32; -inf and -1 where the union
        has fewer rows.

    Raises:
        ConfigError: k is out of its range, or the weight is not finite.

    Source: DPR (arXiv:2004.04906), section 5: n = 2000, weight 1.1. Differs in:
        nothing.
    """
    if not np.isfinite(weight):
        raise ConfigError(f"the weight of the fusion is {weight}: it must be finite.")
    rows = _union(lexical.rows, dense.rows)
    _check_depth(k, lexical, dense)
    by_word = _look_up(rows, lexical, lexical_scores)
    by_meaning = _look_up(rows, dense, dense_scores)
    with np.errstate(invalid="ignore"):  # -inf by weight 0, where there is no row
        scores = by_word + weight * by_meaning
    return _best(np.where(rows >= 0, scores, -np.inf), rows, k)


def reciprocal_rank(
    first: SearchResults, second: SearchResults, *, k: int, constant: float = RRF_K
) -> SearchResults:
    """The best of two searches by the sum of 1 / (constant + rank), rank from 1.

    A search that did not find a passage adds nothing to it.

    Args:
        first: [B, n] NumPy, best first; row -1 where there are no more.
        second: [B, n'], likewise.
        k: rows kept a question; at most n + n'.
        constant: above -1; the larger, the less the first ranks count.

    Returns:
        As `weighted_sum`.

    Raises:
        ConfigError: k or the constant is out of its range.

    Source: Cormack, Clarke & Buettcher, SIGIR 2009, with their constant of 60.
    """
    if not constant > -1:
        raise ConfigError(f"the constant of the fusion is {constant}: it must be > -1.")
    _check_depth(k, first, second)
    rows = _union(first.rows, second.rows)
    scores = np.zeros(rows.shape)
    for found in (first, second):
        parts = 1 / (constant + 1 + np.arange(found.rows.shape[1]))
        parts = np.broadcast_to(parts, found.rows.shape)
        scores += _values_at(rows, found.rows, parts, missing=0.0)
    return _best(np.where(rows >= 0, scores, -np.inf), rows, k)


def score_rows(
    table: EmbeddingTable, queries: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """The dot products of queries with named rows of a table.

    Args:
        table: where the rows are.
        queries: [B, D] float.
        rows: [B, K] integers, of each query; -1 for none.

    Returns:
        [B, K] float32 as `table.search` gives them, up to the order of summation;
        -inf where the row is -1.
    """
    score = build_score_rows(table.mesh)
    size = max(1, _ROWS_A_CALL // max(rows.shape[1], 1))
    parts = []
    for start in range(0, len(rows), size):
        # The last part is filled up, so that one compiled program serves all.
        part = np.full((size, rows.shape[1]), -1, np.int32)
        filled = np.zeros((size, queries.shape[1]), np.float32)
        kept = rows[start : start + size]
        part[: len(kept)], filled[: len(kept)] = kept, queries[start : start + size]
        scores = partitioning.to_host(score(table.embeddings, filled, part))
        parts.append(scores[: len(kept)])
    scores = np.concatenate(parts) if parts else np.zeros(rows.shape, np.float32)
    return np.where(rows >= 0, scores, -np.inf)


@functools.lru_cache(maxsize=16)
def build_score_rows(mesh: Mesh):
    """Returns `score(embeddings, queries [B, D], rows [B, K]) -> [B, K]`, jitted once.

    Each device scores the rows it holds; rows of -1 score 0.
    """
    split, whole = PartitionSpec(partitioning.ROW_AXES), PartitionSpec()

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(split, whole, whole), out_specs=whole
    )
    def score(embeddings_SD, queries_BD, rows_BK):
        shard_rows = embeddings_SD.shape[0]
        local_BK = rows_BK - jax.lax.axis_index(partitioning.ROW_AXES) * shard_rows
        is_here_BK = (rows_BK >= 0) & (local_BK >= 0) & (local_BK < shard_rows)
        embeddings_SD, local_BK = tie(embeddings_SD, local_BK)
        gathered = embeddings_SD.at[jnp.where(is_here_BK, local_BK, 0)].get()
        # Rounded as the rows are, summed in float32: as the search does.
        products_BK = jnp.einsum(
            "bkd,bd->bk",
            gathered.astype(jnp.float32),
            queries_BD.astype(embeddings_SD.dtype).astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        own = jnp.where(is_here_BK, products_BK, 0.0)
        return jax.lax.psum(own, partitioning.ROW_AXES)

    return score


def _union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The rows of both in ascending order, each once, then -1; [B, n + n']."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    is_new = np.ones(both.shape, bool)
    is_new[:, 1:] = both[:, 1:] != both[:, :-1]
    rows = np.where(is_new & (both >= 0), both, np.iinfo(np.int32).max)
    rows.sort(axis=1)
    return np.where(rows == np.iinfo(np.int32).max, -1, rows).astype(np.int32)


def _values_at(
    rows: np.ndarray, found: np.ndarray, values: np.ndarray, *, missing: float
) -> np.ndarray:
    """The values of `rows` [B, m] among those `found` [B, n]; `missing` elsewhere.

    What stands where a row is -1 means nothing.
    """
    result = np.full(rows.shape, missing)
    for place, (wanted, some) in enumerate(zip(rows, found, strict=True)):
        order = np.argsort(some, kind="stable")
        spots = np.searchsorted(some, wanted, sorter=order)
        spots = order[np.minimum(spots, len(some) - 1)]
        is_there = some[spots] == wanted
        result[place, is_there] = values[place, spots[is_there]]
    return result


def _look_up(
    rows: np.ndarray,
    found: SearchResults,
    score: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The scores of `rows` [B, m]: as the search gave them, computed for the others."""
    scores = _values_at(rows, found.rows, found.scores, missing=np.nan)
    is_missing = np.isnan(scores) & (rows >= 0)
    if not is_missing.any():
        return scores
    # Missing rows move to the front, so that few columns are scored.
    width = int(is_missing.sum(axis=1).max())
    order = np.argsort(~is_missing, axis=1, kind="stable")[:, :width]
    asked = np.where(is_missing, rows, -1)
    computed = score(np.take_along_axis(asked, order, axis=1))
    completed = np.full(rows.shape, np.nan)
    np.put_along_axis(completed, order, computed, axis=1)
    return np.where(is_missing, completed, scores)


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> SearchResults:
    """The k best of each line; `rows` ascend, so equal scores go to the lower row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return SearchResults(
        scores=np.take_along_axis(scores, order, axis=1),
        rows=np.take_along_axis(rows, order, axis=1),
    )


def _check_depth(k: int, first: SearchResults, second: SearchResults) -> None:
    depth = first.rows.shape[1] + second.rows.shape[1]
    if not 1 <= k <= depth:
        raise ConfigError(
            f"k={k} passages of two searches that found {depth}: ask for k between 1 "
            "and that number, or search deeper."
        )
