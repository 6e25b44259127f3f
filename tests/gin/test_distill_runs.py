"""The run that distils a reader's attention asks for its files, and fits together."""

import copy

import jax
import pytest

from art_jax.cli import gin_flags, train
from art_jax.errors import ConfigError
from art_jax.methods.distill import Distill
from art_jax.models import bert

REQUIRED = ("INITIAL_CHECKPOINT_PATH", "MODEL_DIR", "PASSAGES", "SCORED_RANKINGS")


def build(*more_files, bindings=()):
    """The encoder, the stage and the lengths that gin gives `train.train`."""
    import gin

    given = [f"{name} = 'given'" for name in REQUIRED]
    files = ["gin/runs/distill_reader.gin", *more_files]
    gin_flags.parse_gin(files, [*given, *bindings])
    bound = gin.get_bindings(train.train, resolve_references=False)
    names = ("encoder", "stages", "task_feature_lengths")
    encoder, (stage,), lengths = (copy.deepcopy(bound[name]) for name in names)
    return encoder, stage, lengths


def test_the_run_asks_for_its_files():
    with pytest.raises(ConfigError, match=f"needs {', '.join(REQUIRED)}: give each"):
        gin_flags.parse_gin(["gin/runs/distill_reader.gin"], [])


def test_settings_build_and_fit_each_other():
    encoder, stage, lengths = build()
    assert encoder.config == bert.base(dtype="bfloat16", remat=True)
    assert max(lengths.values()) <= encoder.config.max_positions
    assert lengths == {"query": 40, "passage": 200}
    method = stage.method
    assert isinstance(method, Distill)
    (one,) = method.train_sets
    assert (one.path, one.depth, method.num_passages) == ("given", 100, None)
    assert (method.temperature, method.teacher_scale) == (None, 1.0)
    assert (stage.refresh_every_steps, stage.choose_by) == (None, None)
    stage.optimizer.build(stage.train_steps)


def test_a_small_retriever_may_learn_from_scratch():
    encoder, stage, _ = build(
        "gin/models/tiny.gin", bindings=["INITIAL_CHECKPOINT_PATH = None"]
    )
    assert set(jax.eval_shape(encoder.init, jax.random.key(0))) == {"shared"}
    assert stage.method.temperature == 0.0667
