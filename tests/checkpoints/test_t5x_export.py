import dataclasses
import functools
import gzip
import json
import pathlib
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax import manifest
from art_jax.checkpoints import t5x, t5x_export, tensors
from art_jax.checkpoints.t5x_export import choose_chunks, save_t5
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5
from art_jax.models.t5 import T5Config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5x"
GZIP = b"\x1f\x8b"
TINY = T5Config(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=3,
    mlp_dim=5,
    num_encoder_layers=2,
    num_decoder_layers=1,
)


def step_folder(name):
    return t5x.find_step(GOLDEN / name)


def files_of(folder):
    """All files by their names; of chunks, what gzip holds, which zlibs differ in."""
    files = {path.relative_to(folder): path for path in folder.rglob("*")}
    contents = {
        name.as_posix(): path.read_bytes()
        for name, path in files.items()
        if path.is_file()
    }
    return {
        name: gzip.decompress(data) if data.startswith(GZIP) else data
        for name, data in contents.items()
    }


@functools.cache
def params_of(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
        t5.param_shapes(config),
    )


def assert_equal_trees(got, want):
    """Equal names, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "v1_1_f32",
        "v1_0_f32",
        "v1_1_bf16",
        "v1_0_bf16",
        "v1_1_scan_f32",
        "v1_1_scan_bf16",
    ],
)
def test_what_t5x_wrote_is_written_again_byte_for_byte(name, tmp_path):
    config, params = t5x.open_t5(step_folder(name))
    dtype = "bfloat16" if name.endswith("bf16") else "float32"
    save_t5(tmp_path / "c", config, params, step=1234, dtype=dtype)
    got, want = files_of(tmp_path / "c"), files_of(step_folder(name))
    assert got == want


def test_a_checkpoint_in_any_form_is_written_as_the_native_one(tmp_path):
    config, params = t5x.open_t5(step_folder("v1_1_orbax_f32"))
    save_t5(tmp_path / "c", config, params, step=1234)
    assert files_of(tmp_path / "c") == files_of(step_folder("v1_1_f32"))


sizes = st.integers(1, 3)
configs = st.builds(
    T5Config,
    vocab_size=st.integers(1, 9),
    emb_dim=st.integers(1, 5),
    num_heads=sizes,
    head_dim=sizes,
    mlp_dim=sizes,
    num_encoder_layers=st.integers(1, 2),
    num_decoder_layers=st.integers(1, 2),
    mlp_activations=st.sampled_from([("relu",), ("gelu", "linear")]),
    logits_via_embedding=st.booleans(),
    relpos_bias_per_layer=st.booleans(),
    param_dtype=st.sampled_from(["float32", "bfloat16"]),
)


@settings(max_examples=15, deadline=None)
@given(config=configs, chunk_bytes=st.sampled_from([32, 2**20]))
def test_what_is_saved_is_opened_bit_for_bit(config, chunk_bytes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "checkpoint_7"
    params = params_of(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5x_export, "CHUNK_BYTES", chunk_bytes)
        save_t5(folder, config, params, step=7, dtype=config.param_dtype)
    # What its arrays do not say.
    found, opened = t5x.open_t5(folder, param_dtype=config.param_dtype)
    assert found == config
    assert_equal_trees(tensors.to_host(opened), params)
    assert int(np.asarray(t5x.open_t5x(folder)["state"]["step"])) == 7


def test_arrays_on_devices_are_cast_to_what_is_asked_for(tmp_path):
    params = jax.tree.map(jnp.asarray, params_of(TINY))
    save_t5(tmp_path / "c", TINY, params, step=0, dtype="bfloat16")
    _, opened = t5x.open_t5(tmp_path / "c")
    assert_equal_trees(tensors.to_host(opened), tensors.to_host(params, "bfloat16"))


def test_zeros_are_written_too(tmp_path):
    params = jax.tree.map(np.zeros_like, params_of(TINY))
    save_t5(tmp_path / "c", TINY, params, step=0)
    assert_equal_trees(tensors.to_host(t5x.open_t5(tmp_path / "c")[1]), params)


def test_shared_biases_can_be_written_with_scanned_layers(tmp_path):
    params = params_of(TINY)
    save_t5(tmp_path / "c", TINY, params, step=0, scanned=True)
    config, opened = t5x.open_t5(tmp_path / "c")
    assert config == dataclasses.replace(TINY, relpos_bias_per_layer=True)
    opened, want = tensors.to_host(opened), dict(params)
    for name in ("encoder", "decoder"):
        stack = dict(params[name])
        shared = stack.pop("relpos_bias")
        want[name] = {
            key: {**value, "relpos_bias": shared} if "layers" in key else value
            for key, value in stack.items()
        }
    assert_equal_trees(opened, want)


def test_a_manifest_beside_the_arrays_disturbs_nobody(tmp_path):
    save_t5(tmp_path, TINY, params_of(TINY), step=0)
    manifest.write_manifest(tmp_path, {"kind": "t5x"})
    assert_equal_trees(tensors.to_host(t5x.open_t5(tmp_path)[1]), params_of(TINY))
    manifest.verify_manifest(tmp_path)


def test_arrays_are_read_one_after_the_other(tmp_path):
    alive, most = set(), 0

    def watched(leaf):
        def read(index):
            nonlocal most
            array = leaf[index].copy()
            token = id(array)
            alive.add(token)
            weakref.finalize(array, alive.discard, token)
            most = max(most, len(alive))
            return array

        return tensors.FileTensor(leaf.shape, leaf.dtype, read)

    save_t5(tmp_path / "c", TINY, jax.tree.map(watched, params_of(TINY)), step=0)
    # The last one may still be on its way out of tensorstore.
    assert 1 <= most <= 2


@pytest.mark.parametrize(
    ("shape", "itemsize", "want"),
    [
        ((), 4, ()),
        ((512,), 4, (512,)),
        ((4096, 4096), 4, (4096, 4096)),  # 64 MiB, just
        ((8192, 8192), 4, (4096, 4096)),  # the first of equal sides, then the other
        ((32128, 4096), 4, (4016, 4096)),
        ((4096, 10240), 4, (4096, 2560)),
        ((4096, 10240), 2, (4096, 5120)),
        ((3, 2**23), 4, (3, 2**22)),
        ((8, 2097169), 4, (8, 1)),  # a prime
    ],
)
def test_chunks_are_those_of_t5x(shape, itemsize, want):
    assert choose_chunks(shape, itemsize) == want


def test_a_large_array_is_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_export, "CHUNK_BYTES", 4 * 6 * 3)
    save_t5(tmp_path / "c", TINY, params_of(TINY), step=0)
    folder = tmp_path / "c" / "target.decoder.layers_0.self_attention.query.kernel"
    assert json.loads((folder / ".zarray").read_text())["chunks"] == [3, 6]
    assert {path.name for path in folder.iterdir()} == {".zarray", "0.0", "1.0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"step": -1}, "step is -1"),
        ({"step": 2**31}, "step is 2147483648"),
    ],
)
def test_arguments_that_t5x_could_not_read_are_an_error(changes, message, tmp_path):
    arguments = {"step": 0, **changes}
    with pytest.raises(ConfigError, match=message):
        save_t5(tmp_path / "c", TINY, params_of(TINY), **arguments)
    assert not (tmp_path / "c").exists()


def test_biases_of_each_layer_need_scanned_layers(tmp_path):
    config = dataclasses.replace(TINY, relpos_bias_per_layer=True)
    with pytest.raises(ConfigError, match="with scanned layers only"):
        save_t5(tmp_path / "c", config, params_of(config), step=0, scanned=False)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        save_t5(tmp_path, TINY, params_of(TINY), step=0)
    assert files_of(tmp_path) == {"a": b""}


def test_parameters_of_another_model_are_an_error(tmp_path):
    config = dataclasses.replace(TINY, mlp_dim=7)
    with pytest.raises(CorruptError, match="parameters do not fit the model"):
        save_t5(tmp_path / "c", config, params_of(TINY), step=0)
