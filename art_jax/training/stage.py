"""One stage of a run: a method, how long, how often; trained, resumed, best kept."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from art_jax import partitioning
from art_jax.checkpoints import train_state
from art_jax.errors import ConfigError
from art_jax.index.refresh import Refresher
from art_jax.training import hooks, loop, update
from art_jax.training.metrics import MetricsWriter
from art_jax.training.optimizers import AdamW
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one method is trained; the defaults are ART's.

    name: of its folder and in progress lines.
    method: has `bind(workspace, batch_size=, seed=) -> loop.Problem`.
    train_steps: updates in all.
    batch_size: examples a step, over all devices.
    optimizer: builds the optax transformation.
    refresh_every_steps: steps between two tables.
    eval_every_steps: steps between two evaluations; a multiple of
        `refresh_every_steps`, so that no evaluation reads a stale table.
    save_every_steps: steps between two checkpoints.
    log_every_steps: steps between two records of metrics.
    keep_checkpoints: how many of the newest stay.
    choose_by: the measure on held-out questions that picks the step whose weights the
        stage gives; None: the last step's.
    max_skipped_in_a_row: steps with a non-finite loss before the run stops.
    seed: of batches, dropout and, in the first stage, the initial weights.
    """

    name: str
    method: Any
    train_steps: int
    batch_size: int = 64
    optimizer: AdamW = AdamW()
    refresh_every_steps: int = 500
    eval_every_steps: int = 500
    save_every_steps: int = 500
    log_every_steps: int = 10
    keep_checkpoints: int = 2
    choose_by: str | None = "top_20_accuracy"
    max_skipped_in_a_row: int = 20
    seed: int = 1234

    def __post_init__(self):
        intervals = {
            name: getattr(self, name)
            for name in (
                "train_steps",
                "refresh_every_steps",
                "eval_every_steps",
                "save_every_steps",
                "log_every_steps",
                "keep_checkpoints",
            )
        }
        for name, value in intervals.items():
            if value < 1:
                raise ConfigError(f"{name} of stage {self.name!r} is {value}: >= 1.")
        if self.eval_every_steps % self.refresh_every_steps:
            raise ConfigError(
                f"stage {self.name!r} evaluates every {self.eval_every_steps} steps and "
                f"refreshes every {self.refresh_every_steps}: make the first a "
                "multiple of the second, or an evaluation reads a stale table."
            )


def run_stage(
    stage: Stage,
    workspace: Any,
    params: Params,
    *,
    refresher: Refresher,
    passage_side: Callable[[Params], Params],
    directory: pathlib.Path,
    evaluate: Callable[[loop.RunState], Mapping[str, float]] | None,
    report: Callable[[str], None],
) -> Params:
    """Returns the parameters the stage ends with: the best on held-out questions.

    Goes on from the newest checkpoint in `directory` where there is one.

    Args:
        stage: what to do.
        workspace: what the method is bound to.
        params: where to start; not used up.
        refresher: embeds the evidence.
        passage_side: the part of the parameters `refresher.encode` takes.
        directory: of this stage's checkpoints and metrics.
        evaluate: run -> measures on held-out questions; None: there are none.
        report: told one line at each event.

    Raises:
        PreemptedError: a signal came; the run was saved.
    """
    directory = pathlib.Path(directory)
    checkpoints, best = directory / "checkpoints", directory / "best"
    replicated = partitioning.replicated(workspace.mesh)
    info = train_state.read_info(checkpoints)
    if info is not None and info["finished"]:
        report(f"{stage.name}: finished before, at step {info['step']}")
        return _load_best(best, params)

    problem = stage.method.bind(
        workspace, batch_size=stage.batch_size, seed=stage.seed
    )
    optimizer = stage.optimizer.build(stage.train_steps)
    run = loop.RunState(
        jax.jit(
            lambda params: update.init_state(params, optimizer),
            out_shardings=replicated,
        )(loop.copy_params(params))
    )
    resumed = None
    if info is not None:
        resumed = hooks.resume_run(checkpoints, info, run, refresher, passage_side)
        run, boundary_done = resumed
        report(f"{stage.name}: going on from step {int(run.train.step)}")
    first_step = int(run.train.step)
    is_first_process = jax.process_index() == 0
    writer = MetricsWriter(directory, from_step=first_step) if is_first_process else None

    def save(run: loop.RunState, step: int, boundary_done: bool) -> None:
        hooks.save_run(
            checkpoints,
            run,
            step,
            boundary_done=boundary_done,
            finished=boundary_done and step >= stage.train_steps,
            keep=stage.keep_checkpoints,
        )

    def save_best(run: loop.RunState, step: int) -> None:
        train_state.save_checkpoint(
            best, step, {"params": run.train.params}, {}, keep=1
        )

    last_step = stage.train_steps
    run_hooks = [
        hooks.refresh_hook(
            refresher,
            passage_side,
            every_steps=stage.refresh_every_steps,
            last_step=last_step,
            report=report,
        )
    ]
    if evaluate is None:
        run_hooks.append(hooks.keep_last_hook(save_best, last_step=last_step))
    else:
        run_hooks.append(
            hooks.evaluate_hook(
                evaluate,
                measure=stage.choose_by,
                every_steps=stage.eval_every_steps,
                last_step=last_step,
                writer=writer,
                save_best=save_best,
                report=report,
            )
        )
    run_hooks.append(
        hooks.save_hook(save, every_steps=stage.save_every_steps, last_step=last_step)
    )
    try:
        run = loop.run_steps(
            run,
            problem,
            update.make_update(problem.loss, optimizer, state_sharding=replicated),
            train_steps=stage.train_steps,
            key=jax.random.key(stage.seed),
            hooks=run_hooks,
            observers=[
                loop.stop_when_diverged(
                    stage.max_skipped_in_a_row, every_steps=stage.log_every_steps
                ),
                hooks.log_metrics(
                    writer,
                    every_steps=stage.log_every_steps,
                    learning_rate=stage.optimizer.schedule(stage.train_steps),
                ),
                hooks.show_progress(
                    stage.name, first_step=first_step, train_steps=stage.train_steps
                ),
            ],
            save_on_signal=save,
            first_boundary_done=resumed is not None and boundary_done,
        )
    finally:
        if writer is not None:
            writer.close()
    return _load_best(best, params)


def _load_best(directory: pathlib.Path, params: Params) -> Params:
    """Returns the stage's result, laid out as `params`."""
    info = train_state.read_info(directory)
    abstract = {"params": jax.tree.map(hooks.abstract_leaf, params)}
    return train_state.restore_checkpoint(directory, info, abstract)["params"]
