import functools
import gzip
import json
import os
import pathlib
import shutil

import flax.serialization
import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import t5x, t5x_scan, tensors
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import layers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5x"
OF_2022 = GOLDEN.parent / "t5x_2022"
NORM = "target.encoder.encoder_norm.scale"
KERNEL = "target.encoder.layers_0.mlp.wo.kernel"


def step_folder(name):
    return t5x.find_step(GOLDEN / name)


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a golden checkpoint, to be damaged."""
    return shutil.copytree(step_folder("v1_1_f32"), tmp_path / "c")


def edit_index(checkpoint, edit):
    """Passes the index through `edit`, which may change it in place."""
    path = checkpoint / "checkpoint"
    index = flax.serialization.msgpack_restore(path.read_bytes())
    edit(index)
    path.write_bytes(flax.serialization.msgpack_serialize(index))


def specs(tree):
    """All zarr specs of an index, with the dict and key that hold each."""
    for key, value in tree.items():
        if isinstance(value, dict) and value.get("driver") == "zarr":
            yield tree, key, value
        elif isinstance(value, dict):
            yield from specs(value)


def raw(name, dtype, version="v1_1_f32"):
    """An array of one chunk, read without any zarr library."""
    folder = step_folder(version) / name
    chunk = next(path for path in folder.iterdir() if path.name != ".zarray")
    return np.frombuffer(gzip.decompress(chunk.read_bytes()), dtype)


def read(folder):
    return tensors.to_host(t5x.open_t5x(folder))


@functools.cache
def read_t5(name):
    return tensors.to_host(t5x.open_t5(step_folder(name))[1])


def assert_equal_trees(got, want):
    """Equal names, dtypes and bits."""
    assert shapes_by_path(got) == shapes_by_path(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def test_a_checkpoint_holds_its_step_and_its_arrays():
    tree = read(step_folder("v1_1_f32"))
    step = tree["state"]["step"]
    assert (step, step.dtype, step.shape) == (1234, np.int32, ())
    norm = tree["target"]["encoder"]["encoder_norm"]["scale"]
    np.testing.assert_array_equal(norm, raw(NORM, "<f4"))
    kernel = tree["target"]["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(kernel, raw(KERNEL, "<f4").reshape(32, 16))
    assert len(shapes_by_path(tree)) == 52 + 1


def test_bfloat16_arrays_stay_bfloat16():
    norm = read_t5("v1_1_bf16")["encoder"]["encoder_norm"]["scale"]
    assert norm.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(norm, raw(NORM, ml_dtypes.bfloat16, "v1_1_bf16"))


@pytest.mark.parametrize("version", ["v1_1", "v1_0", "v1_1_scan"])
def test_bfloat16_arrays_are_the_float32_ones_rounded(version):
    rounded = tensors.to_host(read_t5(f"{version}_f32"), "bfloat16")
    assert_equal_trees(read_t5(f"{version}_bf16"), rounded)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("v1_1_sharded4_f32", "v1_1_f32"),
        ("v1_1_orbax_f32", "v1_1_f32"),
        ("v1_0_orbax_f32", "v1_0_f32"),
    ],
)
def test_every_way_of_saving_holds_the_same_bits(name, twin):
    got, want = t5x.open_t5(step_folder(name)), t5x.open_t5(step_folder(twin))
    assert got[0] == want[0]
    assert_equal_trees(tensors.to_host(got[1]), read_t5(twin))
    assert set(t5x.open_t5x(step_folder(name), ["target"])) == {"target"}
    step = t5x.open_t5x(step_folder(name))["state"]["step"]
    assert (step.shape, int(np.asarray(step))) == ((), 1234)


@pytest.mark.parametrize("spelling", ["gfile", "gcs", "old_path", "inline"])
def test_older_spellings_are_read(checkpoint, spelling):
    index = GOLDEN / "v1_1_alt_msgpack" / f"checkpoint.{spelling}"
    shutil.copyfile(index, checkpoint / "checkpoint")
    if spelling == "inline":
        for folder in checkpoint.glob("target.*"):
            shutil.rmtree(folder)
    assert_equal_trees(tensors.to_host(t5x.open_t5(checkpoint)[1]), read_t5("v1_1_f32"))


def test_a_spec_may_say_its_dtype_in_its_metadata_alone(checkpoint):
    def edit(index):
        index["version"] = 2
        for _, _, spec in specs(index["optimizer"]):
            spec["metadata"]["dtype"] = {"float32": "<f4"}[spec.pop("dtype")]

    edit_index(checkpoint, edit)
    assert_equal_trees(tensors.to_host(t5x.open_t5(checkpoint)[1]), read_t5("v1_1_f32"))


def test_a_checkpoint_of_2022_is_read_as_t5x_reads_it():
    tree = read(OF_2022 / "checkpoint_1000")
    want = dict(np.load(OF_2022 / "expected.npz"))
    assert tree["state"]["step"] == want.pop("step")
    embedding = tree["target"].pop("token_embedder")["embedding"]
    np.testing.assert_array_equal(
        embedding[[0, 4096, 32127]],
        want.pop("token_embedder/embedding#rows0_4096_32127"),
    )
    assert embedding.sum(dtype=np.float64) == want.pop(
        "token_embedder/embedding#sum_f64"
    )
    target = {
        "/".join(entry.key for entry in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree["target"])
    }
    assert target.keys() == want.keys()
    for path, leaf in want.items():
        np.testing.assert_array_equal(target[path], leaf)


def test_inline_arrays_that_flax_stored_in_pieces_are_joined(checkpoint, monkeypatch):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 8)

    def edit(index):
        index["optimizer"]["state"]["values"] = values

    edit_index(checkpoint, edit)
    got = t5x.open_t5x(checkpoint)["state"]["values"]
    np.testing.assert_array_equal(np.asarray(got), values)


@pytest.mark.parametrize("version", ["v1_1", "v1_0", "v1_1_scan"])
def test_the_config_follows_from_the_arrays(version):
    config, _ = t5x.open_t5(step_folder(f"{version}_f32"), dtype="float32")
    first = version == "v1_0"
    assert (config.vocab_size, config.emb_dim, config.mlp_dim) == (272, 16, 32)
    assert (config.num_heads, config.head_dim) == (4, 8)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (2, 2)
    assert config.mlp_activations == (("relu",) if first else ("gelu", "linear"))
    assert config.logits_via_embedding == first
    assert config.relpos_bias_per_layer == (version == "v1_1_scan")
    assert config.dtype == "float32"


# What is read, and when.


def chunks_of(checkpoint, name):
    return [path for path in (checkpoint / name).iterdir() if path.name[0] != "."]


def test_opening_reads_no_values(checkpoint):
    for folder in checkpoint.glob("target.*"):
        for chunk in chunks_of(checkpoint, folder.name):
            chunk.write_bytes(b"no gzip")
    config, params = t5x.open_t5(checkpoint)
    assert params["token_embedder"]["embedding"].shape == (config.vocab_size, 16)


def test_a_part_reads_no_chunk_of_another(tmp_path):
    copy = shutil.copytree(step_folder("v1_1_sharded4_f32"), tmp_path / "c")
    (copy / "target.decoder.logits_dense.kernel" / "0.3").unlink()
    kernel = t5x.open_t5(copy)[1]["decoder"]["logits_dense"]["kernel"]
    assert kernel.shape == (16, 4 * 68)
    part = kernel.read((slice(2, 5), slice(60, 3 * 68)))
    want = read_t5("v1_1_f32")["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(part, want[2:5, 60 : 3 * 68])
    with pytest.raises(CorruptError, match="logits_dense.kernel"):
        kernel.read((slice(2, 5), slice(60, 3 * 68 + 1)))


def test_the_state_of_an_optimiser_is_left_alone(tmp_path):
    copy = shutil.copytree(step_folder("train_adafactor_f32"), tmp_path / "c")
    state = t5x.open_t5x(copy)["state"]["param_states"]
    assert np.asarray(state["decoder"]["decoder_norm"]["scale"]["v"]).shape == (16,)
    for folder in copy.glob("state.*"):
        shutil.rmtree(folder)
    config, params = t5x.open_t5(copy)
    assert config.num_encoder_layers == 1
    assert_equal_trees(tensors.to_host(params), read_t5("train_adafactor_f32"))
    with pytest.raises(CorruptError, match="state.param_states"):
        t5x.open_t5x(copy)


def counted(reads):
    """Wraps a tensor so that the sizes of what is read of it are added to `reads`."""

    def wrap(path, tensor):
        def read(index):
            part = tensor.read(index)
            reads.setdefault(path, []).append(part.size)
            return part

        return tensors.FileTensor(tensor.shape, tensor.dtype, read)

    return wrap


@pytest.mark.parametrize("model_parallelism", [1, 2, 4])
@pytest.mark.parametrize("name", ["v1_1_f32", "v1_1_orbax_f32", "v1_1_scan_f32"])
def test_each_part_of_a_sharded_model_is_read_once(name, model_parallelism):
    target = t5x.open_t5x(step_folder(name), ["target"])["target"]
    reads = {}
    target = jax.tree_util.tree_map_with_path(counted(reads), target)
    params = t5x_scan.split_layers(target, name)
    mesh = partitioning.make_mesh(8, model_parallelism=model_parallelism)
    shardings = jax.tree.map(
        lambda _, axes: partitioning.logical_sharding(axes, mesh),
        params,
        layers.param_axes(params),
    )
    held = tensors.to_devices(params, shardings)
    for path, tensor in jax.tree_util.tree_leaves_with_path(target):
        assert sum(reads[path]) == tensor.size
    kernel = held["encoder"]["layers_1"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (16, 32 // model_parallelism)
    assert_equal_trees(jax.tree.map(np.asarray, held), read_t5(name))


# Which folder is meant.


def test_a_path_may_lead_up_and_back():
    name = step_folder("v1_1_f32")
    config, _ = t5x.open_t5(name / ".." / name.name)
    assert config.emb_dim == 16


def test_the_newest_finished_step_is_found(tmp_path):
    for step in (9, 10, 200):
        shutil.copytree(step_folder("v1_1_f32"), tmp_path / f"checkpoint_{step}")
    (tmp_path / "checkpoint_200" / "checkpoint").unlink()
    (tmp_path / "checkpoint_200").rename(tmp_path / "checkpoint_300.tmp-1")
    (tmp_path / "checkpoint_400").mkdir()
    assert t5x.find_step(tmp_path) == tmp_path / "checkpoint_10"
    assert t5x.find_step(tmp_path / "checkpoint_9") == tmp_path / "checkpoint_9"
    with pytest.raises(ConfigError, match="one of: checkpoint_9, checkpoint_10"):
        t5x.open_t5x(tmp_path)


def test_checkpoints_of_both_formats_are_recognised(tmp_path):
    for name in ("v1_1_f32", "v1_1_orbax_f32"):
        assert t5x.is_t5x(step_folder(name))
        assert t5x.is_t5x(GOLDEN / name)
    assert not t5x.is_t5x(GOLDEN)
    assert not t5x.is_t5x(tmp_path / "nowhere")


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path):
    for call in (t5x.open_t5x, t5x.open_t5, t5x.find_step):
        with pytest.raises(ConfigError, match="checkpoint_<step>"):
            call(tmp_path)


def test_a_model_without_decoder_is_an_error():
    with pytest.raises(ConfigError, match="has no decoder"):
        t5x.open_t5(OF_2022 / "checkpoint_1000")


# Damaged and hostile files.


def test_a_missing_chunk_is_named_and_not_read_as_zeros(checkpoint):
    for chunk in chunks_of(checkpoint, NORM):
        chunk.unlink()
    with pytest.raises(CorruptError, match=NORM):
        read(checkpoint)


def test_a_missing_array_is_named(checkpoint):
    shutil.rmtree(checkpoint / KERNEL)
    with pytest.raises(CorruptError, match=KERNEL):
        t5x.open_t5x(checkpoint)


def test_a_missing_file_of_an_orbax_checkpoint_is_an_error(tmp_path):
    copy = shutil.copytree(step_folder("v1_1_orbax_f32"), tmp_path / "c")
    shutil.rmtree(copy / "state" / "ocdbt.process_0")
    with pytest.raises(CorruptError, match="cannot be read"):
        read(copy)


def test_a_flipped_bit_never_changes_a_value(checkpoint):
    (chunk,) = chunks_of(checkpoint, NORM)
    data, want = chunk.read_bytes(), raw(NORM, "<f4")
    messages = []
    for place in range(len(data)):
        flipped = bytes([data[place] ^ 1])
        chunk.write_bytes(data[:place] + flipped + data[place + 1 :])
        norm = t5x.open_t5x(checkpoint)["target"]["encoder"]["encoder_norm"]["scale"]
        try:
            np.testing.assert_array_equal(np.asarray(norm), want)
        except CorruptError as error:
            messages.append(str(error))
    assert all(NORM in message for message in messages)
    # The others are of gzip's header: the time, the operating system.
    assert len(messages) >= len(data) - 10


def test_arrays_of_another_checkpoint_are_found(checkpoint):
    def edit(index):
        for _, _, spec in specs(index["optimizer"]):
            if spec["kvstore"]["path"].startswith(NORM):
                spec["metadata"]["shape"] = [17]

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match=r"encoder_norm.scale.*two checkpoints"):
        t5x.open_t5x(checkpoint)


@pytest.mark.parametrize("path", ["../secret/", "/etc/", "a/b/", "..", ".", "", 7])
def test_an_index_cannot_point_outside_its_folder(checkpoint, path):
    def edit(index):
        for _, _, spec in specs(index["optimizer"]):
            spec["kvstore"]["path"] = path

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match=r"points to|a spec that is none"):
        t5x.open_t5x(checkpoint)


def packed_index(target):
    return msgpack.packb({"version": 3, "optimizer": {"target": target, "state": {}}})


def inline(shape, dtype, data, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def nested(depth):
    return functools.reduce(lambda inner, _: {"a": inner}, range(depth), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x81\xa1a\x01",
        b"\xdd\x00\x00\xff\xff" * 4000,  # lists in lists, 65535 items each
        packed_index({"a": [1] * 100}),
        packed_index({1: 2}),
        b"\x81\xa9optimizer" * 2000,
        packed_index({"a": inline([2**40], "float32", b"1234")}),
        packed_index({"a": inline([-1], "float32", b"1234")}),
        packed_index({"a": inline([1], "object", b"12345678")}),
        packed_index({"a": inline([1], "O", b"12345678")}),
        packed_index({"a": inline([1], "complex64", b"12345678")}),
        packed_index({"a": inline([1], "float32", b"1234", code=2)}),
        packed_index({"a": msgpack.ExtType(1, b"\x93")}),
        msgpack.packb({"version": 3, "optimizer": [1]}),
    ],
)
def test_an_index_that_is_none_is_an_error(checkpoint, data):
    (checkpoint / "checkpoint").write_bytes(data)
    with pytest.raises(CorruptError, match="no index"):
        t5x.open_t5x(checkpoint)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (nested(200), "nested deeper than 64"),
        ({"a": "text"}, "'target/a' of its index is no array"),
        ({"a": {"driver": "json"}}, "'target/a/driver' of its index is no array"),
        ({"a": {"driver": "zarr", "kvstore": 1}}, "a spec that is none"),
        ({"a": {"__msgpack_chunked_array__": True, "shape": {}}}, "in pieces"),
        (7, "has no 'target'"),
    ],
)
def test_an_index_of_something_else_is_an_error(checkpoint, target, message):
    (checkpoint / "checkpoint").write_bytes(packed_index(target))
    with pytest.raises(CorruptError, match=message):
        t5x.open_t5x(checkpoint)


@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_an_array_larger_than_its_files_can_hold_is_not_read(checkpoint, field):
    path = checkpoint / KERNEL / ".zarray"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, field: [2**30, 16]}))
    with pytest.raises(CorruptError, match=f"{KERNEL}.*takes {2**36} bytes"):
        t5x.open_t5x(checkpoint)


def test_a_pipe_among_the_chunks_is_not_waited_for(checkpoint):
    (chunk,) = chunks_of(checkpoint, NORM)
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(CorruptError, match="is no file"):
        t5x.open_t5x(checkpoint)


def test_names_within_an_array_are_an_error():
    tree = {}
    tensor = tensors.from_array(np.zeros(2))
    t5x._put(tree, ["target", "a"], tensor, "here")
    for name in ("target.a", "target.a.b", "target", ".".join("a" * 65)):
        with pytest.raises(CorruptError, match="within another array, or deeper"):
            t5x._put(tree, name.split("."), tensor, "here")


def test_an_orbax_database_that_is_none_is_an_error(tmp_path):
    copy = shutil.copytree(step_folder("v1_1_orbax_f32"), tmp_path / "c")
    (copy / "state" / "manifest.ocdbt").write_bytes(b"no manifest")
    with pytest.raises(CorruptError, match="no OCDBT database"):
        t5x.open_t5x(copy)


def test_weights_that_are_no_floats_are_an_error(checkpoint):
    def edit(index):
        target = index["optimizer"]["target"]
        target["encoder"]["encoder_norm"]["scale"] = np.zeros(16, np.uint16)

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match="parameters of uint16"):
        t5x.open_t5(checkpoint)


@pytest.mark.parametrize("shape", [(0, 32), (4, 32, 1), (32,)])
def test_sizes_of_no_t5_are_an_error(checkpoint, shape):
    def edit(index):
        encoder = index["optimizer"]["target"]["encoder"]
        encoder["relpos_bias"]["rel_embedding"] = np.zeros(shape, np.float32)

    edit_index(checkpoint, edit)
    with pytest.raises(ConfigError, match="rel_embedding' is of shape .* a matrix"):
        t5x.open_t5(checkpoint)


def test_a_version_that_is_not_read_is_an_error(checkpoint):
    edit_index(checkpoint, lambda index: index.update(version=1))
    with pytest.raises(CorruptError, match="version 1"):
        t5x.open_t5x(checkpoint)


def test_a_layer_that_lacks_a_parameter_is_an_error_that_names_it(checkpoint):
    def edit(index):
        del index["optimizer"]["target"]["decoder"]["layers_1"]["mlp"]["wo"]

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match="decoder/layers_1/mlp/wo/kernel.*missing"):
        t5x.open_t5(checkpoint)
