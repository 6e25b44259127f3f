import numpy as np
import pytest

from art_jax.checkpoints import tensors
from art_jax.checkpoints.weights import Weight, to_params, to_tensors
from art_jax.errors import CorruptError

WEIGHTS = [
    Weight("dense/kernel", "layer.weight", transposed=True),
    Weight("dense/bias", "layer.bias"),
]
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.ones(2, np.float32)


def unreadable(shape):
    def read(index):
        raise AssertionError(f"{index} was read")

    return tensors.FileTensor(shape, np.dtype("float32"), read)


def test_tensors_go_to_their_paths_and_back():
    held = {"layer.weight": KERNEL, "layer.bias": BIAS, "head.weight": KERNEL}
    params = to_params(WEIGHTS, held, "a file")
    assert params.keys() == {"dense"}
    np.testing.assert_array_equal(params["dense"]["kernel"], KERNEL.T)
    np.testing.assert_array_equal(params["dense"]["bias"], BIAS)
    back = to_tensors(WEIGHTS, params)
    assert list(back) == ["layer.weight", "layer.bias"]
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, held[name])


def test_what_is_unread_stays_unread():
    held = {"layer.weight": unreadable((2, 3)), "layer.bias": unreadable((2,))}
    params = to_params(WEIGHTS, held, "a file")
    assert params["dense"]["kernel"].shape == (3, 2)
    assert to_tensors(WEIGHTS, params)["layer.weight"].shape == (2, 3)


def test_missing_tensors_are_counted_and_the_first_is_named():
    with pytest.raises(CorruptError, match=r"a file: 1 of 2 .*'layer.bias'"):
        to_params(WEIGHTS, {"layer.weight": KERNEL}, "a file")
    with pytest.raises(CorruptError, match=r"2 of 2 .*'layer.weight'"):
        to_params(WEIGHTS, {}, "a file")
