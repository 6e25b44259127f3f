import json
import os
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from art_jax.checkpoints import tensor_files, tensors
from art_jax.errors import ConfigError, CorruptError

VALUES = np.arange(24).reshape(4, 6)
DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
    *("uint8", "bool"),
]


def write_file(path, header, data=b"", header_bytes=None):
    """A safetensors file of any content, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if header_bytes is None else header_bytes
    path.write_bytes(struct.pack("<Q", size) + text + data)
    return path


def entry(start, stop, shape=None, dtype="F32"):
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_bit_for_bit(tmp_path, dtype):
    array = VALUES.astype(dtype)
    safetensors.numpy.save_file({"a": array}, tmp_path / "a.safetensors")
    tensor = tensor_files.open_safetensors(tmp_path / "a.safetensors")["a"]
    assert (tensor.shape, tensor.dtype) == ((4, 6), np.dtype(dtype))
    got = np.asarray(tensor)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_written_as_the_library_reads_it(tmp_path, dtype):
    array = VALUES.astype(dtype)
    tensor_files.write_safetensors(tmp_path, {"a": array.T, "b": array[0, 0]})
    got = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert got["a"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got["a"], array.T)
    np.testing.assert_array_equal(got["b"], array[0, 0])
    assert got["b"].shape == ()


@pytest.mark.parametrize(
    "part",
    [
        (slice(0, 4), slice(0, 6)),
        (slice(1, 3), slice(2, 5)),
        (slice(3, 4), slice(0, 6)),
        (slice(2, 2), slice(0, 6)),
        (slice(0, 4), slice(6, 6)),
    ],
)
def test_a_part_is_read_alone(tmp_path, part):
    array = VALUES.astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"a": array}, tmp_path / "a.safetensors")
    tensor = tensor_files.open_safetensors(tmp_path / "a.safetensors")["a"]
    np.testing.assert_array_equal(tensor.read(part), array[part])
    np.testing.assert_array_equal(tensor.T.read(part[::-1]), array[part].T)


def test_a_single_value_and_an_empty_tensor_are_read(tmp_path):
    held = {"one": np.array(3.0, np.float32), "none": np.zeros((0, 4), np.float32)}
    safetensors.numpy.save_file(held, tmp_path / "a.safetensors")
    got = tensors.to_host(tensor_files.open_safetensors(tmp_path / "a.safetensors"))
    np.testing.assert_array_equal(got["one"], 3.0)
    assert (got["one"].shape, got["none"].shape) == ((), (0, 4))


def test_values_are_aligned_and_the_file_is_readable_by_all(tmp_path):
    held = {"a": np.ones(3, np.int8), "b": np.ones(2, np.float64)}
    tensor_files.write_safetensors(tmp_path, held)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    assert header["__metadata__"] == {"format": "pt"}  # transformers 4 demands it
    assert size % 8 == 0
    assert header["b"]["data_offsets"] == [0, 16]
    assert header["a"]["data_offsets"] == [16, 19]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_shards_hold_no_more_than_they_may(tmp_path):
    held = {"large": np.zeros(100, np.float16)}
    held |= {name: np.full(4, i, np.float32) for i, name in enumerate("dcabe")}
    tensor_files.write_safetensors(tmp_path, held, max_shard_bytes=32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 120, "total_size": 5 * 16 + 200}
    shard = "model-{}-of-00004.safetensors".format
    assert index["weight_map"] == {
        "large": shard("00001"),
        **dict.fromkeys("dc", shard("00002")),
        **dict.fromkeys("ab", shard("00003")),
        "e": shard("00004"),
    }
    for file in set(index["weight_map"].values()):
        for name, tensor in safetensors.numpy.load_file(tmp_path / file).items():
            assert index["weight_map"][name] == file
            np.testing.assert_array_equal(tensor, held.pop(name))
    assert not held
    assert not (tmp_path / "model.safetensors").exists()


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    size = 2**18

    def read(index):
        return np.zeros(size, np.float32)[index]

    held = {
        name: tensors.FileTensor((size,), np.dtype("float32"), read) for name in "abcd"
    }
    tracemalloc.start()
    tensor_files.write_safetensors(tmp_path, held)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1.5 * size * 4
    assert len(safetensors.numpy.load_file(tmp_path / "model.safetensors")) == 4


def test_a_dtype_that_no_reader_has_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'a' is of dtype complex64"):
        tensor_files.write_safetensors(tmp_path, {"a": np.zeros(2, np.complex64)})
    path = write_file(tmp_path / "a.safetensors", {"a": entry(0, 2, [2], "F8_E5M2")})
    path.write_bytes(path.read_bytes() + bytes(2))
    with pytest.raises(ConfigError, match=r"a\.safetensors: tensor 'a' .* F8_E5M2"):
        tensor_files.open_safetensors(path)


GOOD = {"a": entry(0, 8), "b": entry(8, 16)}
HOSTILE = {
    "empty": (b"", b"", None),
    "200 MB header": (b"{}", b"", 200_000_000),
    "header past the end": (b"{}", b"", 1000),
    "header of 2**64": (b"{}", b"", 2**64 - 1),
    "no JSON": (b"{'a': 1}", b"", None),
    "no UTF-8": (b'{"\xff": 1}', b"", None),
    "an array": (b"[]", b"", None),
    "nested": (b'{"a":' * 10_000, b"", None),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), None),
    "same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8), None),
    "one name twice": (
        json.dumps({"a": entry(0, 8), "A": entry(8, 16)}).replace("A", "a").encode(),
        bytes(16),
        None,
    ),
    "gap": ({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20), None),
    "backwards": ({"a": entry(8, 0, [2])}, bytes(8), None),
    "cut short": (GOOD, bytes(15), None),
    "too long": (GOOD, bytes(17), None),
    "shape": ({"a": entry(0, 8, [3])}, bytes(8), None),
    "negative shape": ({"a": entry(0, 8, [-2])}, bytes(8), None),
    "fractional shape": ({"a": entry(0, 8, [2.0])}, bytes(8), None),
    "absurd shape": ({"a": entry(0, 8, [2**62, 2**62])}, bytes(8), None),
    "offset past 2**64": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]}}',
        bytes(8),
        None,
    ),
    "unknown dtype": ({"a": entry(0, 8, [2], "X32")}, bytes(8), None),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), None),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tmp_path, kind):
    header, data, header_bytes = HOSTILE[kind]
    path = write_file(tmp_path / "bad.safetensors", header, data, header_bytes)
    with pytest.raises(CorruptError, match=r"bad\.safetensors cannot be read \("):
        tensor_files.open_safetensors(path)


def test_a_header_of_200_mb_is_not_read_whole(tmp_path):
    path = write_file(tmp_path / "bad.safetensors", b"{}", b"", 200_000_000)
    os.truncate(path, 300_000_000)  # a hole: no byte of it lies on disk
    with pytest.raises(CorruptError, match=r"bad\.safetensors.*too large"):
        tensor_files.open_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptError, match=r"gone\.safetensors cannot be read"):
        tensor_files.open_safetensors(tmp_path / "gone.safetensors")
