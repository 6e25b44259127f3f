"""A refresh makes a new table and leaves the old one alone."""

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_lengths, make_token_table
from art_jax.errors import DivergedError
from art_jax.index import refresh, rows

NUM_ROWS = 19
LAYOUT = Layout((1,), (), (2,), 8)


def token_table():
    random = np.random.default_rng(0)
    texts = [random.integers(3, 50, i % 7) for i in range(NUM_ROWS)]
    return make_token_table([()] * NUM_ROWS, texts, np.uint16)


def encode(params, tokens):
    mask = (tokens > 0).astype("float32")
    return (params[tokens] * mask[..., None]).sum(axis=1) / mask.sum(
        axis=1, keepdims=True
    )


def refresher(mesh, place=rows.place_rows, **changes):
    tokens = token_table()
    settings = {
        "encode": encode,
        "rows": place(tokens, LAYOUT, mesh),
        "lengths": layout_lengths(LAYOUT, tokens, np.arange(NUM_ROWS)),
        "width": 3,
        "mesh": mesh,
        "evidence_digest": "digest",
        "chunk_tokens": 16,
    }
    return refresh.Refresher(**settings | changes)


def params(seed):
    return jax.random.normal(jax.random.key(seed), (50, 3))


def bits(table):
    return np.asarray(table.embeddings).tobytes()


def test_a_refresh_is_a_new_generation_and_the_old_table_stays(mesh):
    fixed = refresher(mesh)
    old = refresh.refresh(fixed, params(0), step=0, generation=0)
    old_bits = bits(old)
    seen = []
    new = refresh.refresh(
        fixed, params(1), step=500, generation=1, on_progress=seen.append
    )
    assert (new.generation, new.table_step) == (1, 500)
    assert (new.num_rows, new.width, new.evidence_digest) == (NUM_ROWS, 3, "digest")
    assert new.embeddings.dtype == "bfloat16"
    assert new.mesh == mesh
    assert seen[-1] == NUM_ROWS
    assert bits(new) != old_bits
    assert bits(old) == old_bits
    assert (np.asarray(new.embeddings)[NUM_ROWS:] == 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_same_weights_on_the_same_mesh_give_the_same_bits(mesh, dtype):
    placed = refresher(mesh, dtype=dtype)
    streamed = refresher(mesh, rows.stream_rows, dtype=dtype)
    one, two, three = (
        bits(refresh.refresh(fixed, params(0), step=1, generation=1))
        for fixed in (placed, placed, streamed)
    )
    assert one == two == three


def test_any_mesh_gives_the_same_embeddings():
    tables = [
        np.asarray(
            refresh.refresh(
                refresher(partitioning.make_mesh(devices), dtype="float32"),
                params(0),
                step=1,
                generation=1,
            ).embeddings
        )[:NUM_ROWS]
        for devices in (1, 2, 8)
    ]
    # A chunk of another size may sum in another order.
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tables[2], tables[0], rtol=1e-6, atol=1e-6)


def test_diverged_weights_make_no_table(mesh):
    with pytest.raises(DivergedError, match="are not finite"):
        refresh.refresh(refresher(mesh), params(0) * np.nan, step=1, generation=1)


def test_a_stop_in_the_middle_leaves_no_table():
    def stop(num_rows):
        if num_rows:
            raise KeyboardInterrupt

    mesh = partitioning.make_mesh(2)
    with pytest.raises(KeyboardInterrupt):
        refresh.refresh(
            refresher(mesh), params(0), step=1, generation=1, on_progress=stop
        )
