"""Hooks: when they are due, which step is the best, what they refuse."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from art_jax.errors import ConfigError
from art_jax.training import hooks
from art_jax.training.loop import Best, RunState

LAST_STEP = 10


def run_of(step):
    return RunState(types.SimpleNamespace(params={"w": jnp.float32(step)}))


@pytest.fixture
def refresh_hook(monkeypatch):
    """A hook every four steps whose tables are only what they were made of."""

    def refresh(refresher, params, *, step, generation, on_progress, parts):
        on_progress(0)
        return types.SimpleNamespace(
            table_step=step, generation=generation, params=params, num_rows=1
        )

    monkeypatch.setattr(hooks, "refresh", refresh)
    monkeypatch.setattr(hooks, "make_progress", lambda *_: lambda num_rows: None)
    return hooks.refresh_hook(
        None, lambda tree: tree, every_steps=4, last_step=LAST_STEP, report=print
    )


def test_refreshes_at_multiples_and_at_the_last_step(refresh_hook):
    run, made = run_of(0), []
    for step in range(LAST_STEP + 1):
        run = dataclasses.replace(run, train=run_of(step).train)
        run = refresh_hook(run, step)
        made.append((run.table.table_step, run.table.generation))
    assert made == [(0, 0)] * 4 + [(4, 1)] * 4 + [(8, 2)] * 2 + [(10, 3)]
    # The weights that made it go with it into a checkpoint.
    assert float(run.table_params["w"]) == float(run.table.params["w"]) == 10


def test_does_not_refresh_twice_at_a_step(refresh_hook):
    run = refresh_hook(run_of(4), 4)
    assert refresh_hook(run, 4) is run


def test_a_rolling_refresh_makes_one_slice_a_step(refresh_hook, monkeypatch):
    made = []

    def refresh_slice(refresher, params, table, *, slice_index, num_slices):
        made.append((float(params["w"]), slice_index, num_slices))
        return table

    monkeypatch.setattr(hooks, "refresh_slice", refresh_slice)
    hook = hooks.rolling_hook(
        None, lambda tree: tree, every_steps=3, refresh_all=refresh_hook
    )
    run = hook(run_of(0), 0)
    assert run.table.table_step == 0
    assert run.table_params is not None
    assert hook(run, 0) is run  # As after a kill between this hook and the save.
    for step in range(1, 5):
        run = hook(dataclasses.replace(run, train=run_of(step).train), step)
    assert made == [(1, 1, 3), (2, 2, 3), (3, 0, 3), (4, 1, 3)]
    assert run.table_params is None  # No weights make this table again.


def test_only_a_refresh_that_takes_long_is_reported_while_it_runs(monkeypatch):
    def make_progress(refresher, report):
        report("begins")
        return lambda num_rows: report(f"at {num_rows}")

    monkeypatch.setattr(hooks, "make_progress", make_progress)
    lines = []
    watch = hooks.watch_refresh(None, lines.append)
    assert lines == []
    watch(3)
    watch(5)
    assert lines == ["begins", "at 3", "at 5"]


def evaluator(values, **settings):
    """Returns a hook that measures `values[step]`, what it kept and what it wrote."""
    kept, written = [], []
    writer = types.SimpleNamespace(
        write=lambda step, scalars: written.append((step, scalars))
    )
    current = {}

    def evaluate(run):
        return {"top_1": values[current["step"]], "top_5": 1.0}

    settings = {"measure": "top_1", "every_steps": 2, "last_step": 5} | settings
    hook = hooks.evaluate_hook(
        evaluate,
        writer=writer,
        save_best=lambda run, step: kept.append(step),
        report=lambda line: None,
        **settings,
    )

    def run_all():
        run = run_of(0)
        for step in range(6):
            current["step"] = step
            run = hook(run, step)
        return run

    return run_all, kept, written


def test_keeps_the_best_step_and_of_equals_the_earlier():
    values = {0: 0.1, 2: 0.4, 4: 0.4, 5: 0.2}
    run_all, kept, written = evaluator(values)
    assert run_all().best == Best(2, 0.4)
    assert kept == [0, 2]
    assert written == [
        (step, {"dev/top_1": value, "dev/top_5": 1.0}) for step, value in values.items()
    ]


def test_without_a_measure_the_last_step_is_the_best():
    run_all, kept, _ = evaluator({0: 0.9, 2: 0.4, 4: 0.4, 5: 0.2}, measure=None)
    assert run_all().best.step == 5
    assert kept[-1] == 5


def test_a_misspelt_measure_is_named_with_the_choices():
    run_all, _, written = evaluator({0: 0.1}, measure="top1")
    with pytest.raises(ConfigError, match=r"'top1'.*top_1, top_5"):
        run_all()
    assert written == []


def test_without_evaluation_the_last_step_is_kept():
    kept = []
    hook = hooks.keep_last_hook(lambda run, step: kept.append(step), last_step=3)
    run = run_of(0)
    for step in range(4):
        run = hook(run, step)
    assert kept == [3]
    assert run.best.step == 3


def test_saves_at_multiples_and_at_the_last_step_but_not_at_0():
    saved = []
    hook = hooks.save_hook(
        lambda run, step, done: saved.append((step, done)), every_steps=3, last_step=7
    )
    for step in range(8):
        hook(run_of(step), step)
    assert saved == [(3, True), (6, True), (7, True)]


def test_logs_every_so_many_steps_with_the_rate_of_that_step():
    written = []
    writer = types.SimpleNamespace(write=lambda *record: written.append(record))
    observe = hooks.log_metrics(
        writer, every_steps=2, learning_rate=lambda count: count * 10
    )
    for step in range(1, 5):
        observe(step, {"loss": jnp.float32(step / 4)})
    assert written == [
        (2, {"loss": 0.5, "learning_rate": 10.0}),
        (4, {"loss": 1.0, "learning_rate": 30.0}),
    ]
    hooks.log_metrics(None, every_steps=1, learning_rate=None)(1, {})


def test_progress_shows_steps_loss_and_what_is_left(capsys):
    observe = hooks.show_progress("art", first_step=4, train_steps=6)
    for step in (5, 6):
        observe(step, {"loss": jnp.float32(0.25)})
    shown = capsys.readouterr().err
    assert "art: step 6/6  loss 0.2500" in shown
    assert shown.endswith("ETA 0:00\n")
