"""The runs of readers ask for what they cannot know, and say what was published."""

import pytest

from art_jax.cli import gin_flags, train_t5
from art_jax.data.prompts import PassagePrompt
from art_jax.errors import ConfigError
from art_jax.methods.reading.fid_reader import READER_TEMPLATE, FidReader
from art_jax.models import t5

REQUIRED = ("DEV_RANKINGS", "INITIAL_CHECKPOINT_PATH", "MODEL_DIR", "TRAIN_RANKINGS")


def build(run, *more_files, bindings=()):
    """The T5 and the stage that gin gives `train_t5.train`."""
    import gin

    given = [f"{name} = 'given'" for name in REQUIRED]
    gin_flags.parse_gin([f"gin/runs/{run}", *more_files], [*given, *bindings])
    bound = gin.get_bindings(train_t5.train)
    (stage,) = bound["stages"]
    return bound["t5"], stage


@pytest.mark.parametrize(
    ("run", "size", "k", "steps", "form", "order", "max_tokens", "choose_by"),
    [
        ("nq_base", "base", 140, 10_000, "one", "appearance", 20, "exact_match"),
        ("nq_large", "large", 40, 10_000, "one", "appearance", 20, "exact_match"),
        ("nq_3b", "3b", 10, 10_000, "one", "appearance", 20, "exact_match"),
        ("webqsp", "3b", 10, 10_000, "sequence", "shuffled", 40, "answer_set_f1"),
        ("ambigqa", "3b", 10, 6_000, "sequence", "appearance", 40, "answer_set_f1"),
        ("trec", "3b", 10, 3_000, "sequence", "appearance", 40, "answer_set_f1"),
    ],
)
def test_published_settings(run, size, k, steps, form, order, max_tokens, choose_by):
    # arXiv:2104.08445, 5.2 and B.3, and its table 9 for the steps of several answers.
    config, stage = build(f"fid_{run}.gin")
    reader = stage.method
    assert config == t5.v1_0(size, dropout_rate=0.1, remat=True)
    assert isinstance(reader, FidReader)
    (train,), (dev,) = reader.train_sets, reader.dev_sets
    assert (train.path, train.depth, dev.path, dev.depth) == ("given", k, "given", k)
    assert (stage.batch_size, stage.train_steps) == (32, steps)
    assert stage.train_steps % stage.eval_every_steps == 0
    rates = (stage.optimizer.learning_rate, stage.optimizer.warmup_steps)
    assert rates == (1e-3, 500)
    assert (stage.refresh_every_steps, stage.choose_by) == (None, choose_by)
    rules = reader.targets
    assert (rules.form, rules.order, rules.max_tokens) == (form, order, max_tokens)
    assert (rules.grounded, rules.separator) == (True, "[SEP]")
    assert reader.prompt == PassagePrompt(READER_TEMPLATE, 360)
    assert reader.dropout


def test_a_run_asks_for_its_files():
    with pytest.raises(ConfigError, match=f"needs {', '.join(REQUIRED)}: give each"):
        gin_flags.parse_gin(["gin/runs/fid_nq_base.gin"], [])


def test_another_t5_may_read_other_passages():
    config, stage = build(
        "fid_trec.gin",
        "gin/models/t5_large.gin",
        bindings=["NUM_PASSAGES = 40", "RANKING_FORMAT = 'fid'"],
    )
    assert config.emb_dim == t5.v1_0("large").emb_dim == 1024
    (one,) = stage.method.train_sets
    assert (one.depth, one.file_format) == (40, "fid")


def test_a_tiny_reader_learns_from_scratch():
    given = [f"{name} = 'given'" for name in REQUIRED if name[0] != "I"]
    with pytest.raises(ConfigError, match=r"fid_tiny\.gin needs VOCABULARY: give"):
        gin_flags.parse_gin(["gin/runs/fid_tiny.gin"], given)
    config, stage = build(
        "fid_tiny.gin",
        bindings=["VOCABULARY = 'given'", "INITIAL_CHECKPOINT_PATH = None"],
    )
    assert (config.num_encoder_layers, config.dropout_rate) == (1, 0.0)
    assert stage.method.targets.form == "sequence"
