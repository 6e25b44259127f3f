import gzip
import pathlib
import shutil

import flax.serialization
import ml_dtypes
import numpy as np
import pytest

from art_jax.checkpoints import t5x, tensors
from art_jax.checkpoints.param_shapes import shapes_by_path
from art_jax.errors import ConfigError, CorruptError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5x"
NORM = "target.encoder.encoder_norm.scale"
KERNEL = "target.encoder.layers_0.mlp.wo.kernel"


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a golden checkpoint, to be damaged."""
    return shutil.copytree(GOLDEN / "v1_1_f32" / "checkpoint_1234", tmp_path / "c")


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
    folder = GOLDEN / version / "checkpoint_1234" / name
    chunk = next(path for path in folder.iterdir() if path.name != ".zarray")
    return np.frombuffer(gzip.decompress(chunk.read_bytes()), dtype)


def read(folder):
    return tensors.to_host(t5x.open_t5x(folder))


def test_a_checkpoint_holds_its_step_and_its_arrays():
    tree = read(GOLDEN / "v1_1_f32" / "checkpoint_1234")
    step = tree["state"]["step"]
    assert (step, step.dtype, step.shape) == (1234, np.int32, ())
    norm = tree["target"]["encoder"]["encoder_norm"]["scale"]
    np.testing.assert_array_equal(norm, raw(NORM, "<f4"))
    kernel = tree["target"]["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(kernel, raw(KERNEL, "<f4").reshape(32, 16))
    assert len(shapes_by_path(tree)) == 52 + 1


def test_bfloat16_arrays_stay_bfloat16():
    _, params = t5x.open_t5(GOLDEN / "v1_1_bf16" / "checkpoint_1234")
    norm = params["encoder"]["encoder_norm"]["scale"]
    assert norm.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(norm, raw(NORM, ml_dtypes.bfloat16, "v1_1_bf16"))


@pytest.mark.parametrize("version", ["v1_1", "v1_0"])
def test_the_config_follows_from_the_arrays(version):
    config, _ = t5x.open_t5(
        GOLDEN / f"{version}_f32" / "checkpoint_1234", dtype="float32"
    )
    first = version == "v1_0"
    assert (config.vocab_size, config.emb_dim, config.mlp_dim) == (272, 16, 32)
    assert (config.num_heads, config.head_dim) == (4, 8)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (2, 2)
    assert config.mlp_activations == (("relu",) if first else ("gelu", "linear"))
    assert config.logits_via_embedding == first
    assert config.dtype == "float32"


def spell_like_gfile(tree, key, spec):
    spec["kvstore"] = {"driver": "gfile", "path": spec["kvstore"]["path"].rstrip("/")}


def spell_like_gcs(tree, key, spec):
    spec["kvstore"] = {**spec["kvstore"], "driver": "gcs", "bucket": "t5x-dummy-bucket"}


def spell_path_beside(tree, key, spec):
    spec["path"] = spec["kvstore"].pop("path")
    del spec["dtype"]


def put_inline(tree, key, spec):
    name = spec["kvstore"]["path"].rstrip("/")
    tree[key] = raw(name, "<f4").reshape(spec["metadata"]["shape"]).copy()


@pytest.mark.parametrize(
    "spell", [spell_like_gfile, spell_like_gcs, spell_path_beside, put_inline]
)
def test_older_spellings_are_read(checkpoint, spell):
    def edit(index):
        index["version"] = 2
        for place in list(specs(index["optimizer"])):
            spell(*place)

    edit_index(checkpoint, edit)
    if spell is put_inline:
        for folder in checkpoint.glob("target.*"):
            shutil.rmtree(folder)
    _, params = t5x.open_t5(checkpoint)
    want = t5x.open_t5(GOLDEN / "v1_1_f32" / "checkpoint_1234")[1]
    got_leaves, want_leaves = (dict(arrays_by_path(tree)) for tree in (params, want))
    assert got_leaves.keys() == want_leaves.keys()
    for path, leaf in want_leaves.items():
        np.testing.assert_array_equal(got_leaves[path], leaf)


def arrays_by_path(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from arrays_by_path(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def chunk_of(checkpoint, name):
    paths = [path for path in (checkpoint / name).iterdir() if path.name[0] != "."]
    (path,) = paths
    return path


def test_a_missing_chunk_is_named_and_not_read_as_zeros(checkpoint):
    chunk_of(checkpoint, NORM).unlink()
    with pytest.raises(CorruptError, match=NORM):
        read(checkpoint)


def test_a_missing_array_is_named(checkpoint):
    shutil.rmtree(checkpoint / KERNEL)
    with pytest.raises(CorruptError, match=KERNEL):
        t5x.open_t5x(checkpoint)


def test_a_flipped_bit_is_found_and_its_array_named(checkpoint):
    chunk = chunk_of(checkpoint, KERNEL)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match=KERNEL):
        read(checkpoint)


def test_arrays_of_another_checkpoint_are_found(checkpoint):
    def edit(index):
        for _, _, spec in specs(index["optimizer"]):
            if spec["kvstore"]["path"].startswith(NORM):
                spec["metadata"]["shape"] = [17]

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match=r"encoder_norm.scale.*two checkpoints"):
        t5x.open_t5x(checkpoint)


@pytest.mark.parametrize("path", ["../secret/", "/etc/", "a/b/", "..", ".", ""])
def test_an_index_cannot_point_outside_its_folder(checkpoint, path):
    def edit(index):
        for _, _, spec in specs(index["optimizer"]):
            spec["kvstore"]["path"] = path

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match="points to"):
        t5x.open_t5x(checkpoint)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x81\xa1a\x01"])
def test_an_index_that_is_none_is_an_error(checkpoint, data):
    (checkpoint / "checkpoint").write_bytes(data)
    with pytest.raises(CorruptError, match="no index"):
        t5x.open_t5x(checkpoint)


def test_a_version_that_is_not_read_is_an_error(checkpoint):
    edit_index(checkpoint, lambda index: index.update(version=1))
    with pytest.raises(CorruptError, match="version 1"):
        t5x.open_t5x(checkpoint)


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_<step>"):
        t5x.open_t5x(tmp_path)


def test_a_layer_that_lacks_a_parameter_is_an_error_that_names_it(checkpoint):
    def edit(index):
        del index["optimizer"]["target"]["decoder"]["layers_1"]["mlp"]["wo"]

    edit_index(checkpoint, edit)
    with pytest.raises(CorruptError, match="decoder/layers_1/mlp/wo/kernel.*missing"):
        t5x.open_t5(checkpoint)
