"""A saved retriever is one folder that comes back bit for bit or names its fault."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from art_jax import atomic, manifest, partitioning
from art_jax.checkpoints import retriever
from art_jax.checkpoints.tensors import FileTensor
from art_jax.data import tokenizers
from art_jax.data.query_forms import QueryForm
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

TEXTS = ["a passage about tables", "a question about passages", "rows of a table"]


def make_retriever(seed=0, hidden_size=8, training=None):
    tokenizer = tokenizers.train_wordpiece(TEXTS, 60)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        num_layers=1,
        num_heads=2,
        intermediate_size=8,
        max_positions=16,
    )
    encoder = DualEncoder(config, pooling="mean")
    params = jax.jit(encoder.init)(jax.random.key(seed))
    return retriever.SavedRetriever(
        encoder, params, tokenizer, 10, 16, training or {"step": 3}
    )


MADE = make_retriever()


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "run" / "retriever"
    retriever.save_retriever(directory, MADE)
    return directory


def change_config(directory, change):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    manifest.write_manifest(directory, {"kind": "retriever"})


def test_everything_comes_back(saved, mesh):
    loaded = retriever.load_retriever(saved, mesh)
    assert loaded.encoder == MADE.encoder
    assert (loaded.max_query_tokens, loaded.max_passage_tokens) == (10, 16)
    assert loaded.training == {"step": 3}
    assert loaded.tokenizer.digest == MADE.tokenizer.digest
    assert loaded.query_layout == MADE.query_layout
    assert loaded.passage_layout == MADE.passage_layout
    assert loaded.passage_layout.max_tokens == 16
    assert jax.tree.structure(loaded.params) == jax.tree.structure(MADE.params)
    for got, want in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(MADE.params), strict=True
    ):
        assert got.sharding == partitioning.replicated(mesh)
        assert got.dtype == want.dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_what_was_loaded_is_saved_to_the_same_bytes(saved, tmp_path):
    loaded = retriever.load_retriever(saved, partitioning.make_mesh(8))
    retriever.save_retriever(tmp_path / "again", loaded)
    assert manifest.read_manifest(tmp_path / "again") == manifest.read_manifest(saved)


def test_it_is_found_in_its_run_too(saved):
    assert retriever.find_retriever(saved) == saved
    assert retriever.find_retriever(saved.parent) == saved


def test_a_folder_without_one_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="holds no retriever"):
            retriever.load_retriever(path, partitioning.make_mesh(1))


def test_a_folder_of_hugging_face_is_not_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no retriever"):
        retriever.find_retriever(tmp_path)


def test_every_damaged_or_missing_file_is_named(saved):
    mesh = partitioning.make_mesh(1)
    paths = sorted(path for path in saved.rglob("*") if path.is_file())
    assert len(paths) >= 4
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        with pytest.raises(CorruptError, match=path.name):
            retriever.load_retriever(saved, mesh)
        path.unlink()
        with pytest.raises(CorruptError, match=rf"{path.name}\D* missing"):
            retriever.load_retriever(saved.parent, mesh)
        path.write_bytes(before)
    retriever.load_retriever(saved, mesh)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["encoder"]["config"].update(surprise=1),
        lambda config: config["encoder"].update(surprise=1),
        lambda config: config["encoder"].pop("config"),
        lambda config: config.pop("encoder"),
        lambda config: config.pop("max_query_tokens"),
        lambda config: config.pop("training"),
    ],
)
def test_a_config_of_another_version_is_refused(saved, change):
    change_config(saved, change)
    with pytest.raises(CorruptError, match="config.json"):
        retriever.load_retriever(saved, partitioning.make_mesh(1))


def test_weights_of_another_encoder_name_the_first_that_differ(saved):
    def widen(config):
        config["encoder"]["config"]["intermediate_size"] = 12

    change_config(saved, widen)
    with pytest.raises(CorruptError) as caught:
        retriever.load_retriever(saved, partitioning.make_mesh(1))
    message = str(caught.value)
    # Two kernels and a bias.
    assert "3 parameters do not fit" in message
    assert "'encoder/layers_0/mlp/wi/bias': (8,) in the file, (12,) in" in message


def test_towers_that_the_config_has_not_are_refused(saved):
    change_config(saved, lambda config: config["encoder"].update(shared=True))
    with pytest.raises(CorruptError, match="towers passage, query.*tower shared"):
        retriever.load_retriever(saved, partitioning.make_mesh(1))


def test_opening_leaves_the_arrays_in_their_file(saved):
    found = retriever.open_retriever(saved)
    leaves = jax.tree.leaves(found.towers)
    assert all(isinstance(leaf, FileTensor) for leaf in leaves)
    assert found.format == "a retriever of art_jax"


def test_an_export_with_a_config_and_a_manifest_is_no_retriever(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    manifest.write_manifest(tmp_path, {"kind": "export"})
    assert not retriever.holds_retriever(tmp_path)
    # One of ours that lost its weights is, so that loading can say so.
    manifest.write_manifest(tmp_path, {"kind": "retriever"})
    assert retriever.holds_retriever(tmp_path)


def test_a_kill_leaves_the_old_retriever(saved, monkeypatch):
    mesh = partitioning.make_mesh(1)

    def kill(path):
        raise KeyboardInterrupt

    new = make_retriever(seed=1, training={"step": 9})
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "finish_directory", kill)
        with pytest.raises(KeyboardInterrupt):
            retriever.save_retriever(saved, new)
    assert retriever.load_retriever(saved, mesh).training == {"step": 3}
    saved.rename(saved.with_name(".retriever.replaced"))
    assert retriever.load_retriever(saved.parent, mesh).training == {"step": 3}


FORMS = {
    "nq": QueryForm(suffix="?", tower="qa"),
    "fever": QueryForm(marker="[F]", special=("[SEP]",), tower="facts"),
}


@pytest.fixture(scope="module")
def of_two_tasks():
    encoder = dataclasses.replace(MADE.encoder, query_towers=("facts", "qa"))
    rng = np.random.default_rng(0)
    stack = jax.tree.map(lambda x: rng.normal(size=(2, *x.shape)), MADE.params["query"])
    stack = jax.tree.map(lambda x: x.astype(np.float32), stack)
    return dataclasses.replace(
        MADE,
        encoder=encoder,
        params={**MADE.params, "query": stack},
        query_forms=FORMS,
        special_ids={"[F]": 4, "[SEP]": MADE.tokenizer.sep_id},
    )


def test_tasks_and_their_towers_come_back(of_two_tasks, tmp_path):
    directory = tmp_path / "retriever"
    retriever.save_retriever(directory, of_two_tasks)
    loaded = retriever.load_retriever(directory, partitioning.make_mesh(1))
    assert loaded.encoder == of_two_tasks.encoder
    assert loaded.query_forms == FORMS
    assert loaded.special_ids == of_two_tasks.special_ids
    jax.tree.map(np.testing.assert_array_equal, loaded.params, of_two_tasks.params)


def test_one_task_of_several_has_one_tower_and_one_form(of_two_tasks):
    one = of_two_tasks.of_task("nq")
    assert one.encoder == MADE.encoder
    jax.tree.map(
        lambda got, stack: np.testing.assert_array_equal(got, stack[1]),
        one.params["query"],
        of_two_tasks.params["query"],
    )
    assert one.query_form == FORMS["nq"]
    assert of_two_tasks.query_form == QueryForm()
    question, asked = Question("q", "a table"), Question("q", "a table?")
    (row,), (plain,), (asked_row,) = (
        model.query_tokens([text]).tolist()
        for model, text in ((one, question), (MADE, question), (MADE, asked))
    )
    assert row == asked_row != plain
    (row,) = of_two_tasks.of_task("fever").query_tokens([question]).tolist()
    assert row == [plain[0], 4, *plain[1:-1]]
    with pytest.raises(ConfigError, match="no task 'wow': choose of nq, fever"):
        of_two_tasks.of_task("wow")
