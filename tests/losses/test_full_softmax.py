"""The softmax over every row against a plain one, in blocks and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.losses.full_softmax import full_nll

BATCH, ROWS, WIDTH = 4, 45, 6
PADDED = 48
OWN = np.array([0, 44, 17, 17], np.int32)


def draw(scale=1.0):
    rng = np.random.default_rng(0)
    queries = (scale * rng.normal(size=(BATCH, WIDTH))).astype(np.float32)
    table = rng.normal(size=(PADDED, WIDTH)).astype(np.float32)
    # Padding would win every softmax, were it looked at.
    table[ROWS:] = 100.0
    return queries, table


def plain(queries, table, temperature=1.0):
    """Losses and the gradient of their weighted sum, by NumPy in float64."""
    queries, table = queries.astype(np.float64), table[:ROWS].astype(np.float64)
    scores = queries @ table.T / temperature
    scores -= scores.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(scores).sum(axis=1))
    losses = log_sums - scores[np.arange(BATCH), OWN]
    shares = np.exp(scores - log_sums[:, None])
    shares[np.arange(BATCH), OWN] -= 1
    return losses, WEIGHTS[:, None] * (shares @ table) / temperature


WEIGHTS = np.array([1.0, 2.0, 3.0, -1.0])


def losses_and_gradient(queries, table, mesh, **settings):
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(queries, table):
        losses = full_nll(queries, table, OWN, num_rows=ROWS, mesh=mesh, **settings)
        return (losses * WEIGHTS.astype(np.float32)).sum(), losses

    table = partitioning.put_global(table, partitioning.row_sharding(mesh))
    (_, losses), grads = jax.jit(total)(queries, table)
    return np.asarray(losses), np.asarray(grads)


@pytest.mark.parametrize("block_rows", [1, 5, 8192], ids="block={}".format)
def test_equals_a_plain_softmax(mesh, block_rows):
    queries, table = draw()
    got = losses_and_gradient(queries, table, mesh, block_rows=block_rows)
    want = plain(queries, table)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)


def test_large_scores_and_a_temperature():
    # exp(200) is infinite in float32.
    queries, table = draw(scale=100.0)
    mesh = partitioning.make_mesh(2)
    got = losses_and_gradient(queries, table, mesh, block_rows=7, temperature=0.5)
    want = plain(queries, table, temperature=0.5)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)


def test_a_shard_may_be_padding_alone():
    queries, table = draw()
    mesh = partitioning.make_mesh(8)
    table = np.concatenate([table, np.full((PADDED, WIDTH), 99, np.float32)])
    losses, grads = losses_and_gradient(queries, table, mesh)
    want = plain(queries, table)
    np.testing.assert_allclose(losses, want[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grads, want[1], rtol=1e-5, atol=1e-6)


def test_a_bfloat16_table_is_scored_as_the_search_does():
    queries, table = draw()
    mesh = partitioning.make_mesh(1)
    got = losses_and_gradient(queries, table.astype(jnp.bfloat16), mesh)
    rounded = [np.asarray(array.astype(jnp.bfloat16)) for array in (queries, table)]
    want = plain(*(array.astype(np.float32) for array in rounded))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-5)


def test_the_table_gets_no_gradient():
    queries, table = draw()
    mesh = partitioning.make_mesh(1)

    def total(table):
        return full_nll(queries, table, OWN, num_rows=ROWS, mesh=mesh).sum()

    assert not np.asarray(jax.grad(total)(table)).any()


def test_scores_of_all_rows_never_exist_at_once():
    mesh = partitioning.make_mesh(1)
    batch, rows = 64, 1 << 16

    def total(queries, table, own):
        return full_nll(
            queries, table, own, num_rows=rows, mesh=mesh, block_rows=1024
        ).sum()

    compiled = (
        jax.jit(jax.grad(total))
        .lower(
            jax.ShapeDtypeStruct((batch, 8), jnp.float32),
            jax.ShapeDtypeStruct((rows, 8), jnp.float32),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
        )
        .compile()
    )
    # A few blocks of scores, of 64 of them.
    block = batch * 1024 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * block


def test_a_block_of_no_rows_is_refused():
    queries, table = draw()
    with pytest.raises(ConfigError, match="block_rows is 0"):
        full_nll(
            queries,
            table,
            OWN,
            num_rows=ROWS,
            mesh=partitioning.make_mesh(1),
            block_rows=0,
        )
