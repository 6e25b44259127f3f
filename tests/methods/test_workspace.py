"""What methods are bound to: both kinds of rows, batches, the passage side."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout, layout_rows
from art_jax.errors import ConfigError
from art_jax.index.rows import DeviceRows, HostRows
from art_jax.methods.workspace import TEACHER, passage_side


@pytest.fixture(scope="module")
def space(tiny, tiny_evidence):
    return tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(2), tiny.bag_encoder()
    )


def test_rows_are_placed_or_streamed_and_hold_the_same(space):
    layout = Layout((), (), (), 9, 0)
    rows = np.array([[3, 39], [0, 7]], np.int32)
    want = layout_rows(layout, space.evidence.token_tables[TEACHER], rows.reshape(-1))
    streamed = dataclasses.replace(space, stream_tokens=True)
    for a_space, kind in ((space, DeviceRows), (streamed, HostRows)):
        found = a_space.rows_of(TEACHER, layout)
        assert isinstance(found, kind)
        np.testing.assert_array_equal(found.gather(rows), want.reshape(2, 2, 9))


@pytest.mark.parametrize("batch_size", [0, -2, 3])
def test_a_batch_that_the_devices_cannot_split_is_named(space, batch_size):
    with pytest.raises(ConfigError, match=f"BATCH_SIZE is {batch_size}.*2 devices"):
        space.check_batch_size(batch_size)
    space.check_batch_size(4)


@pytest.mark.parametrize("num_chunks", [0, 3, 4])
def test_chunks_that_the_devices_cannot_split_are_named(space, num_chunks):
    with pytest.raises(
        ConfigError, match=f"NUM_MICROBATCHES is {num_chunks}.*split into 1 to 2"
    ):
        space.check_batch_size(4, num_chunks)
    space.check_batch_size(4, 2)


def test_each_device_holds_an_equal_part_of_a_batch(space):
    placed = space.put_batch({"rows": np.arange(4, dtype=np.int32)})["rows"]
    parts = [np.asarray(shard.data).tolist() for shard in placed.addressable_shards]
    assert parts == [[0, 1], [2, 3]]


@pytest.mark.parametrize("shared", [False, True])
def test_the_passage_side_is_all_that_embeds_passages(tiny, space, shared):
    encoder = tiny.bag_encoder(shared=shared)
    params = encoder.init(jax.random.key(0))
    side = passage_side(params)
    assert side.keys() == ({"shared"} if shared else {"passage"})
    tokens = space.queries.tokens
    np.testing.assert_array_equal(
        encoder.encode_passage(side, tokens), encoder.encode_passage(params, tokens)
    )
