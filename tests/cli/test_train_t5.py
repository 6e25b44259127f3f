"""`art-jax train` of a T5: its folder, resuming, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from art_jax.checkpoints import t5_folder
from art_jax.cli import train_t5
from art_jax.data.prompts import PassagePrompt
from art_jax.errors import ConfigError
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.methods.ranked_table import RankedSet
from art_jax.models.t5 import T5Config
from art_jax.training.metrics import read_metrics
from art_jax.training.optimizers import Adafactor
from art_jax.training.stage import Stage

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
    dtype="float32",
)


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(nothing_compiled_twice):
    """As in all of tests/cli."""


def make_stage(rankings, **changes):
    method = Pointwise(
        train_sets=(RankedSet(path=str(rankings / "t.json"), depth=6),),
        words=("yes", "no"),
        prompt=PassagePrompt("q {q} d {c}", 12),
    )
    stage = Stage(
        "rerank",
        method,
        train_steps=4,
        batch_size=8,
        optimizer=Adafactor(0.01, warmup_steps=2),
        refresh_every_steps=None,
        save_every_steps=2,
        log_every_steps=1,
    )
    return dataclasses.replace(stage, **changes)


def train(rankings, model_dir, *stages, **settings):
    return train_t5.train(
        model_dir=str(model_dir),
        t5=CONFIG,
        vocabulary=str(rankings / "vocab.txt"),
        stages=stages,
        **settings,
    )


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (got, want)))


def test_a_run_leaves_a_t5_and_its_facts(trained_monot5, rankings):
    saved = t5_folder.load_t5(trained_monot5)
    assert (saved.method, saved.config) == ("Pointwise", CONFIG)
    made = t5_folder.make_method(Pointwise, saved.settings)
    assert made == dataclasses.replace(make_stage(rankings).method, train_sets=())
    assert saved.training["stages"] == ["rerank"]
    records = read_metrics(trained_monot5 / "rerank")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    rates = [record["learning_rate"] for record in records]
    np.testing.assert_allclose(rates, [0.005, 0.01, 0.01, 0.01])
    assert "train_t5.train" in (trained_monot5 / "config.gin").read_text()
    assert json.loads((trained_monot5 / "env.json").read_text())["process_count"] == 1


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    trained_monot5, rankings, tmp_path
):
    train(rankings, tmp_path / "run", make_stage(rankings, train_steps=2))
    went_on = train(rankings, tmp_path / "run", make_stage(rankings))
    assert_equal(went_on.saved.params, t5_folder.load_t5(trained_monot5).params)


def test_it_starts_from_a_t5_trained_here_split_over_devices(
    trained_monot5, rankings, tmp_path
):
    none = make_stage(
        rankings, train_steps=1, optimizer=Adafactor(1e-9, warmup_steps=0)
    )
    trained = train_t5.train(
        model_dir=str(tmp_path),
        initial_checkpoint_path=str(trained_monot5),
        stages=(none,),
        model_parallelism=2,
    )
    assert trained.workspace.config == CONFIG
    kernel = trained.saved.params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 8)
    want = t5_folder.load_t5(trained_monot5)
    assert trained.workspace.tokenizer == want.tokenizer
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, atol=1e-7),
        jax.device_get(trained.saved.params),
        want.params,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t5": None}, "nothing to train: give INITIAL_CHECKPOINT_PATH"),
        ({"vocabulary": None}, "needs a vocabulary, and there is no checkpoint"),
        ({"vocabulary": "no.model"}, r"no\.model does not exist"),
        ({"stages": ()}, "there are no stages"),
        (
            {"t5": dataclasses.replace(CONFIG, vocab_size=8)},
            "VOCABULARY has 18 pieces, but T5Config.vocab_size is 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused(rankings, tmp_path, changes, message):
    given = {"t5": CONFIG, "vocabulary": str(rankings / "vocab.txt")}
    given |= {"stages": (make_stage(rankings),), "model_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=message):
        train_t5.train(**{**given, **changes})


def test_stages_are_checked_before_any_is_trained(rankings, tmp_path):
    refresh = make_stage(rankings, refresh_every_steps=500)
    with pytest.raises(ConfigError, match="has no table: set refresh_every_steps"):
        train(rankings, tmp_path / "a", refresh)
    stage = make_stage(rankings)
    with pytest.raises(ConfigError, match=r"stages are called \['rerank', 'rerank'\]"):
        train(rankings, tmp_path / "b", stage, stage)
    odd = make_stage(rankings, name="odd", batch_size=7)
    with pytest.raises(ConfigError, match="stage 'odd': BATCH_SIZE is 7"):
        train(rankings, tmp_path / "c", stage, odd)


def test_another_t5_than_the_checkpoints_is_refused(trained_monot5, rankings, tmp_path):
    wider = dataclasses.replace(CONFIG, emb_dim=16)
    with pytest.raises(ConfigError, match=r"its emb_dim is 8, not 16"):
        train_t5.train(
            model_dir=str(tmp_path),
            t5=wider,
            initial_checkpoint_path=str(trained_monot5),
            stages=(make_stage(rankings),),
        )
