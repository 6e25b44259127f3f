"""Hooks of the loop: refresh the table, evaluate, save and resume; progress."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from art_jax.checkpoints import train_state
from art_jax.errors import ConfigError
from art_jax.index.progress import make_progress
from art_jax.index.refresh import Refresher, check_table, refresh, refresh_slice
from art_jax.index.table import load_table, save_table
from art_jax.training import preemption
from art_jax.training.loop import Best, Hook, Observer, RunState, copy_params
from art_jax.training.metrics import DEV_PREFIX, MetricsWriter
from art_jax.types import Params

# Folder of a checkpoint in which a table lies that no one step's weights made.
TABLE = "table"


def refresh_hook(
    refresher: Refresher,
    passage_side: Callable[[Params], Params],
    *,
    every_steps: int,
    last_step: int,
    report: Callable[[str], None],
    parts: pathlib.Path | None = None,
) -> Hook:
    """Returns a hook that embeds the evidence again every so many steps.

    Args:
        refresher: what stays the same between refreshes.
        passage_side: the part of the parameters that passage embeddings depend on, as
            `refresher.encode` takes it.
        every_steps: refresh at step 0 and each multiple of this.
        last_step: refresh at this one too.
        report: told one line after each refresh, and more during a long one.
        parts: a folder where finished parts of a refresh are kept until it is done, so
            that a run killed during one does not begin it anew. None: nowhere.
    """

    def hook(run: RunState, step: int) -> RunState:
        is_due = step % every_steps == 0 or step == last_step
        is_fresh = run.table is not None and run.table.table_step == step
        if not is_due or is_fresh:
            return run
        params = copy_params(passage_side(run.train.params))
        started = time.monotonic()
        table = refresh(
            refresher,
            params,
            step=step,
            generation=0 if run.table is None else run.table.generation + 1,
            on_progress=watch_refresh(refresher, report),
            parts=parts,
        )
        seconds = time.monotonic() - started
        report(
            f"table generation {table.generation} from step {step}: {table.num_rows:,} "
            f"passages in {seconds:.1f} s ({table.num_rows / seconds:,.0f}/s)"
        )
        return dataclasses.replace(run, table=table, table_params=params)

    return hook


def refresh_once(refresh_all: Hook) -> Hook:
    """Returns a hook that makes the first table, and no other.

    For runs whose passage tower stays as it is: no table of theirs is ever stale.
    """
    return lambda run, step: refresh_all(run, step) if run.table is None else run


def rolling_hook(
    refresher: Refresher,
    passage_side: Callable[[Params], Params],
    *,
    every_steps: int,
    refresh_all: Hook,
) -> Hook:
    """Returns a hook that embeds a slice of the evidence again before each step.

    No row is older than `every_steps`, and no step waits for a whole refresh.

    Args:
        refresher: what stays the same.
        passage_side: as for `refresh_hook`.
        every_steps: slices of the whole, one a step.
        refresh_all: makes the first table.
    """

    def hook(run: RunState, step: int) -> RunState:
        if run.table is None:
            return refresh_all(run, step)
        if run.table.table_step == step:
            return run
        table = refresh_slice(
            refresher,
            passage_side(run.train.params),
            run.table,
            slice_index=step % every_steps,
            num_slices=every_steps,
        )
        return dataclasses.replace(run, table=table, table_params=None)

    return hook


def watch_refresh(
    refresher: Refresher, report: Callable[[str], None]
) -> Callable[[int], None]:
    """Returns an `on_progress` that stops for a signal, and reports a long refresh."""
    held = []

    def report_from_the_second(line: str) -> None:
        held.append(line)
        if len(held) > 1:
            for line in held if len(held) == 2 else held[-1:]:
                report(line)

    progress = make_progress(refresher, report_from_the_second)

    def watch(num_rows: int) -> None:
        preemption.poll()
        progress(num_rows)

    return watch


def evaluate_hook(
    evaluate: Callable[[RunState], Mapping[str, float]],
    *,
    measure: str | None,
    every_steps: int,
    last_step: int,
    writer: MetricsWriter | None,
    save_best: Callable[[RunState, int], None],
    report: Callable[[str], None],
    first_step: int = 0,
) -> Hook:
    """Returns a hook that evaluates, and keeps the best step by `measure`.

    It runs after a refresh of the same step, so the table is never stale.

    Args:
        evaluate: run -> measures.
        measure: the name of the one to choose by; higher is better, or lower where "-"
            stands before the name. None: the last evaluation is the best.
        every_steps: evaluate at each multiple of this, step 0 included.
        last_step: evaluate at this one too.
        writer: of metrics, on the first process only.
        save_best: (run, step), called when the measure is better than ever before.
        report: told one line each time.
        first_step: evaluate at no step before this one.
    """
    name = None if measure is None else measure.removeprefix("-")
    sign = -1 if measure is not None and measure.startswith("-") else 1

    def hook(run: RunState, step: int) -> RunState:
        is_due = step % every_steps == 0 and step >= first_step
        if not is_due and step != last_step:
            return run
        values = evaluate(run)
        if name is not None and name not in values:
            raise ConfigError(
                f"there is no measure {name!r} to choose the best step by; there "
                f"are {', '.join(values)}."
            )
        if writer is not None:
            writer.write(step, {DEV_PREFIX + name: v for name, v in values.items()})
        line = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        value = float(step) if name is None else sign * values[name]
        if run.best is not None and value <= run.best.value:
            report(f"dev at step {step}: {line}")
            return run
        report(f"dev at step {step}: {line}  (best so far)")
        save_best(run, step)
        return dataclasses.replace(run, best=Best(step, value))

    return hook


def keep_last_hook(
    save_best: Callable[[RunState, int], None], *, last_step: int
) -> Hook:
    """Returns a hook that keeps the last step's weights, where nothing is evaluated."""

    def hook(run: RunState, step: int) -> RunState:
        if step != last_step:
            return run
        save_best(run, step)
        return dataclasses.replace(run, best=Best(step, float(step)))

    return hook


