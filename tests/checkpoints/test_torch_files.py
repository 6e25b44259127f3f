import contextlib
import pathlib
import pickle
import shutil
import struct
import warnings
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies
from hypothesis.extra import numpy as array_strategies

from art_jax.checkpoints import torch_files
from art_jax.checkpoints.pickles import Record
from art_jax.checkpoints.tensors import FileTensor
from art_jax.checkpoints.torch_files import named_tensors, open_torch
from art_jax.errors import ConfigError, CorruptError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
ARRAY = np.arange(1, 13, dtype=np.float32)
DTYPES = [
    *("float32", "float64", "float16", ml_dtypes.bfloat16),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
]


@pytest.fixture(params=["save_zip", "save_legacy"])
def save(request, torch_writer, tmp_path):
    """Writes a tree in each of the two forms."""

    def write(tree, name="model.pt", **changes):
        return getattr(torch_writer, request.param)(tmp_path / name, tree, **changes)

    return write


def test_what_torch_wrote_is_what_safetensors_wrote():
    got = open_torch(GOLDEN / "bert_pytorch_bin" / "pytorch_model.bin")
    want = safetensors.numpy.load_file(GOLDEN / "bert" / "model.safetensors")
    assert got.keys() == {
        "bert.embeddings.position_ids",
        *(f"bert.{name}" for name in want),
    }
    for name, array in want.items():
        assert got[f"bert.{name}"].dtype == array.dtype
        np.testing.assert_array_equal(got[f"bert.{name}"], array)
    np.testing.assert_array_equal(
        got["bert.embeddings.position_ids"], np.arange(64)[None]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_dtype_is_read(save, dtype):
    array = np.array([[0, 1, 2], [3, 100, 0]]).astype(dtype)
    got = open_torch(save({"a": array}))["a"]
    assert (got.shape, got.dtype) == ((2, 3), dtype)
    np.testing.assert_array_equal(np.asarray(got), array)


def test_a_tree_keeps_its_form(save):
    tree = {"a": [ARRAY, (1, 2.5, "x", None, True)], 3: {}, "b": np.array(7, np.int64)}
    got = open_torch(save(tree))
    assert list(got) == ["a", 3, "b"]
    assert got["a"][1] == (1, 2.5, "x", None, True)
    np.testing.assert_array_equal(got["a"][0], ARRAY)
    assert (got["b"].shape, int(np.asarray(got["b"]))) == ((), 7)


def test_a_state_dict_is_a_dict(save, torch_writer):
    got = open_torch(save(torch_writer.ordered({"weight": ARRAY})))
    assert list(got) == ["weight"]


@strategies.composite
def views(draw):
    """An array, a view of it that torch could save, and a part of that view."""
    dtype = np.dtype(draw(strategies.sampled_from(DTYPES)))
    shape = draw(array_strategies.array_shapes(min_dims=0, max_dims=4, max_side=5))
    count = int(np.prod(shape, dtype=int))
    whole = np.arange(count).reshape(shape)
    view = whole.transpose(draw(strategies.permutations(range(whole.ndim))))
    steps = [draw(_slice(size, max_step=3)) for size in view.shape]
    view = view[tuple(steps)]
    return (np.arange(count) % 2 + 7 * np.arange(count)).astype(dtype), view


@strategies.composite
def _slice(draw, size, max_step):
    start = draw(strategies.integers(0, size))
    stop = draw(strategies.integers(start, size))
    return slice(start, stop, draw(strategies.integers(1, max_step)))


@hypothesis.given(views(), strategies.data())
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_view_and_any_part_of_it_is_read(save, torch_writer, pair, data):
    storage, places = pair
    offset = int(places.min()) if places.size else 0
    strides = tuple(step // places.itemsize for step in places.strides)
    view = torch_writer.View(storage, offset, places.shape, strides)
    got = open_torch(save({"whole": storage, "view": view}))
    np.testing.assert_array_equal(np.asarray(got["whole"]), storage)
    np.testing.assert_array_equal(np.asarray(got["view"]), storage[places])
    index = tuple(data.draw(_slice(size, max_step=1)) for size in places.shape)
    np.testing.assert_array_equal(
        got["view"].read(index), storage[places][index], strict=True
    )


def test_only_the_bytes_of_a_part_are_read(save, monkeypatch):
    tensor = open_torch(save({"a": ARRAY.reshape(6, 2)}))["a"]
    counts = []
    read = torch_files._read_bytes

    def counted(path, start, count):
        counts.append(count)
        return read(path, start, count)

    monkeypatch.setattr(torch_files, "_read_bytes", counted)
    np.testing.assert_array_equal(
        tensor.read((slice(1, 3), slice(0, 2))), ARRAY[2:6].reshape(2, 2)
    )
    assert counts == [2 * 2 * 4]
    np.testing.assert_array_equal(
        tensor.T.read((slice(0, 2), slice(5, 6))), [[11], [12]]
    )
    assert counts == [16, 8]


def test_nothing_is_read_before_it_is_asked_for(save):
    path = save({"a": ARRAY[:1], "b": ARRAY})
    tree = open_torch(path)
    data = path.read_bytes().replace(ARRAY.tobytes(), ARRAY[::-1].tobytes())
    path.write_bytes(data)
    np.testing.assert_array_equal(tree["b"].read((slice(0, 2),)), [12, 11])
    path.write_bytes(data[:100])
    with pytest.raises(CorruptError, match="shorter"):
        np.asarray(tree["b"])


def test_a_parameter_is_its_tensor(save, torch_writer):
    make = torch_writer.Global("torch._utils", "_rebuild_parameter")
    hooks = torch_writer.Call(torch_writer.Global("collections", "OrderedDict"))
    parameter = torch_writer.Call(make, (ARRAY, True, hooks))
    np.testing.assert_array_equal(open_torch(save([parameter]))[0], ARRAY)
    with pytest.raises(CorruptError, match="holds no tensor"):
        open_torch(save([torch_writer.Call(make, ("x", True, hooks))]))


def test_settings_of_a_run_are_a_dict(save, torch_writer):
    half = torch_writer.Global("torch", "float16")
    size = torch_writer.Call(torch_writer.Global("torch", "Size"), ((2, 3),))
    args = torch_writer.namespace(num_layers=12, params_dtype=half, size=size)
    got = open_torch(save({"args": args}))["args"]
    assert got.name == "argparse.Namespace"
    assert got.state["num_layers"] == 12
    assert got.state["params_dtype"].name == "torch.float16"
    assert got.state["size"] == (2, 3)


@pytest.mark.parametrize(
    "name",
    [
        "megatron.model.enums.AttnMaskType",
        "megatron.fp16.loss_scaler.DynamicLossScaler",
        "omegaconf.dictconfig.DictConfig",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "torch.device",
    ],
)
def test_what_else_a_training_checkpoint_holds_is_written_down(
    save, torch_writer, name
):
    place = torch_writer.Global(*name.rsplit(".", 1))
    value = torch_writer.Call(place, ("x", 1), {"cur_scale": 2.0})
    got = open_torch(save({"a": value}))["a"]
    assert isinstance(got, Record)
    assert (got.name, got.arguments) == (name, ("x", 1))
    assert got.state == {"cur_scale": 2.0}


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "subprocess.Popen", "builtins.eval"),
        *("builtins.exec", "builtins.getattr", "__builtin__.eval", "functools.partial"),
        *("torch.load", "torch.hub.load", "torch.jit.load", "torch.nn.Linear"),
        *("numpy.load", "numpy.testing._private.utils.runstring", "importlib.reload"),
        *("megatronx.a", "argparse.ArgumentParser", "torch.Float16Storage"),
    ],
)
def test_any_other_name_is_refused_with_the_file(save, torch_writer, name):
    path = save({"a": ARRAY, "b": torch_writer.Global(*name.rsplit(".", 1))})
    with pytest.raises(CorruptError, match=rf"model\.pt: .*'{name}'.*It was not run"):
        open_torch(path)


