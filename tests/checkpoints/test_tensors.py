import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from art_jax import partitioning
from art_jax.checkpoints import tensors


def counted(array):
    """A tensor that writes down what was read of it."""
    reads = []

    def read(index):
        reads.append(tuple((part.start, part.stop) for part in index))
        return array[index]

    return tensors.FileTensor(array.shape, array.dtype, read), reads


ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)


def test_nothing_is_read_before_it_is_asked_for():
    tensor, reads = counted(ARRAY)
    assert (tensor.T.shape, tensor.T.ndim, tensor.size) == ((6, 4), 2, 24)
    assert reads == []
    np.testing.assert_array_equal(np.asarray(tensor.T), ARRAY.T)
    assert reads == [((0, 4), (0, 6))]
    assert np.asarray(tensor.T).flags.c_contiguous


def test_a_part_of_the_transpose_is_a_part_of_the_file():
    tensor, reads = counted(ARRAY)
    part = tensor.T.read((slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, ARRAY.T[1:3, :2])
    assert reads == [((0, 2), (1, 3))]


def test_a_tensor_cannot_be_had_without_a_copy():
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(tensors.from_array(ARRAY), copy=False)


def test_what_is_derived_reads_all_of_its_source():
    tensor, reads = counted(ARRAY)
    halves = tensors.derived(tensor, (2, 6), lambda array: array[::2])
    assert reads == []
    part = halves.read((slice(1, 2), slice(0, 3)))
    np.testing.assert_array_equal(part, ARRAY[2:3, :3])
    assert reads == [((0, 4), (0, 6))]


def test_to_host_casts_and_keeps():
    tree = {"a": tensors.from_array(ARRAY), "b": ARRAY.astype(np.float16)}
    host = tensors.to_host(tree)
    assert (host["a"].dtype, host["b"].dtype) == (np.float32, np.float16)
    assert tensors.to_host(tree, "float32")["b"].dtype == np.float32


def test_a_process_reads_once_what_its_devices_hold():
    mesh = partitioning.make_mesh(8, model_parallelism=2)
    tensor, reads = counted(ARRAY)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    array = tensors.to_devices({"a": tensor}, {"a": sharding}, "bfloat16")["a"]
    # Eight parts of one row and half of the columns.
    assert reads == [((0, 4), (0, 6))]
    assert array.dtype == "bfloat16"
    assert array.sharding == sharding
    np.testing.assert_array_equal(np.asarray(array, np.float32), ARRAY)


def test_a_process_reads_no_more_than_its_devices_hold():
    indices = [(slice(2, 3), slice(0, 4)), (slice(1, 2), slice(2, 6))]
    box = tensors._bounding_box(indices)
    assert box == (slice(1, 3), slice(0, 6))
    assert tensors._within(box, indices[0]) == (slice(1, 2), slice(0, 4))
    assert tensors._within(box, indices[1]) == (slice(0, 1), slice(2, 6))


def test_a_single_value_has_no_axes(mesh):
    tensor = tensors.from_array(np.int32(7))
    held = tensors.to_devices(tensor, partitioning.replicated(mesh))
    assert np.asarray(tensor).shape == held.shape == ()
    assert (int(np.asarray(tensor)), int(held)) == (7, 7)


def test_one_sharding_serves_a_whole_tree(mesh):
    tree = {"a": tensors.from_array(ARRAY).T, "b": {"c": ARRAY[0]}}
    held = tensors.to_devices(tree, partitioning.replicated(mesh))
    np.testing.assert_array_equal(held["a"], ARRAY.T)
    np.testing.assert_array_equal(held["b"]["c"], ARRAY[0])
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(held))


def test_parts_of_one_source_are_read_one_after_the_other():
    order = []

    def tensor(name, source=None):
        def read(index):
            order.append(name)
            return ARRAY[index]

        return tensors.FileTensor(ARRAY.shape, ARRAY.dtype, read, source)

    tree = {
        "a": {"x": tensor("ax", 1), "y": tensor("ay")},
        "b": {"x": tensor("bx", 1).T.T, "y": tensor("by", 2), "z": ARRAY},
        "c": {"x": tensor("cx", 1), "y": tensor("cy", 2)},
    }
    sharding = partitioning.replicated(partitioning.make_mesh(2))
    for call in (tensors.to_host, lambda tree: tensors.to_devices(tree, sharding)):
        order.clear()
        held = call(tree)
        assert order == ["ax", "bx", "cx", "ay", "by", "cy"]
        assert jax.tree.structure(held) == jax.tree.structure(tree)


def test_a_sharding_that_does_not_divide_is_an_error():
    mesh = partitioning.make_mesh(8)
    with pytest.raises(ValueError, match="evenly divide"):
        tensors.to_devices(ARRAY, NamedSharding(mesh, PartitionSpec("data")))