def save_hook(
    save: Callable[[RunState, int, bool], None], *, every_steps: int, last_step: int
) -> Hook:
    """Returns a hook that saves the run every so many steps, and at the last one.

    Args:
        save: (run, step, True); it must be the last hook of a boundary.
        every_steps: save at each multiple of this but 0.
        last_step: save at this one too.
    """

    def hook(run: RunState, step: int) -> RunState:
        if step and (step % every_steps == 0 or step == last_step):
            save(run, step, True)
        return run

    return hook


def save_run(
    directory: pathlib.Path,
    run: RunState,
    step: int,
    *,
    boundary_done: bool,
    train_steps: int,
    keep: int,
) -> None:
    """Saves all a resumed run needs; the table as the weights that made it, if any did.

    Args:
        directory: of the run's checkpoints.
        run: what to save.
        step: the steps done.
        boundary_done: the hooks of this step's boundary have run.
        train_steps: that it is to do; hooks know the last one.
        keep: checkpoints that stay.
    """
    tree = {"train": run.train}
    table = save_more = None
    if run.table is not None:
        if run.table_params is None:
            save_more = lambda folder: save_table(run.table, folder / TABLE)  # noqa: E731
        else:
            tree["table_params"] = run.table_params
        table = {
            "is_saved": run.table_params is None,
            "generation": run.table.generation,
            "step": run.table.table_step,
            "evidence_digest": run.table.evidence_digest,
        }
    best = None if run.best is None else dataclasses.asdict(run.best)
    info = {
        "boundary_done": boundary_done,
        "train_steps": train_steps,
        "table": table,
        "best": best,
    }
    train_state.save_checkpoint(
        directory, step, tree, info, keep=keep, save_more=save_more
    )


def check_same_evidence(
    directory: pathlib.Path, info: dict, digest: str | None
) -> None:
    """Raises ConfigError where a saved run was trained on other passages.

    Args:
        directory: of the run's checkpoints.
        info: of one of them.
        digest: of the evidence given now; None: none is.
    """
    held = info["table"]
    if held is not None and held["evidence_digest"] != digest:
        raise ConfigError(
            f"{directory} was trained on other passages than those given now: use "
            "the same PASSAGES, or another MODEL_DIR."
        )