def test_no_attack_runs_in_either_form(save, torch_writer, tmp_path):
    canary = tmp_path / "canary"
    for name, code in torch_writer.attacks(f"touch {canary}").items():
        path = save({"model": {"a": ARRAY, "b": torch_writer.Raw(code)}})
        with pytest.raises(CorruptError, match=r"model\.pt"):
            open_torch(path)
        assert not canary.exists(), name


# ARRAY has 12 values.
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (12, (1,), (1,)),
        (0, (3, 4), (5, 1)),
        (0, (7,), (2,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (11, (2,), (-1,)),
        (2**63, (1,), (1,)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (13,), (0,)),
        (0, (2**31, 0, 2**31), (2**63, 1, 1)),
        (0, (2, 6), (1,)),
        (0, (True,), (1,)),
        (True, (1,), (1,)),
        (0, [12], (1,)),
        (0, (12.0,), (1,)),
        (0, "1", "1"),
        (0, (1,) * 33, (1,) * 33),
    ],
    ids=str,
)
def test_a_view_that_reaches_outside_its_storage_is_an_error(
    save, torch_writer, offset, shape, strides
):
    path = save({"a": torch_writer.View(ARRAY, offset, shape, strides)})
    with pytest.raises(CorruptError, match=r"model\.pt: .*damaged"):
        open_torch(path)


