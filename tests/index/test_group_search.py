"""Bounds of groups lose no row: the lemmas, the certificate, and how it is cut up."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax.index import block_search, group_search, table_rows
from art_jax.index.group_search import GroupSizes

SETTINGS = hypothesis.settings(max_examples=20, deadline=None)
WIDTH, BATCH = 3, 4


@functools.partial(jax.jit, static_argnames=("k", "num_rescored", "sizes", "raised"))
def search(
    queries, table, num_rows, excluded, *, k, num_rescored, sizes, first_row=0, raised=0
):
    """Searches one shard by bounds that lie `raised` above the scores."""

    def block_bounds(start, size):
        block = table_rows.slice_rows(table, start, size)
        return block_search.dot_products(block, queries) + raised

    return group_search.group_top_k(
        queries,
        table,
        functools.partial(
            group_search.scan_segment,
            block_bounds,
            sizes=sizes,
            passage_rows=num_rows - first_row,
        ),
        k=k,
        num_rescored=num_rescored,
        sizes=sizes,
        first_row=first_row,
        num_rows=num_rows,
        excluded_rows=excluded,
    )


def no_rows(batch=BATCH):
    return jnp.zeros((batch, 0), jnp.int32)


@SETTINGS
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize(
    ("shard_rows", "sizes"),
    [
        (97, GroupSizes(1, 97, 97, 4)),
        (97, GroupSizes(2, 4, 12, 1)),
        (96, GroupSizes(3, 12, 24, 3)),
        (130, GroupSizes(8, 16, 64, 2)),
    ],
)
def test_k_groups_and_one_per_excluded_row_suffice(
    shard_rows, sizes, seed, small_integers, full_sort
):
    # The lemma to the letter: K + E groups and none to spare.
    queries = small_integers(seed, BATCH, WIDTH)
    table = small_integers(seed + 1, shard_rows, WIDTH)
    num_rows = shard_rows - seed % 20
    generator = np.random.default_rng(seed + 2)
    _, best = full_sort(queries, table[:num_rows], 6)
    excluded = np.where(generator.random((BATCH, 6)) < 0.7, best, -1).astype(np.int32)
    found, _ = search(
        queries,
        table,
        jnp.int32(num_rows),
        excluded,
        k=5,
        num_rescored=5 + 6,
        sizes=sizes,
    )
    want_scores, want_rows = full_sort(queries, table[:num_rows], 5, excluded)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


def test_one_group_fewer_does_not_suffice():
    # The two best rows are excluded and lie in groups of their own, before the best.
    table = jnp.asarray([[9], [0], [8], [0], [1], [0], [7], [0]], jnp.float32)
    excluded = jnp.asarray([[0, 2]], jnp.int32)
    rows = [
        search(
            jnp.ones((1, 1)),
            table,
            jnp.int32(8),
            excluded,
            k=1,
            num_rescored=num_rescored,
            sizes=GroupSizes(2, 2, 8, 1),
        )[0].rows[0, 0]
        for num_rescored in (3, 2)
    ]
    assert rows[0] == 6
    assert rows[1] != 6


@SETTINGS
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("raised", [0, 2])
def test_a_certain_result_is_right(raised, seed, small_integers, full_sort):
    queries, table = small_integers(seed, BATCH, WIDTH), small_integers(seed, 90, WIDTH)
    found, next_bound = search(
        queries,
        table,
        jnp.int32(90),
        no_rows(),
        k=3,
        num_rescored=4,
        sizes=GroupSizes(4, 8, 32, 4),
        raised=raised,
    )
    is_certain = np.asarray(group_search.is_certain(found, next_bound))
    _, want_rows = full_sort(queries, table, 3)
    np.testing.assert_array_equal(
        np.asarray(found.rows)[is_certain], want_rows[is_certain]
    )
    # And it is not left open without need: the bound beyond is that of the 5th group.
    maxima = (table @ queries.T + raised)[:88].reshape(-1, 4, BATCH).max(axis=1)
    maxima = np.concatenate([maxima, (table @ queries.T + raised)[None, 88:].max(1)])
    np.testing.assert_array_equal(next_bound, np.sort(maxima, axis=0)[-5])
    np.testing.assert_array_equal(
        is_certain, np.asarray(found.scores)[:, -1] > next_bound
    )


@pytest.mark.parametrize(
    ("kth", "next_bound", "want"),
    [(2.0, 1.0, True), (2.0, 2.0, False), (1.0, 2.0, False)]
    + [(-np.inf, -np.inf, True), (-np.inf, 0.0, False), (np.nan, 0.0, False)],
)
def test_an_equal_bound_leaves_it_open_and_no_bound_does_not(kth, next_bound, want):
    results = block_search.SearchResults(
        jnp.asarray([[3.0, kth]]), jnp.zeros((1, 2), jnp.int32)
    )
    assert group_search.is_certain(results, jnp.asarray([next_bound])) == want


@SETTINGS
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize(("num_groups", "num_best"), [(5, 5), (700, 3), (9000, 2)])
def test_best_groups_are_those_of_a_stable_sort(num_groups, num_best, seed):
    # 9,000 groups and 2 of them: groups of groups of groups. Few are high, some equal.
    bounds = np.random.default_rng(seed).geometric(0.3, (num_groups, 2))
    bounds = bounds.astype(np.float32)
    bounds[seed % num_groups, 0] = np.inf
    bounds[-1, 1] = np.inf
    got, groups = jax.jit(group_search.best_groups, static_argnums=1)(bounds, num_best)
    want = np.argsort(-bounds, axis=0, kind="stable")[:num_best].T
    np.testing.assert_array_equal(groups, want)
    np.testing.assert_array_equal(got, np.take_along_axis(bounds.T, want, axis=1))


@pytest.mark.parametrize("num_groups", [3, 700])
def test_bounds_of_zero_are_equal_whatever_their_sign(num_groups):
    bounds = np.full((num_groups, 1), -1, np.float32)
    bounds[1], bounds[2] = -0.0, 0.0
    _, groups = group_search.best_groups(jnp.asarray(bounds), 1)
    assert groups == 1


def test_more_groups_than_there_are_find_every_row_once(small_integers, full_sort):
    # The last group has two rows of four; and 12 groups are rescored where 3 are.
    queries, table = small_integers(5, BATCH, WIDTH), small_integers(6, 10, WIDTH)
    found, next_bound = search(
        queries,
        table,
        jnp.int32(10),
        no_rows(),
        k=12,
        num_rescored=12,
        sizes=GroupSizes(4, 8, 8, 3),
    )
    want_scores, want_rows = full_sort(queries, table, 12)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)
    assert (np.asarray(next_bound) == -np.inf).all()


def test_the_shard_of_later_rows_finds_their_numbers(small_integers, full_sort):
    queries, table = small_integers(3, BATCH, WIDTH), small_integers(4, 60, WIDTH)
    excluded = jnp.full((BATCH, 1), 47, jnp.int32)
    found, _ = search(
        queries,
        table[20:],
        jnp.int32(55),
        excluded,
        k=4,
        num_rescored=5,
        sizes=GroupSizes(4, 8, 16, 4),
        first_row=20,
    )
    outside = np.tile([*range(20), 47], (BATCH, 1))
    want_scores, want_rows = full_sort(queries, table[:55], 4, outside)
    np.testing.assert_array_equal(found.scores, want_scores)
    np.testing.assert_array_equal(found.rows, want_rows)


def test_the_highest_of_a_group_counts_nan_as_infinite():
    bounds = jnp.asarray([[1.0], [-2.0], [jnp.nan], [0.0], [-5.0]])
    got = group_search.group_maxima(bounds, 2)
    np.testing.assert_array_equal(got, [[1.0], [np.inf], [-5.0]])
