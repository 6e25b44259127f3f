"""What int8 rows leave out is bounded: proven on paper, tried here in float64."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.index import int8_rows


def rows_of_many_kinds(seed, num_rows, width):
    """Rows of very different sizes, some with outliers, some constant."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(num_rows, width))
    rows[::3] *= 10.0 ** generator.integers(-6, 7, size=(len(rows[::3]), 1))
    rows[1::4, 0] *= 1000
    rows[2::5] = np.sign(rows[2::5])
    return rows.astype(np.float32)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [1, 33])
def test_no_score_exceeds_its_bound(width, dtype, seed):
    rows = jnp.asarray(rows_of_many_kinds(seed, 20, width), dtype)
    queries = jnp.asarray(rows_of_many_kinds(seed + 1, 6, width), dtype)
    # The query that the codes serve worst: what they leave out of a row.
    quantized = int8_rows.quantize_rows(rows)
    approximate = np.float64(quantized.scales)[:, None] * np.float64(quantized.codes)
    rest = jnp.asarray(np.float64(rows) - approximate, dtype)
    queries = jnp.concatenate([queries, rest])
    bounds = int8_rows.score_bounds(quantized, queries, int8_rows.norm_bounds(queries))
    scores = np.float64(rows) @ np.float64(queries).T
    assert (np.float64(bounds) >= scores).all()


def test_the_bound_is_close():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(500, 64)), jnp.float32)
    queries = rows[:10]
    norms = int8_rows.norm_bounds(queries)
    bounds = int8_rows.score_bounds(int8_rows.quantize_rows(rows), queries, norms)
    above = np.asarray(bounds) - np.asarray(rows @ queries.T)
    # A code is off by scale / sqrt(12) as a rule, a row by that times sqrt(D), and the
    # score itself by as much at most the other way.
    scale = np.abs(np.asarray(rows)).max(axis=1, keepdims=True) / 127
    assert (above <= np.asarray(norms) * scale * np.sqrt(64)).all()


@pytest.mark.parametrize("tiny", [0.0, 1e-30, 1e-42])
def test_rows_whose_squares_underflow_are_bounded(tiny):
    rows = jnp.asarray([[tiny, -tiny, tiny / 3]], jnp.float32)
    queries = jnp.asarray([[1e8, -1e8, 1e8], [tiny, 0, 0]], jnp.float32)
    bounds = int8_rows.score_bounds(
        int8_rows.quantize_rows(rows), queries, int8_rows.norm_bounds(queries)
    )
    assert (np.float64(bounds) >= np.float64(rows) @ np.float64(queries).T).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_finite_bound(bad):
    rows = jnp.asarray([[1.0, 2.0], [1.0, bad]], jnp.float32)
    queries = jnp.asarray([[0.5, 0.0]], jnp.float32)
    bounds = int8_rows.score_bounds(
        int8_rows.quantize_rows(rows), queries, int8_rows.norm_bounds(queries)
    )
    assert np.isfinite(bounds[0, 0])
    assert not np.isfinite(bounds[1, 0])
    assert bounds[1, 0] != -np.inf


def test_every_device_quantizes_its_rows_block_by_block(mesh, monkeypatch):
    monkeypatch.setattr(int8_rows, "_QUANTIZED_ROWS", 3)
    int8_rows.build_quantize.cache_clear()
    values = rows_of_many_kinds(5, 32, 8)
    placed = partitioning.put_global(values, partitioning.row_sharding(mesh))
    got = int8_rows.build_quantize(mesh)(placed)
    int8_rows.build_quantize.cache_clear()
    want = jax.jit(int8_rows.quantize_rows)(values)
    assert got.codes.dtype == jnp.int8
    for name in ("codes", "scales", "errors"):
        leaf = getattr(got, name)
        assert leaf.sharding.is_equivalent_to(placed.sharding, leaf.ndim)
        np.testing.assert_array_equal(leaf, getattr(want, name))


def test_quantizing_makes_no_float32_copy_of_the_table():
    mesh = partitioning.make_mesh(1)
    table = jax.ShapeDtypeStruct(
        (1_000_000, 64), jnp.bfloat16, sharding=partitioning.row_sharding(mesh)
    )
    memory = int8_rows.build_quantize(mesh).lower(table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1_000_000 * 64 // 4