def resume_run(
    directory: pathlib.Path,
    info: dict,
    fresh: RunState,
    refresher: Refresher | None,
    passage_side: Callable[[Params], Params],
    *,
    report: Callable[[str], None],
    parts: pathlib.Path | None = None,
) -> RunState:
    """Returns a saved run.

    The table in use is built again from the weights that made it, which on the same
    devices gives the same bits, or read where it holds rows of several steps.

    Args:
        directory: of the run's checkpoints.
        info: of the newest one, from `train_state.read_info`.
        fresh: a run before its first step, for shapes and layout.
        refresher: embeds the evidence; None where the run has no table.
        passage_side: as for `refresh_hook`.
        report: told of a refresh that takes long.
        parts: as for `refresh_hook`, and another folder.

    Raises:
        ConfigError: it is of another model.
    """
    held = info["table"]
    tree = {"train": fresh.train}
    # Checkpoints written before there were saved tables do not say.
    is_saved = held is not None and held.get("is_saved", False)
    if held is not None and not is_saved:
        tree["table_params"] = passage_side(fresh.train.params)
    tree = train_state.restore_checkpoint(
        directory, info, jax.tree.map(abstract_leaf, tree)
    )
    run = RunState(
        train=tree["train"], best=None if info["best"] is None else Best(**info["best"])
    )
    if is_saved:
        path = pathlib.Path(directory) / f"checkpoint_{info['step']}" / TABLE
        table = load_table(path, refresher.mesh, verify=False, int8=refresher.int8)
        check_table(refresher, table)
        run = dataclasses.replace(run, table=table)
    elif held is not None:
        table = refresh(
            refresher,
            tree["table_params"],
            step=held["step"],
            generation=held["generation"],
            on_progress=watch_refresh(refresher, report),
            parts=parts,
        )
        run = dataclasses.replace(run, table=table, table_params=tree["table_params"])
    return run


def log_metrics(
    writer: MetricsWriter | None,
    *,
    every_steps: int,
    learning_rate: Callable[[jax.Array], jax.Array],
) -> Observer:
    """Returns an observer that writes the metrics of every so many steps.

    They are the metrics of that one step and no mean over several, so a resumed run
    writes what the uninterrupted one does.

    Args:
        writer: on the first process only.
        every_steps: between records.
        learning_rate: of the number of updates made before a step.
    """

    def observe(step: int, metrics: dict) -> None:
        if writer is None or step % every_steps:
            return
        rate = float(learning_rate(jnp.int32(step - 1)))
        values = {name: float(value) for name, value in metrics.items()}
        writer.write(step, {**values, "learning_rate": rate})

    return observe


def show_progress(
    name: str, *, first_step: int, train_steps: int, every_seconds: float = 5.0
) -> Observer:
    """Returns an observer that shows steps, loss, speed and time left on stderr.

    On a terminal one line is rewritten; elsewhere a line is added now and then.
    """
    is_terminal = sys.stderr.isatty()
    every_seconds = 0.5 if is_terminal else every_seconds
    started = shown = time.monotonic()

    def observe(step: int, metrics: dict) -> None:
        nonlocal started, shown
        now = time.monotonic()
        if step == first_step + 1:
            # The first step compiles; it says nothing of the speed of the others.
            metrics["loss"].block_until_ready()
            started = shown = time.monotonic()
        elif now - shown >= every_seconds or step == train_steps:
            loss = float(metrics["loss"])
            shown = time.monotonic()
            speed = (step - first_step - 1) / max(shown - started, 1e-9)
            left = (train_steps - step) / max(speed, 1e-9)
            line = (
                f"{name}: step {step:,}/{train_steps:,}  loss {loss:.4f}  "
                f"{speed:.1f} steps/s  ETA {int(left // 60)}:{int(left % 60):02d}"
            )
            end = "\n" if not is_terminal or step == train_steps else ""
            sys.stderr.write(("\r\x1b[K" if is_terminal else "") + line + end)
            sys.stderr.flush()

    return observe


def abstract_leaf(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """Returns the shape, dtype and layout of an array, to restore one like it."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
