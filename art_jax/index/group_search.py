"""Top-K from bounds of groups: one pass over the table, then a few rows rescored.

Rows are taken in groups of g consecutive ones. One pass gives each group a bound that
no score in it exceeds. The M groups of highest bound are rescored exactly; where the
K-th best score found is above the (M+1)-th bound, no other row can be among the K best.

Where bounds are the maxima themselves, K groups suffice and nothing is left open:

Lemma. In the stable order (higher score first, of equals the lower row), the K best
rows lie in the K best groups, ordered by maximum, of equals the lower group.
Proof. Let r be one of the K best rows, in group A, and suppose K groups come before A.
Each holds a row whose score is its maximum, >= max(A) >= score(r); where these are
equal the group is lower than A and so the row lower than r. K rows come before r.

Excluded rows. Where E rows must not be found for a query, M = K + E suffices, though
maxima include those rows: only the maxima of at most E groups are then too high. A
group among the K best without the excluded rows has at most K - 1 groups before it
there; with them only the raised groups, at most E, can come before it in addition,
since its own maximum did not fall and the others' did not rise. So fewer than K + E
groups come before it.

Source: the bound of groups is known as block-max pruning in inverted indexes (Ding and
Suel, SIGIR 2011). Design note: docs/design/exact_search.md.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from art_jax.index.block_search import keep_best
from art_jax.index.table_rows import tie
from art_jax.types import SearchResults

_FANOUT = 8

# (first row of a segment within the shard, its rows) -> [groups, B] float32, what no
# score of a group exceeds; -inf where no row of it holds a passage, inf for NaN.
SegmentBounds = Callable[[jax.Array, int], jax.Array]
# (first row within the shard, rows) -> [rows, B] float32, what no row's score exceeds.
BlockBounds = Callable[[jax.Array, int], jax.Array]


@dataclasses.dataclass(frozen=True)
class GroupSizes:
    """How a search over groups is cut up. Sizes change no result.

    group_rows: g, rows a group.
    block_rows: scored at a time, a multiple of g.
    segment_rows: whose bounds exist at a time, a multiple of `block_rows`.
    rescored_queries: queries rescored at a time.
    """

    group_rows: int
    block_rows: int
    segment_rows: int
    rescored_queries: int


def scan_segment(
    block_bounds: BlockBounds,
    start: jax.Array,
    size: int,
    *,
    sizes: GroupSizes,
    passage_rows: jax.Array,
) -> jax.Array:
    """Returns the bounds of a segment's groups, [ceil(size / g), B] float32.

    Args:
        block_bounds: bounds some rows.
        start: [] int32, the segment's first row within the shard.
        size: its rows.
        sizes: how to cut it up.
        passage_rows: [] int32, leading rows of the shard that hold passages.
    """

    def bound_block(block_start, rows):
        bounds_RB = block_bounds(block_start, rows)
        is_passage_R = block_start + jnp.arange(rows, dtype=jnp.int32) < passage_rows
        # Only now: a NaN in a row without a passage means nothing.
        bounds_RB = jnp.where(is_passage_R[:, None], bounds_RB, -jnp.inf)
        return group_maxima(bounds_RB, sizes.group_rows)

    num_blocks, rest = divmod(size, sizes.block_rows)
    parts = []
    if num_blocks:
        starts = start + jnp.arange(num_blocks, dtype=jnp.int32) * sizes.block_rows
        blocks = jax.lax.map(lambda first: bound_block(first, sizes.block_rows), starts)
        parts.append(blocks.reshape(-1, blocks.shape[-1]))
    if rest:
        parts.append(bound_block(start + num_blocks * sizes.block_rows, rest))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def group_maxima(bounds: jax.Array, group_rows: int) -> jax.Array:
    """Returns the highest of every group of rows, [ceil(R / g), B]; NaN counts as inf.

    Args:
        bounds: [R, B] float32.
        group_rows: g; the last group may be smaller.
    """
    num_rows, batch = bounds.shape
    padding = -num_rows % group_rows
    if padding:
        bounds = jnp.pad(bounds, ((0, padding), (0, 0)), constant_values=-jnp.inf)
    maxima = bounds.reshape(-1, group_rows, batch).max(axis=1)
    return jnp.where(jnp.isnan(maxima), jnp.inf, maxima)


def best_groups(bounds: jax.Array, num_best: int) -> tuple[jax.Array, jax.Array]:
    """Returns the bounds and numbers of the best groups, in stable order, [B, m] each.

    The lemma again, on groups of groups: sorting all of millions of bounds would cost
    more than scoring the rows.

    Args:
        bounds: [G, B] float32 without NaN.
        num_best: m, at most G.
    """
    num_groups, batch = bounds.shape
    if num_groups <= 2 * _FANOUT * num_best:
        # top_k puts -0. below 0., which are equal here.
        return jax.lax.top_k(jnp.where(bounds == 0, 0.0, bounds).T, num_best)
    _, upper_Bm = best_groups(group_maxima(bounds, _FANOUT), num_best)
    # In the order of rows, so that the first of equals is the lowest.
    upper_Bm = jnp.sort(upper_Bm, axis=1)
    groups_BC = _counted_from(upper_Bm * _FANOUT, _FANOUT).reshape(batch, -1)
    bounds_BC = bounds[
        jnp.minimum(groups_BC, num_groups - 1),
        jnp.arange(batch, dtype=jnp.int32)[:, None],
    ]
    bounds_BC = jnp.where(groups_BC < num_groups, bounds_BC, -jnp.inf)
    best_bounds, places = jax.lax.top_k(
        jnp.where(bounds_BC == 0, 0.0, bounds_BC), num_best
    )
    return best_bounds, jnp.take_along_axis(groups_BC, places, axis=1)


def group_top_k(
    queries: jax.Array,
    embeddings: jax.Array,
    segment_bounds: SegmentBounds,
    *,
    k: int,
    num_rescored: int,
    sizes: GroupSizes,
    first_row: jax.Array | int,
    num_rows: jax.Array | int,
    excluded_rows: jax.Array,
) -> tuple[SearchResults, jax.Array]:
    """Returns the k best rows of the best groups of one shard, and the next bound.

    Args:
        queries: [B, D], of the embeddings' dtype.
        embeddings: [S, D], one shard.
        segment_bounds: bounds the groups of a segment.
        k: rows kept a query.
        num_rescored: M, groups rescored a query.
        sizes: how to cut it up.
        first_row: [] int32, the table's row that is this shard's first.
        num_rows: [] int32, rows of the table that hold passages.
        excluded_rows: [B, E] int32, rows of the table to leave out, -1 for none.

    Returns:
        The results, and [B] float32, the highest bound of the groups that were not
        rescored, -inf where there are none.
    """
    batch, shard_rows = queries.shape[0], embeddings.shape[0]
    num_groups = -(-shard_rows // sizes.group_rows)
    # One more than is rescored: its bound is what the certificate compares with.
    best = (
        jnp.full((batch, num_rescored + 1), -jnp.inf, jnp.float32),
        jnp.full((batch, num_rescored + 1), num_groups, jnp.int32),
    )

    def merge_segment(best, start, size):
        bounds_GB = segment_bounds(start, size)
        kept = min(num_rescored + 1, bounds_GB.shape[0])
        bounds_Bm, groups_Bm = best_groups(bounds_GB, kept)
        groups_Bm = groups_Bm + start // sizes.group_rows
        # Both are in stable order and the segment's groups come later.
        bounds_BC = jnp.concatenate([best[0], bounds_Bm], axis=1)
        groups_BC = jnp.concatenate([best[1], groups_Bm], axis=1)
        bounds, places = jax.lax.top_k(bounds_BC, num_rescored + 1)
        return bounds, jnp.take_along_axis(groups_BC, places, axis=1)

    num_segments, rest = divmod(shard_rows, sizes.segment_rows)
    if num_segments == 1:
        best = merge_segment(best, jnp.int32(0), sizes.segment_rows)
    elif num_segments:
        starts = jnp.arange(num_segments, dtype=jnp.int32) * sizes.segment_rows
        best, _ = jax.lax.scan(
            lambda best, start: (merge_segment(best, start, sizes.segment_rows), None),
            best,
            starts,
        )
    if rest:
        best = merge_segment(best, jnp.int32(num_segments * sizes.segment_rows), rest)
    bounds, groups = best
    results = _rescore(
        queries,
        embeddings,
        groups[:, :num_rescored],
        k=k,
        sizes=sizes,
        first_row=first_row,
        num_rows=num_rows,
        excluded_rows=excluded_rows,
    )
    return results, bounds[:, num_rescored]


def is_certain(results: SearchResults, next_bound: jax.Array) -> jax.Array:
    """Returns for which queries no row outside the rescored groups can be found, [B].

    An equal bound leaves it open, since a row of that score may be lower.

    Args:
        results: [B, K].
        next_bound: [B], from `group_top_k`.
    """
    return (results.scores[:, -1] > next_bound) | (next_bound == -jnp.inf)


def _counted_from(starts: jax.Array, size: int) -> jax.Array:
    """Returns start, start + 1, ... of each of `starts` [B, m], [B, m, size]."""
    return starts[:, :, None] + jnp.arange(size, dtype=jnp.int32)[None, None, :]


def _rescore(
    queries: jax.Array,
    embeddings: jax.Array,
    groups: jax.Array,
    *,
    k: int,
    sizes: GroupSizes,
    first_row: jax.Array | int,
    num_rows: jax.Array | int,
    excluded_rows: jax.Array,
) -> SearchResults:
    """Returns the k best rows of some groups, [B, M], some queries at a time."""
    batch, shard_rows = queries.shape[0], embeddings.shape[0]
    group_rows = sizes.group_rows
    # In the order of rows, so that the first of equals is the lowest.
    groups = jnp.sort(groups, axis=1)

    def rescore_chunk(chunk):
        queries_CD, groups_CM, excluded_CE = chunk
        first_CM = groups_CM * group_rows
        # The last group may reach past the shard: it is read from further up, and the
        # rows of the group before are masked. Groups that stand for none lie past it.
        start_CM = jnp.minimum(first_CM, shard_rows - group_rows)
        rows_CMg = _counted_from(start_CM, group_rows)
        is_found_CMg = rows_CMg >= first_CM[:, :, None]
        tied, start_CM = tie(embeddings, start_CM)
        values = jax.vmap(
            lambda start: jax.lax.dynamic_slice_in_dim(tied, start, group_rows)
        )(start_CM.reshape(-1))
        values_CRD = values.reshape(*groups_CM.shape[:1], -1, embeddings.shape[1])
        scores_CR = jax.lax.dot_general(
            values_CRD,
            queries_CD,
            (((2,), (1,)), ((0,), (0,))),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        rows_CR = first_row + rows_CMg.reshape(scores_CR.shape)
        is_found_CR = is_found_CMg.reshape(scores_CR.shape) & (rows_CR < num_rows)
        if excluded_CE.shape[1]:
            is_excluded_CRE = rows_CR[:, :, None] == excluded_CE[:, None, :]
            is_found_CR &= ~is_excluded_CRE.any(axis=-1)
        scores_CR = jnp.where(is_found_CR, scores_CR, -jnp.inf)
        missing = k - scores_CR.shape[1]
        if missing > 0:
            widths = ((0, 0), (0, missing))
            scores_CR = jnp.pad(scores_CR, widths, constant_values=-jnp.inf)
            rows_CR = jnp.pad(rows_CR, widths)
        return keep_best(scores_CR, rows_CR, k)

    size = min(sizes.rescored_queries, batch)
    padding = -batch % size

    def split(array):
        array = jnp.pad(array, ((0, padding), (0, 0)))
        return array.reshape((batch + padding) // size, size, array.shape[1])

    chunks = jax.tree.map(split, (queries, groups, excluded_rows))
    results = jax.lax.map(rescore_chunk, chunks)
    return jax.tree.map(lambda found: found.reshape(-1, k)[:batch], results)
