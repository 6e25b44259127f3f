"""A T5 trained here comes back from its folder; damage is named."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import formats, t5_folder
from art_jax.checkpoints.t5_folder import SavedT5
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.models import t5

CONFIG = t5.T5Config(
    vocab_size=12,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 2
    words: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True)
class Method:
    sets: tuple[Inner, ...] = ()
    inner: Inner = Inner()
    maybe: Inner | None = None
    tokens: tuple[int, ...] = (1,)
    flag: bool = True


METHOD = Method((Inner(),), Inner(3, ("b", "c")), Inner(4), (5, 6), False)


@pytest.fixture(scope="module")
def saved():
    tokenizer = WordPieceTokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "x"))
    params = jax.device_get(t5.init_params(CONFIG, jax.random.key(0)))
    settings = t5_folder.settings_of(METHOD)
    return SavedT5(CONFIG, params, tokenizer, "Method", settings, {"steps": 3})


@pytest.fixture(scope="module")
def run(saved, tmp_path_factory):
    """A run's folder with the T5 in it. Read only: write another to change it."""
    folder = tmp_path_factory.mktemp("run")
    t5_folder.save_t5(folder / "t5", saved)
    return folder


def assert_equal_params(got, want):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), want)


def test_it_comes_back_from_its_folder_or_the_runs(run, saved):
    for folder in (run, run / "t5", str(run)):
        loaded = t5_folder.load_t5(folder)
        assert_equal_params(loaded.params, saved.params)
        same = dataclasses.replace(loaded, params=saved.params)
        assert same == saved


def test_its_weights_go_to_a_mesh_in_the_dtype_asked_for(run, saved):
    mesh = partitioning.make_mesh(4, model_parallelism=2)
    loaded = t5_folder.load_t5(run, mesh)
    kernel = loaded.params["encoder"]["layers_0"]["attention"]["query"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (8, 4)
    assert_equal_params(loaded.params, saved.params)
    half = t5_folder.load_t5(run, dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    assert half.config == dataclasses.replace(CONFIG, dtype="bfloat16")


def test_it_is_a_t5_to_whatever_reads_weights(run, saved):
    found = formats.open_t5(run, dtype="bfloat16")
    assert (found.format, found.vocabulary) == (t5_folder.FORMAT, None)
    assert found.config == dataclasses.replace(CONFIG, dtype="bfloat16")
    assert_equal_params(jax.tree.map(np.asarray, found.params), saved.params)
    assert formats.is_t5(run)
    for path in (run, run / "t5"):
        with pytest.raises(ConfigError, match="holds a T5, where a retriever"):
            formats.open_retriever(path)


def test_a_method_is_made_again_from_its_settings():
    settings = t5_folder.settings_of(METHOD)
    assert "sets" not in settings
    settings = json.loads(json.dumps(settings))
    made = t5_folder.make_method(Method, settings)
    assert made == dataclasses.replace(METHOD, sets=())
    with pytest.raises(ConfigError, match="Method has no setting 'depth'"):
        t5_folder.make_method(Method, {"depth": 3})


def test_damage_is_named(saved, tmp_path):
    with pytest.raises(ConfigError, match="holds no T5 that was trained here"):
        t5_folder.load_t5(tmp_path)
    t5_folder.save_t5(tmp_path / "t5", saved)
    path = tmp_path / "t5" / "t5.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    with pytest.raises(CorruptError, match=r"t5\.safetensors is damaged"):
        t5_folder.load_t5(tmp_path)
    path.unlink()
    with pytest.raises(CorruptError, match=r"t5\.safetensors is missing"):
        t5_folder.load_t5(tmp_path)
