"""A stage: what it gives, what a second run of it does, what it refuses."""

import dataclasses
import shutil

import numpy as np
import pytest

from art_jax import partitioning
from art_jax.errors import ConfigError, CorruptError, PreemptedError
from art_jax.training.metrics import read_metrics
from art_jax.training.optimizers import AdamW
from art_jax.training.stage import Stage


@pytest.fixture(scope="module")
def space(tiny, tiny_evidence):
    return tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(2), tiny.bag_encoder()
    )


@pytest.fixture(scope="module")
def stage(tiny):
    return Stage(
        "pull",
        tiny.Pull(),
        train_steps=6,
        batch_size=2,
        optimizer=AdamW(peak_learning_rate=0.1, warmup_share=0.0),
        refresh_every_steps=2,
        eval_every_steps=2,
        save_every_steps=2,
        log_every_steps=1,
        choose_by="quality",
    )


class Evaluate:
    """Gives each step the quality it is told, and remembers the weights it saw."""

    def __init__(self, qualities):
        self.qualities = qualities
        self.params = {}

    def __call__(self, run):
        step = int(run.train.step)
        assert run.table.table_step == step
        self.params[step] = {
            name: np.array(tower["embedding"])
            for name, tower in run.train.params.items()
        }
        return {"quality": self.qualities[step]}


def assert_is_step(params, evaluate, step):
    for name, want in evaluate.params[step].items():
        np.testing.assert_array_equal(params[name]["embedding"], want)


BEST_IS_2 = {0: 0.1, 2: 0.5, 4: 0.5, 6: 0.3}


@pytest.fixture(scope="module")
def finished(tiny, space, stage, tmp_path_factory):
    """A finished run: its folder, its result and its evaluations."""
    directory = tmp_path_factory.mktemp("finished")
    evaluate = Evaluate(BEST_IS_2)
    params, _ = tiny.run_stage(stage, space, directory, evaluate=evaluate)
    return directory, params, evaluate


def steps_of(records, is_dev):
    return [r["step"] for r in records if ("dev/quality" in r) == is_dev]


def test_the_result_is_the_best_step(finished):
    directory, params, evaluate = finished
    assert sorted(evaluate.params) == [0, 2, 4, 6]
    assert_is_step(params, evaluate, 2)
    with pytest.raises(AssertionError):
        assert_is_step(params, evaluate, 4)
    # Nothing that no run needs is left.
    assert [path.name for path in (directory / "best").iterdir()] == ["checkpoint_2"]
    checkpoints = {path.name for path in (directory / "checkpoints").iterdir()}
    assert checkpoints == {"checkpoint_4", "checkpoint_6"}


def test_every_step_and_evaluation_is_on_record_once(finished):
    records = read_metrics(finished[0])
    assert steps_of(records, is_dev=False) == [1, 2, 3, 4, 5, 6]
    assert steps_of(records, is_dev=True) == [0, 2, 4, 6]
    assert {"loss", "grad_norm", "learning_rate", "strength"} <= records[1].keys()


def test_a_finished_stage_is_not_run_again(tiny, space, stage, finished):
    directory, want, _ = finished

    class Unbound:
        def bind(self, *_, **__):
            raise AssertionError("it was run again")

    again = dataclasses.replace(stage, method=Unbound())
    params, lines = tiny.run_stage(again, space, directory)
    assert lines == ["pull: finished before, at step 6"]
    tiny.assert_trees_equal(params, want)


