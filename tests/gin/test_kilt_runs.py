"""KILT's runs ask for what they cannot know, and have the published settings."""

import copy
import pathlib

import jax
import pytest

from art_jax.cli import gin_flags, train
from art_jax.data.query_forms import QueryForm
from art_jax.errors import ConfigError
from art_jax.methods.dpr import Dpr
from art_jax.models import bert

GIN = pathlib.Path(__file__).parents[2] / "gin"
RUNS = sorted(path.name for path in (GIN / "runs").glob("kilt_*.gin"))
ALL = {"MODEL_DIR", "PASSAGES", "INITIAL_CHECKPOINT_PATH"}
REQUIRED = dict.fromkeys(RUNS, ALL) | {
    "kilt_from_scratch.gin": {"MODEL_DIR", "PASSAGES", "VOCABULARY"},
    "kilt_adversarial.gin": ALL | {"NQ_EXAMPLES", "TRIVIAQA_EXAMPLES"},
    "kilt_without.gin": ALL | {"LEFT_OUT", "DEV_TASKS"},
    "kilt_single.gin": ALL | {"QUERY_TASK", "DEV_TASKS"},
    "kilt_few_shot.gin": ALL | {"QUERY_TASK", "DEV_TASKS"},
}
TASKS = ("fever", "aidayago2", "trex", "zeroshot_re")
TASKS += ("nq", "hotpotqa", "triviaqa", "wow")
QA, SLOTS = ("nq", "hotpotqa", "triviaqa"), ("trex", "zeroshot_re")
# Examples of each set by the paper, down-sampled.
SIZES = {"fever": 71, "aidayago2": 18, "trex": 100, "zeroshot_re": 100}
SIZES |= {"nq": 77, "hotpotqa": 69, "triviaqa": 53, "wow": 80}
EPOCH = sum(1000 * size // 128 for size in SIZES.values())


def build(run, **given):
    """The encoder and the stage of a run, its sets by task, and its dev tasks."""
    import gin

    bindings = dict.fromkeys(REQUIRED[run], "given") | {
        name: ("given",) for name in REQUIRED[run] & {"DEV_TASKS"}
    }
    lines = [f"{name} = {value!r}" for name, value in (bindings | given).items()]
    gin_flags.parse_gin([f"gin/runs/{run}"], lines)
    bound = gin.get_bindings(train.train, resolve_references=False)
    names = ("encoder", "stages", "dev_tasks")
    encoder, (stage,), dev_tasks = (copy.deepcopy(bound[name]) for name in names)
    return encoder, stage, {s.query_task: s for s in stage.method.train_sets}, dev_tasks


@pytest.mark.parametrize("run", RUNS)
def test_a_run_asks_for_what_it_cannot_know_and_for_nothing_else(run):
    wanted = ", ".join(sorted(REQUIRED[run]))
    with pytest.raises(ConfigError, match=f"{run} needs {wanted}: give each"):
        gin_flags.parse_gin([f"gin/runs/{run}"], [])


def test_the_multi_task_run_has_the_published_settings():
    encoder, stage, sets, dev_tasks = build("kilt_multi.gin")
    assert encoder.config == bert.base(dtype="bfloat16", remat=True)
    assert (encoder.pooling, encoder.shared, encoder.query_towers) == ("cls", False, ())
    method, optimizer = stage.method, stage.optimizer
    assert isinstance(method, Dpr)
    assert tuple(sets) == TASKS
    for task, one in sets.items():
        large = "_100k" if task in SLOTS else ""
        assert one.task == f"multikilt_{task}{large}"
        assert (one.normalize, one.shuffle_positives, one.split) == (
            True,
            True,
            "train",
        )
        assert (one.sampling_rate, one.loss_scale) == (1.0, 1.0)
        assert one.query_special_suffix == ("?" if task in QA else "")
        assert one.special == (
            ("[START_ENT]", "[END_ENT]")
            if task == "aidayago2"
            else ("[SEP]",) * (task in SLOTS)
        )
        assert one.keep_mention is (task == "aidayago2")
        assert (one.marker, one.tower, one.num_examples) == ("", "", None)
    assert stage.train_steps == 80 * EPOCH
    assert stage.eval_every_steps == stage.refresh_every_steps == 5 * EPOCH
    assert (stage.choose_by, dev_tasks) == ("page_r_precision", ("kilt_multitask",))
    assert (stage.batch_size, method.num_hard_negatives) == (128, 1)
    assert (method.num_other_negatives, method.dropout, method.dev_sets) == (
        0,
        True,
        (),
    )
    assert (optimizer.peak_learning_rate, optimizer.schedule_form) == (
        2e-5,
        "transformers",
    )
    dropout = (encoder.config.dropout_rate, encoder.config.attention_dropout_rate)
    assert dropout == (0.1, 0.1)


def test_each_family_has_a_marker():
    *_, sets, _ = build("kilt_markers.gin")
    wanted = {"fever": "[F]", "wow": "[D]", "aidayago2": ""}
    wanted |= dict.fromkeys(QA, "[Q]") | dict.fromkeys(SLOTS, "[R]")
    assert {task: one.marker for task, one in sets.items()} == wanted


def test_each_family_has_a_tower():
    encoder, stage, sets, _ = build("kilt_task_towers.gin")
    towers = {"fever": "fact_checking", "wow": "dialogue"}
    towers |= {"aidayago2": "entity_linking"}
    towers |= dict.fromkeys(QA, "qa") | dict.fromkeys(SLOTS, "slot_filling")
    assert {task: one.tower for task, one in sets.items()} == towers
    assert set(encoder.query_towers) == set(towers.values())
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    for many, one in zip(
        jax.tree.leaves(shapes["query"]),
        jax.tree.leaves(shapes["passage"]),
        strict=True,
    ):
        assert many.shape == (5, *one.shape)
    form = stage.method.query_forms["nq"]
    assert form == QueryForm(suffix="?", tower="qa")


def test_variants_differ_in_what_their_name_says():
    base_encoder, base_stage, *_ = build("kilt_multi.gin")
    encoder, stage, *_ = build("kilt_shared.gin")
    assert (encoder.shared, stage) == (True, base_stage)
    encoder, stage, *_ = build("kilt_from_scratch.gin")
    assert (encoder, stage) == (base_encoder, base_stage)
    *_, sets, _ = build("kilt_adversarial.gin", NQ_EXAMPLES="nq.json")
    assert (sets["nq"].path, sets["triviaqa"].path) == ("nq.json", "given")
    assert sets["hotpotqa"].task == "multikilt_hotpotqa"
    *_, sets, dev_tasks = build("kilt_without.gin", LEFT_OUT="nq")
    assert tuple(sets) == tuple(task for task in TASKS if task != "nq")
    assert dev_tasks == ("given",)
    _, stage, sets, _ = build("kilt_single.gin", QUERY_TASK="nq")
    assert (tuple(sets), sets["nq"].num_examples) == (("nq",), None)
    assert stage.train_steps == 80 * (77_000 // 128)
    for count in (128, 1024):
        _, stage, sets, _ = build(
            "kilt_few_shot.gin", QUERY_TASK="wow", NUM_EXAMPLES=count
        )
        assert (tuple(sets), sets["wow"].num_examples) == (("wow",), count)
    assert stage.train_steps == 80