def test_an_expanded_tensor_no_larger_than_its_storage_is_read(save, torch_writer):
    view = torch_writer.View(ARRAY, 3, (2, 6), (0, 1))
    got = np.asarray(open_torch(save({"a": view}))["a"])
    np.testing.assert_array_equal(got, [[4, 5, 6, 7, 8, 9]] * 2)


def test_a_tensor_without_values_is_read(save, torch_writer):
    # Strides as torch gives them, which lead outside.
    view = torch_writer.View(ARRAY[:0], 0, (3, 0), (1, 1))
    got = open_torch(save({"a": view}))["a"]
    assert np.asarray(got).shape == got.shape == (3, 0)


@pytest.mark.parametrize("size", [13, 2**40, 2**62, 2**63, 2**70, -1])
def test_a_storage_larger_than_the_file_is_an_error(save, torch_writer, size):
    view = torch_writer.View(ARRAY, 0, (1,), (1,), size=size)
    with pytest.raises(CorruptError, match=r"model\.pt"):
        open_torch(save({"a": view}))


def test_a_storage_of_two_sizes_is_an_error(save, torch_writer):
    views = [torch_writer.View(ARRAY, 0, (1,), (1,), size=n) for n in (12, 11)]
    with pytest.raises(CorruptError, match="'0' has two forms"):
        open_torch(save(views))


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"


@pytest.mark.parametrize(
    "code",
    [
        b"NQ",
        b"X\x01\x00\x00\x000Q",
        b")Q",
        STORAGE + b"tQ",
        STORAGE + b"K\x00X\x03\x00\x00\x00cpuK\x01tQ",
        STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuNtQ",
        STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01K\x01tQ",
        STORAGE.replace(b"Float", b"Complex") + b"tQ",
        STORAGE.replace(b"storage", b"storagf") + b"X\x01\x00\x00\x000NNtQ",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch\nSize\nX\x01\x00\x00\x00a\x85R",
        b"P0\n",
    ],
    ids=repr,
)
def test_a_tensor_of_an_unknown_form_is_an_error(save, torch_writer, code):
    with pytest.raises(CorruptError, match=r"model\.pt: the pickle in it"):
        open_torch(save({"a": torch_writer.Raw(code)}))


