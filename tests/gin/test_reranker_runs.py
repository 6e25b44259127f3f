"""The runs of rerankers ask for what they cannot know, and say what was published."""

import pytest

from art_jax.cli import gin_flags, train_t5
from art_jax.data.oracle import OracleRules
from art_jax.data.prompts import JOINT_TEMPLATE, POINTWISE_TEMPLATE, PassagePrompt
from art_jax.errors import ConfigError
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr.joint import T5_SENTINELS, IndepPr, Jpr
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.models import t5

REQUIRED = ("DEV_RANKINGS", "INITIAL_CHECKPOINT_PATH", "MODEL_DIR", "TRAIN_RANKINGS")
# arXiv:2104.08445, table 9: k, batch, steps, gamma, beta.
TABLE_9 = {
    "webqsp": (5, 256, 10_000, 1.5, 3.0),
    "webqsp_k10": (10, 224, 10_000, 1.5, 1.5),
    "ambigqa": (5, 256, 6_000, 1.0, 2.5),
    "ambigqa_k10": (10, 224, 6_000, 1.0, 2.0),
    "trec": (5, 64, 3_000, 1.5, 1.5),
    "trec_k10": (10, 56, 3_000, 1.5, 2.0),
}


def build(run, *more_files, bindings=()):
    """The stage that gin gives `train_t5.train`; the T5 is T5-base."""
    import gin

    given = [f"{name} = 'given'" for name in REQUIRED]
    gin_flags.parse_gin([f"gin/runs/{run}.gin", *more_files], [*given, *bindings])
    bound = gin.get_bindings(train_t5.train)
    (stage,) = bound["stages"]
    assert bound["t5"] == t5.v1_0("base", dropout_rate=0.1, remat=True)
    rates = (stage.optimizer.learning_rate, stage.optimizer.warmup_steps)
    assert rates == (1e-3, 0 if "msmarco" in run else 500)
    assert stage.refresh_every_steps is None
    assert stage.train_steps % stage.eval_every_steps == 0
    sets = (*stage.method.train_sets, *stage.method.dev_sets)
    assert {(one.path, one.depth) for one in sets} == {("given", 100)}
    matches = {one.match for one in sets}
    assert matches == {"given" if "msmarco" in run else "string"}
    return stage


@pytest.mark.parametrize("name", TABLE_9)
def test_published_settings_of_jpr(name):
    k, batch_size, train_steps, gamma, beta = TABLE_9[name]
    stage = build(f"jpr_{name}")
    method = stage.method
    assert type(method) is Jpr
    assert (stage.batch_size, stage.train_steps) == (batch_size, train_steps)
    assert method.rules == OracleRules(k, 25, 100, gamma)
    assert method.dev_rules == TreeRules(beta, "multiply")
    assert (method.dev_k, stage.choose_by) == (None, f"mrecall_at_{k}")
    assert method.prompt == PassagePrompt(JOINT_TEMPLATE, 360)
    assert (method.objective, method.index_tokens) == ("dynamic_oracle", T5_SENTINELS)
    assert method.dropout


@pytest.mark.parametrize("name", [*TABLE_9, "nq"])
def test_indeppr_has_jprs_settings_and_one_step(name):
    theirs, stage = build(f"jpr_{name}"), build(f"indeppr_{name}")
    assert type(stage.method) is IndepPr
    assert stage.batch_size == theirs.batch_size
    assert stage.train_steps == theirs.train_steps
    assert stage.choose_by == theirs.choose_by
    rules = stage.method.rules
    assert rules.positives == "all"
    assert (rules.k, rules.num_passages) == (theirs.method.rules.k, 25)
    assert stage.method.objective == "independent"


@pytest.mark.parametrize("name", ["webqsp", "ambigqa", "trec", "nq"])
def test_monot5_judges_1024_passages_a_step(name):
    stage = build(f"monot5_{name}")
    method = stage.method
    assert type(method) is Pointwise
    assert stage.batch_size * (1 + method.num_negatives) == 1_024
    assert method.words == ("yes", "no")
    assert method.prompt == PassagePrompt(POINTWISE_TEMPLATE, 360)
    assert (method.dev_k, stage.choose_by) == (5, "mrecall_at_5")


def test_monot5_learns_from_judgments():
    stage = build("monot5_msmarco")
    assert type(stage.method) is Pointwise
    assert (stage.batch_size, stage.train_steps) == (64, 10_000)
    assert (stage.method.num_negatives, stage.method.words) == (1, ("true", "false"))
    assert stage.method.prompt == PassagePrompt(POINTWISE_TEMPLATE, 512)
    assert stage.method.train_sets[0].file_format == "tevatron"
    assert (stage.method.dev_k, stage.choose_by) == (10, "mrecall_at_10")


def test_a_run_asks_for_its_files_and_no_others_are_there():
    with pytest.raises(ConfigError, match=f"needs {', '.join(REQUIRED)}: give each"):
        gin_flags.parse_gin(["gin/runs/jpr_trec.gin"], [])


def test_words_and_gamma_are_flags():
    stage = build("monot5_nq", bindings=["WORDS = ('true', 'false')"])
    assert stage.method.words == ("true", "false")
    assert build("jpr_trec", bindings=["GAMMA = 0.5"]).method.rules.gamma == 0.5
    answerless = build("jpr_trec", bindings=["PREFIX = 'answerless'"]).method.rules
    assert answerless.prefix == "answerless"


@pytest.mark.parametrize(("run", "kind"), [("jpr", Jpr), ("indeppr", IndepPr)])
def test_a_laptops_run_is_from_scratch_with_indexes_of_its_own(run, kind):
    import gin

    needed = ("DEV_RANKINGS", "MODEL_DIR", "TRAIN_RANKINGS", "VOCABULARY")
    path = f"gin/runs/{run}_tiny.gin"
    with pytest.raises(ConfigError, match=f"needs {', '.join(needed)}: give each"):
        gin_flags.parse_gin([path], [])
    gin_flags.parse_gin([path], [f"{name} = 'given'" for name in needed])
    bound = gin.get_bindings(train_t5.train)
    method = bound["stages"][0].method
    assert type(method) is kind
    assert bound["initial_checkpoint_path"] is None
    # The vocabulary of benchmarks/reading_world.py has 200 pieces.
    assert method.index_tokens == tuple(range(200, 210))
    assert max(method.index_tokens) < bound["t5"].vocab_size
    assert (method.rules.k, method.rules.num_indexes) == (3, 10)
