"""The loop: order of hooks, where it stops, what a signal saves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax.errors import DivergedError, PreemptedError
from art_jax.training import loop, preemption, update


def loss(params, batch, resources, key):
    value = params["w"] * batch["x"] + resources
    return value**2, {"drawn": jax.random.uniform(key)}


def counted(events):
    def make_batch(step):
        events.append(("batch", step))
        return {"x": jnp.float32(step + 1)}

    return loop.Problem(make_batch, loss, resources=lambda table: jnp.float32(1))


def start():
    optimizer = optax.sgd(1e-3)
    state = update.init_state({"w": jnp.float32(2)}, optimizer)
    return loop.RunState(state), update.make_update(loss, optimizer)


def recorder(events, name, at_step=None):
    def hook(run, step):
        events.append((name, step))
        if step == at_step:
            raise PreemptedError("in a hook")
        return run

    return hook


def run_steps(events, *, problem=None, train_steps=2, run=None, **settings):
    fresh, step = start()
    settings.setdefault("hooks", [recorder(events, "a"), recorder(events, "b")])
    settings.setdefault(
        "observers", [lambda step, metrics: events.append(("seen", step))]
    )
    return loop.run_steps(
        run or fresh,
        problem or counted(events),
        step,
        train_steps=train_steps,
        key=jax.random.key(0),
        **settings,
    )


def test_hooks_run_in_order_before_each_step_and_at_the_end():
    events = []
    run = run_steps(events)
    boundary = lambda step: [("a", step), ("b", step)]  # noqa: E731
    work = lambda step: [("batch", step), ("seen", step + 1)]  # noqa: E731
    assert events == [
        *boundary(0),
        *work(0),
        *boundary(1),
        *work(1),
        *boundary(2),
    ]
    assert int(run.train.step) == 2


def test_goes_on_without_the_hooks_that_ran_before_the_checkpoint():
    events = []
    run = run_steps([], train_steps=1)
    run_steps(events, run=run, first_boundary_done=True)
    assert events == [("batch", 1), ("seen", 2), ("a", 2), ("b", 2)]
    # At the last step there is then nothing left.
    events.clear()
    run = run_steps([], train_steps=2)
    run_steps(events, run=run, first_boundary_done=True)
    assert events == []


def test_what_a_hook_returns_goes_into_the_next_step():
    def set_weight(run, step):
        if step != 1:
            return run
        params = {"w": jnp.float32(-1 / 2)}
        return dataclasses.replace(run, train=run.train.replace(params=params))

    losses = []
    run_steps(
        [],
        hooks=[set_weight],
        observers=[lambda step, metrics: losses.append(float(metrics["loss"]))],
    )
    assert losses == [(2 * 1 + 1) ** 2, (-1 / 2 * 2 + 1) ** 2]


@pytest.mark.parametrize(
    ("place", "want"),
    [
        ("hook", (1, 1, False)),  # A hook of boundary 1 did not finish.
        ("poll", (1, 1, True)),  # Boundary 1 is done, its step is not.
        ("observer", (1, 1, False)),  # Step 1 is done, its boundary is not.
    ],
)
def test_a_signal_saves_where_the_run_is(place, want, monkeypatch):
    settings, saved = {}, []
    if place == "hook":
        settings["hooks"] = [recorder([], "a", at_step=1)]
    if place == "poll":
        monkeypatch.setattr(preemption, "_received", [])
        settings["hooks"] = [
            lambda run, step: (preemption._received.append("X") if step else 0, run)[1]
        ]
    if place == "observer":

        def raise_error(step, metrics):
            raise PreemptedError("in an observer")

        settings["observers"] = [raise_error]
    with pytest.raises(PreemptedError):
        run_steps(
            [],
            train_steps=3,
            save_on_signal=lambda run, step, done: saved.append(
                (int(run.train.step), step, done)
            ),
            **settings,
        )
    assert saved == [want]


def test_hooks_done_before_the_one_that_a_signal_stopped_are_kept():
    def make_table(run, step):
        return dataclasses.replace(run, best=loop.Best(step, 0.5))

    saved = []
    with pytest.raises(PreemptedError):
        run_steps(
            [],
            hooks=[make_table, recorder([], "b", at_step=0)],
            save_on_signal=lambda run, step, done: saved.append(run.best),
        )
    assert saved == [loop.Best(0, 0.5)]


def test_a_signal_at_the_last_boundary_stops_nothing(monkeypatch):
    monkeypatch.setattr(preemption, "_received", [])
    events = []
    hooks = [
        lambda run, step: (preemption._received.append("X") if step == 2 else 0, run)[1]
    ]
    run = run_steps(events, hooks=hooks)
    assert int(run.train.step) == 2


def test_a_batch_is_completed_before_its_update_with_the_key_the_loss_gets():
    drawn = []

    def complete(train, batch, resources, key):
        assert float(resources) == 1
        key = jax.random.fold_in(key, train.step)
        drawn.append((int(train.step), float(jax.random.uniform(key))))
        return {"x": batch["x"] * 10}

    problem = dataclasses.replace(counted([]), complete=complete)
    metrics = []
    run_steps([], problem=problem, observers=[lambda step, some: metrics.append(some)])
    assert drawn == [(i, float(m["drawn"])) for i, m in enumerate(metrics)]
    assert float(metrics[0]["loss"]) == (2 * 10 + 1) ** 2


def test_what_a_step_writes_back_is_in_the_next_ones_table():
    seen = []

    def write_back(table, metrics):
        seen.append(table)
        return metrics.pop("drawn"), metrics

    problem = dataclasses.replace(counted([]), write_back=write_back)
    fresh, _ = start()
    metrics = []
    run = run_steps(
        [],
        problem=problem,
        run=dataclasses.replace(fresh, table="first", table_params={"w": 1}),
        observers=[lambda step, some: metrics.append(some)],
    )
    assert seen[0] == "first"
    assert run.table is not seen[1] is not seen[0]
    assert run.table_params is None
    assert all("drawn" not in some for some in metrics)


def test_too_many_skipped_steps_in_a_row_stop_the_run():
    nan_from = 2
    problem = dataclasses.replace(
        counted([]),
        make_batch=lambda step: {
            "x": jnp.float32(np.nan if step >= nan_from else step)
        },
    )
    seen = []
    with pytest.raises(DivergedError, match=r"4 steps in a row, up to step 6.*step 2"):
        run_steps(
            [],
            problem=problem,
            train_steps=20,
            observers=[
                lambda step, metrics: seen.append(step),
                loop.stop_when_diverged(3, every_steps=2),
            ],
        )
    assert seen[-1] == 6


def test_a_few_skipped_steps_do_not():
    problem = dataclasses.replace(
        counted([]),
        make_batch=lambda step: {"x": jnp.float32(np.nan if step % 3 else step)},
    )
    run = run_steps(
        [],
        problem=problem,
        train_steps=9,
        observers=[loop.stop_when_diverged(2, every_steps=1)],
    )
    assert int(run.train.step) == 9


def test_copies_outlive_a_donation():
    params = {"w": jnp.arange(3.0)}
    copies = loop.copy_params(params)
    jax.jit(lambda tree: {"w": tree["w"] + 1}, donate_argnums=0)(params)
    np.testing.assert_array_equal(copies["w"], [0, 1, 2])