def test_a_file_cut_anywhere_is_an_error(save, tmp_path):
    data = save({"a": ARRAY, "b": ARRAY[::2].copy()}).read_bytes()
    cut = tmp_path / "cut.pt"
    for length in [*range(0, len(data), 7), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(CorruptError, match=r"cut\.pt"):
            open_torch(cut)


def test_a_flipped_bit_anywhere_is_caught_or_changes_nothing_but_values(save):
    path = save({"a": ARRAY})
    data = bytearray(path.read_bytes())
    for place in range(len(data)):
        data[place] ^= 0x10
        path.write_bytes(data)
        with contextlib.suppress(CorruptError, ConfigError):
            got = {key: np.asarray(value) for key, value in open_torch(path).items()}
            # A zip archive has checksums, the old form has none.
            if zipfile.is_zipfile(path):
                np.testing.assert_array_equal(got["a"], ARRAY)
        data[place] ^= 0x10


def test_a_flipped_bit_of_a_value_is_caught_in_a_zip(torch_writer, tmp_path):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    data = bytearray(path.read_bytes())
    data[data.index(ARRAY.tobytes()) + 20] ^= 1
    path.write_bytes(data)
    tensor = open_torch(path)["a"]
    with pytest.raises(CorruptError, match=r"model\.pt.*'0'.*CRC-32"):
        np.asarray(tensor)


def test_a_zip_without_checksums_is_read(torch_writer, tmp_path):
    # torch.serialization.set_crc32_options(False) leaves zeros.
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            data = data.replace(struct.pack("<I", member.CRC), bytes(4))
    path.write_bytes(data)
    np.testing.assert_array_equal(open_torch(path)["a"], ARRAY)


def test_a_compressed_member_is_refused_unread(torch_writer, tmp_path):
    zeros = np.zeros(10**6, np.float32)
    path = torch_writer.save_zip(
        tmp_path / "model.pt", {"a": zeros}, compression=zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < zeros.nbytes / 100
    with pytest.raises(CorruptError, match=r"model\.pt: '.*' is compressed"):
        open_torch(path)


@pytest.mark.parametrize(
    ("before_name", "lie"), [(4, b"\xff\xff"), (30, b"PK\x01\x02")]
)
def test_a_member_that_lies_about_its_place_is_refused(
    torch_writer, tmp_path, before_name, lie
):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    data = path.read_bytes()
    # The length of the name, or the mark, in the header before the member's bytes.
    place = data.index(b"archive/data/0") - before_name
    path.write_bytes(data[:place] + lie + data[place + len(lie) :])
    with pytest.raises(CorruptError, match="not where the archive says"):
        open_torch(path)


@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_a_missing_member_is_an_error(torch_writer, tmp_path, name):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY}, drop=[name])
    with pytest.raises(CorruptError, match=r"model\.pt"):
        open_torch(path)


# Places in an entry of the list of members: the version of zip that it needs (99), and
# its flags (a name in UTF-8) with a name that is not.
@pytest.mark.parametrize("lies", [{6: b"\x63"}, {9: b"\x08", 46: b"\xff"}], ids=str)
def test_a_damaged_list_of_members_is_an_error(torch_writer, tmp_path, lies):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    for place, value in lies.items():
        data[entry + place : entry + place + 1] = value
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"model\.pt starts as a zip archive"):
        open_torch(path)


@pytest.mark.parametrize("name", ["archive/data/0", "other/data.pkl"])
def test_two_members_for_one_are_an_error(torch_writer, tmp_path, name):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile says so too.
        archive.writestr(name, ARRAY[::-1].tobytes())
    with pytest.raises(CorruptError, match=r"model\.pt.*(one name|with 2 files)"):
        open_torch(path)


def test_a_zip_of_before_byte_orders_is_little_endian(torch_writer, tmp_path):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY}, order=None)
    np.testing.assert_array_equal(open_torch(path)["a"], ARRAY)