def test_more_steps_than_before_go_on(tiny, space, stage, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    longer = dataclasses.replace(stage, train_steps=8)
    evaluate = Evaluate({6: 0.3, 8: 0.9})
    params, lines = tiny.run_stage(longer, space, tmp_path, evaluate=evaluate)
    assert lines[0] == "pull: going on from step 6"
    assert_is_step(params, evaluate, 8)
    assert steps_of(read_metrics(tmp_path), is_dev=True) == [0, 2, 4, 6, 8]


def test_fewer_steps_than_are_done_are_refused(tiny, space, stage, finished):
    fewer = dataclasses.replace(stage, train_steps=4)
    with pytest.raises(ConfigError, match="holds step 6.*train_steps is 4"):
        tiny.run_stage(fewer, space, finished[0])


def test_a_new_last_step_is_evaluated_though_it_was_saved(tiny, space, stage, tmp_path):
    halting = dataclasses.replace(stage, method=tiny.Interrupted(tiny.Pull(), at=3))
    with pytest.raises(PreemptedError):
        tiny.run_stage(halting, space, tmp_path, evaluate=Evaluate(BEST_IS_2))
    shorter = dataclasses.replace(stage, train_steps=3)
    evaluate = Evaluate({3: 0.8})
    params, _ = tiny.run_stage(shorter, space, tmp_path, evaluate=evaluate)
    assert_is_step(params, evaluate, 3)


def test_another_model_is_refused(tiny, tiny_evidence, stage, finished):
    wider = dataclasses.replace(tiny.bag_encoder(), width=8)
    space = tiny.make_workspace(tiny_evidence, partitioning.make_mesh(2), wider)
    with pytest.raises(ConfigError, match=r"(?s)another model.*embedding"):
        tiny.run_stage(stage, space, finished[0])
    longer = dataclasses.replace(stage, train_steps=8)
    with pytest.raises(ConfigError, match=r"(?s)another model.*embedding"):
        tiny.run_stage(longer, space, finished[0])


@pytest.mark.parametrize("train_steps", [6, 8], ids=["finished", "going-on"])
def test_other_passages_are_refused(tiny, stage, finished, tmp_path, train_steps):
    others = tiny.build_evidence(tmp_path / "evidence", tiny.SOME_PASSAGES[:-1])
    space = tiny.make_workspace(others, partitioning.make_mesh(2), tiny.bag_encoder())
    a_stage = dataclasses.replace(stage, train_steps=train_steps)
    with pytest.raises(ConfigError, match="trained on other passages"):
        tiny.run_stage(a_stage, space, finished[0])


def test_best_weights_that_are_gone_are_named(tiny, space, stage, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(CorruptError, match=r"best"):
        tiny.run_stage(stage, space, tmp_path)


def killed(tiny, stage, at):
    """Returns the stage with a method that dies before step `at`, saving nothing."""

    def die():
        raise KeyboardInterrupt

    return dataclasses.replace(stage, method=tiny.Interrupted(stage.method, at, die))


def test_a_kill_after_a_better_step_keeps_the_best_of_the_checkpoint(
    tiny, space, stage, tmp_path
):
    rare = dataclasses.replace(stage, save_every_steps=4)
    first = Evaluate({0: 0.1, 2: 0.5, 4: 0.5, 6: 0.9})
    with pytest.raises(KeyboardInterrupt):
        tiny.run_stage(
            killed(tiny, dataclasses.replace(rare, train_steps=9), 6),
            space,
            tmp_path,
            evaluate=first,
        )
    # The evaluation of step 6 is lost with the run, and comes out lower this time.
    second = Evaluate(BEST_IS_2)
    params, lines = tiny.run_stage(rare, space, tmp_path, evaluate=second)
    assert lines[0] == "pull: going on from step 4"
    assert_is_step(params, first, 2)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["checkpoint_2"]


def test_a_kill_before_the_first_checkpoint_doubles_no_record(
    tiny, space, stage, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        tiny.run_stage(
            killed(tiny, stage, 1), space, tmp_path, evaluate=Evaluate(BEST_IS_2)
        )
    tiny.run_stage(stage, space, tmp_path, evaluate=Evaluate(BEST_IS_2))
    records = read_metrics(tmp_path)
    assert steps_of(records, is_dev=False) == [1, 2, 3, 4, 5, 6]
    assert steps_of(records, is_dev=True) == [0, 2, 4, 6]


def test_without_held_out_questions_the_last_step_is_the_result(
    tiny, space, stage, finished, tmp_path
):
    params, _ = tiny.run_stage(stage, space, tmp_path)
    assert_is_step(params, finished[2], 6)
    again, lines = tiny.run_stage(stage, space, tmp_path)
    assert lines == ["pull: finished before, at step 6"]
    tiny.assert_trees_equal(again, params)


def test_the_parameters_given_are_not_used_up(tiny, space, stage, tmp_path):
    params = tiny.init_params(space)
    short = dataclasses.replace(stage, train_steps=1)
    tiny.run_stage(short, space, tmp_path, params=params)
    assert np.isfinite(params["query"]["embedding"]).all()


class OwnMeasure:
    """A method that judges itself, and has no table."""

    def __init__(self, tiny, values):
        self.tiny, self.values = tiny, values

    def bind(self, space, **settings):
        problem = self.tiny.Pull().bind(space, **settings)

        def evaluate(run):
            assert run.table is None
            return {"mean_rank": self.values[int(run.train.step)]}

        def resources(table):
            assert table is None
            return np.zeros(1, np.float32)

        return dataclasses.replace(problem, evaluate=evaluate, resources=resources)


def test_a_stage_without_a_table_is_chosen_by_the_methods_own_measure(
    tiny, space, stage, tmp_path
):
    values = {2: 5.0, 4: 3.0, 6: 4.0}
    stage = dataclasses.replace(
        stage,
        method=OwnMeasure(tiny, values),
        refresh_every_steps=None,
        eval_from_step=1,
        choose_by="-mean_rank",
    )

    def searches(run):
        raise AssertionError("there is no table to search")

    _, lines = tiny.run_stage(stage, space, tmp_path, evaluate=searches)
    records = [r for r in read_metrics(tmp_path) if "dev/mean_rank" in r]
    assert [(r["step"], r["dev/mean_rank"]) for r in records] == list(values.items())
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["checkpoint_4"]
    assert lines[1] == "dev at step 4: mean_rank 3.000  (best so far)"


def test_a_passage_tower_that_stays_needs_one_table(tiny, space, stage, tmp_path):
    class Frozen(tiny.Pull):
        def bind(self, space, **settings):
            problem = super().bind(space, **settings)
            return dataclasses.replace(problem, frozen=("passage",))

    stage = dataclasses.replace(stage, method=Frozen(), train_steps=4, choose_by=None)
    steps = []

    def evaluate(run):
        steps.append((int(run.train.step), run.table.table_step))
        return {}

    _, lines = tiny.run_stage(stage, space, tmp_path, evaluate=evaluate)
    assert steps == [(0, 0), (2, 0), (4, 0)]
    assert sum(line.startswith("table generation") for line in lines) == 1


def test_the_methods_own_measures_stand_beside_those_of_questions(
    tiny, space, stage, tmp_path
):
    class Both(tiny.Pull):
        def bind(self, space, **settings):
            problem = super().bind(space, **settings)
            return dataclasses.replace(problem, evaluate=lambda run: {"own": 1.0})

    stage = dataclasses.replace(stage, method=Both(), train_steps=2)
    _, lines = tiny.run_stage(stage, space, tmp_path, evaluate=Evaluate(BEST_IS_2))
    assert any("own 1.000  quality 0.500" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"refresh_every_steps": None, "rolling_refresh": True},
            "rolling_refresh and no refresh_every_steps",
        ),
        ({"eval_every_steps": 3}, "evaluates every 3 steps and refreshes every 2"),
        ({"num_chunks": 0}, "num_chunks of stage 'pull' is 0"),
        ({"train_steps": 0}, "train_steps of stage 'pull' is 0"),
        ({"save_every_steps": 0}, "save_every_steps"),
        ({"refresh_every_steps": -1}, "refresh_every_steps"),
        ({"log_every_steps": 0}, "log_every_steps"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
    ],
)
def test_intervals_that_do_not_fit_are_named(stage, settings, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(stage, **settings)


def test_a_misspelt_measure_stops_before_any_step(tiny, space, stage, tmp_path):
    misspelt = dataclasses.replace(stage, choose_by="qualty")
    with pytest.raises(ConfigError, match="'qualty'.*quality"):
        tiny.run_stage(misspelt, space, tmp_path, evaluate=Evaluate(BEST_IS_2))
    assert read_metrics(tmp_path) == []
