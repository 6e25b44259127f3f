"""Meshes, layouts, and arrays of which a process reads its part alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.models import layers, t5
from art_jax.teacher import t5_scoring


def test_a_mesh_splits_devices_into_data_and_model():
    assert dict(partitioning.make_mesh().shape) == {"data": 8, "model": 1}
    mesh = partitioning.make_mesh(6, model_parallelism=2)
    assert mesh.axis_names == ("data", "model")
    assert dict(mesh.shape) == {"data": 3, "model": 2}
    assert list(mesh.devices.ravel()) == jax.devices()[:6]
    assert partitioning.num_row_shards(mesh) == 6


def test_shard_map_takes_an_argument_that_is_not_sharded_yet():
    # What Explicit axes, JAX's default, would refuse.
    mesh = partitioning.make_mesh(2)
    rows = PartitionSpec(partitioning.ROW_AXES)
    double = jax.shard_map(lambda x: x * 2, mesh=mesh, in_specs=rows, out_specs=rows)
    np.testing.assert_array_equal(jax.jit(double)(jnp.arange(4)), [0, 2, 4, 6])


@pytest.mark.parametrize("num_devices", [0, -1, 9])
def test_a_mesh_of_devices_that_are_not_there_is_refused(num_devices):
    with pytest.raises(ConfigError, match=f"mesh of {num_devices} devices.*1 to 8"):
        partitioning.make_mesh(num_devices)


@pytest.mark.parametrize("model_parallelism", [0, 3, 16])
def test_model_parallelism_divides_the_devices(model_parallelism):
    with pytest.raises(ConfigError, match=f"{model_parallelism} does not divide 8"):
        partitioning.make_mesh(model_parallelism=model_parallelism)


@pytest.mark.parametrize(
    ("num_rows", "devices", "multiple", "want"),
    [
        (0, 8, 1, 8),  # an array of no rows has no shards
        (1, 8, 1, 8),
        (8, 8, 1, 8),
        (9, 8, 1, 16),
        (61, 1, 1, 61),
        (61, 2, 1, 62),
        (61, 2, 4, 64),  # 31 a shard, rounded up to 32
        (6, 2, 4, 6),  # 3 a shard, which is below a block of 4
        (8, 2, 4, 8),
    ],
)
def test_rows_are_padded_to_equal_shards(num_rows, devices, multiple, want):
    mesh = partitioning.make_mesh(devices)
    assert partitioning.padded_rows(num_rows, mesh, multiple=multiple) == want


def test_rows_are_split_over_both_axes_and_batches_over_data():
    mesh = partitioning.make_mesh(8, model_parallelism=2)
    values = np.arange(16)
    rows = partitioning.put_global(values, partitioning.row_sharding(mesh))
    batch = partitioning.put_global(values, partitioning.batch_sharding(mesh))
    whole = partitioning.put_global(values, partitioning.replicated(mesh))

    def parts(array):
        return [shard.data.tolist() for shard in array.addressable_shards]

    assert parts(rows) == [[2 * i, 2 * i + 1] for i in range(8)]
    # Two devices along `model` hold the same four.
    assert parts(batch) == [list(range(i // 2 * 4, i // 2 * 4 + 4)) for i in range(8)]
    assert parts(whole) == [list(range(16))] * 8
    for array in (rows, batch, whole):
        np.testing.assert_array_equal(partitioning.to_host(array), values)


def test_make_array_reads_each_shard_and_never_the_whole():
    mesh = partitioning.make_mesh(4)
    reads = []

    def read(index):
        start, stop, _ = index[0].indices(8)
        reads.append((start, stop))
        return np.arange(start, stop)[:, None] * np.array([[1, 10]])

    array = partitioning.make_array((8, 2), partitioning.row_sharding(mesh), read)
    assert sorted(reads) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    np.testing.assert_array_equal(array, np.arange(8)[:, None] * np.array([[1, 10]]))


def test_a_tree_keeps_its_structure_and_dtypes():
    mesh = partitioning.make_mesh(2)
    tree = {"a": np.zeros(4, np.int32), "b": {"c": np.ones((2, 3), np.float32)}}
    put = partitioning.put_tree(tree, partitioning.batch_sharding(mesh))
    assert jax.tree.structure(put) == jax.tree.structure(tree)
    for want, got in zip(jax.tree.leaves(tree), jax.tree.leaves(put), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("axes", "want"),
    [
        (("vocab", "embed"), ("model", None)),
        (("embed", "mlp"), (None, "model")),
        (("mlp", "embed"), ("model", None)),
        (("embed", "joined_kv"), (None, "model")),
        (("heads", "relpos_buckets"), ("model", None)),
        (("embed",), (None,)),
        ((None, "embed"), (None, None)),
        (("batch", "length", "vocab"), ("data", None, "model")),
        # The first that asks for a mesh axis gets it.
        (("joined_kv", "mlp"), ("model", None)),
        (("rows", "mlp"), (("data", "model"), None)),
        (("mlp", "rows"), ("model", None)),
        ((), ()),
    ],
)
def test_logical_axes_are_split_as_t5x_splits_them(axes, want):
    mesh = partitioning.make_mesh(8, model_parallelism=2)
    assert partitioning.logical_sharding(axes, mesh).spec == PartitionSpec(*want)


def test_a_logical_axis_without_a_rule_is_named():
    with pytest.raises(ConfigError, match="'surprise'"):
        partitioning.logical_sharding(("surprise",), partitioning.make_mesh(1))


def test_a_t5_split_over_its_weights_scores_as_it_does_whole():
    config = t5.T5Config(
        vocab_size=12,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=1,
        dtype="float32",
        num_decoder_layers=1,
    )
    params = jax.jit(t5.init_params, static_argnums=0)(config, jax.random.key(0))
    mesh = partitioning.make_mesh(4, model_parallelism=2)
    axes = layers.param_axes(params)
    split = jax.tree.map(
        lambda leaf, names: jax.device_put(
            leaf, partitioning.logical_sharding(names, mesh)
        ),
        params,
        axes,
    )
    layer = split["decoder"]["layers_0"]
    # Heads joined, 2 * 4 columns: each half of the devices holds one head.
    kernels = layer["self_attention"]
    assert kernels["query"]["kernel"].addressable_shards[0].data.shape == (8, 4)
    assert kernels["out"]["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert layer["mlp"]["wi_0"]["kernel"].addressable_shards[0].data.shape == (8, 8)
    embedding = split["token_embedder"]["embedding"]
    assert embedding.addressable_shards[0].data.shape == (6, 8)
    norm = split["decoder"]["decoder_norm"]["scale"]
    assert norm.sharding.is_fully_replicated

    tokens = np.random.default_rng(0).integers(1, 12, (4, 3, 5), np.int32)
    targets = np.random.default_rng(1).integers(1, 12, (4, 6), np.int32)
    want = t5_scoring.score(params, config, tokens, targets, 4)
    got = t5_scoring.score(
        split,
        config,
        partitioning.put_global(tokens, partitioning.batch_sharding(mesh)),
        partitioning.put_global(targets, partitioning.batch_sharding(mesh)),
        4,
    )
    # Partial sums over the split axes are added in another order.
    np.testing.assert_allclose(got, want, rtol=1e-5)