def test_a_big_endian_file_is_refused(torch_writer, tmp_path):
    path = torch_writer.save_zip(tmp_path / "a.pt", {"a": ARRAY}, order=b"big")
    old = torch_writer.save_legacy(tmp_path / "b.pt", {"a": ARRAY}, little_endian=False)
    for file in (path, old):
        with pytest.raises(ConfigError, match="big-endian machine"):
            open_torch(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": []},
        {"keys": ["0"]},
        {"keys": ["1", "0"]},
        {"keys": ["0", "0", "1"]},
        {"keys": ["0", ["1"]]},
        {"keys": "01"},
        {"counts": {"0": 11}},
        {"counts": {"1": -1}},
        {"counts": {"1": 2**62}},
    ],
    ids=str,
)
def test_storages_of_the_old_form_must_follow_each_other(
    torch_writer, tmp_path, changes
):
    tree = {"a": ARRAY, "b": ARRAY[:5].copy()}
    path = torch_writer.save_legacy(tmp_path / "model.pt", tree, **changes)
    with pytest.raises(CorruptError, match=r"model\.pt: the values of"):
        open_torch(path)


def test_another_protocol_is_refused(torch_writer, tmp_path):
    path = torch_writer.save_legacy(tmp_path / "model.pt", {"a": ARRAY})
    protocols = [pickle.dumps(number, 2) for number in (1001, 1002)]
    path.write_bytes(path.read_bytes().replace(*protocols, 1))
    with pytest.raises(CorruptError, match=r"model\.pt is of a protocol"):
        open_torch(path)


def test_what_torch_did_not_write_is_refused(tmp_path):
    shutil.copy(GOLDEN / "bert" / "model.safetensors", tmp_path / "safetensors")
    (tmp_path / "text").write_text("weights")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty").touch()
    np.savez(tmp_path / "archive.npz", a=ARRAY)
    for path in tmp_path.iterdir():
        with pytest.raises(CorruptError, match=rf"{path.name}.*something else"):
            open_torch(path)


def test_no_file_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(ConfigError, match="is no file"):
            open_torch(path)


def tensor(value=0.0):
    return FileTensor((), np.dtype("float32"), lambda index: np.float32(value))


def test_tensors_are_named_by_their_keys():
    one, two = tensor(1), tensor(2)
    tree = {"a": {"b.c": one, "d": "text"}, 0: {"x": two}, "list": [one]}
    assert named_tensors(tree, "model.pt") == {"a.b.c": one, "0.x": two}


def test_two_tensors_of_one_name_are_an_error():
    tree = {"a": {"b": tensor()}, "a.b": tensor()}
    with pytest.raises(CorruptError, match=r"model\.pt: two tensors are named 'a\.b'"):
        named_tensors(tree, "model.pt")


def test_dicts_without_end_are_an_error():
    itself = {}
    itself["a"] = itself
    # Twenty-five dicts, and 2**25 ways through them.
    doubled = {}
    for _ in range(25):
        doubled = {"a": doubled, "b": doubled}
    # One that would be copied before its depth is seen.
    wide = dict.fromkeys(range(10**5), {})
    wide[-1] = wide
    for tree in (itself, doubled, wide):
        with pytest.raises(CorruptError, match="without end"):
            named_tensors(tree, "model.pt")


def test_a_checkpoint_has_no_more_tensors_than_any_model_has():
    tree = dict.fromkeys(range(torch_files._MAX_TENSORS), None)
    assert named_tensors(tree, "model.pt") == {}
    with pytest.raises(CorruptError, match="more than 100000 tensors"):
        named_tensors({**tree, "a": None}, "model.pt")


def test_a_name_of_many_parts_is_read_up_to_the_deepest_allowed():
    tree = {"a": tensor()}
    for _ in range(torch_files._MAX_DEPTH):
        tree = {"a": tree}
    (name,) = named_tensors(tree, "model.pt")
    assert name == ".".join("a" * (torch_files._MAX_DEPTH + 1))
    with pytest.raises(CorruptError, match="without end"):
        named_tensors({"a": tree}, "model.pt")


@pytest.mark.parametrize("offset", [-1, 2**63, 2**64 - 1])
def test_an_impossible_place_of_a_member_is_an_error(torch_writer, tmp_path, offset):
    path = torch_writer.save_zip(tmp_path / "model.pt", {"a": ARRAY})
    member = torch_files._zip_members(path)["archive/data/0"]
    member.header_offset = offset
    with pytest.raises(CorruptError, match="not where the archive says"):
        torch_files._member_start(path, member)
