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
from art_jax.training import hooks, loop, optimizers, update
from art_jax.training.metrics import MetricsWriter
from art_jax.training.optimizers import Adafactor, AdamW
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """How one method is trained; the defaults are ART's.

    name: of its folder and in progress lines.
    method: has `bind(workspace, batch_size=, seed=, num_chunks=, directory=)`, which
        returns a loop.Problem.
    train_steps: updates in all.
    batch_size: examples a step, over all devices.
    num_chunks: equal parts of a batch whose gradients are added up one after the
        other, in the memory of one; T5X's num_microbatches.
    optimizer: builds the optax transformation.
    refresh_every_steps: steps between two tables; None: the stage has no table, so
        its evaluations search for nothing and give the method's own measures alone.
        Where the passage tower is not trained the first table serves all along.
    rolling_refresh: embed an equal slice of the evidence again before each step
        instead of all of it now and then; after `refresh_every_steps` all of it is.
        Evaluations read the table as it is, so a step is chosen by it.
    keep_refresh_parts: write finished parts of a refresh to disk until it is done, so
        that a run killed during one need not begin it anew; for large evidence.
    eval_every_steps: steps between two evaluations; a multiple of
        `refresh_every_steps`, so that no evaluation reads a stale table.
    eval_from_step: no evaluation before this one.
    save_every_steps: steps between two checkpoints.
    log_every_steps: steps between two records of metrics.
    keep_checkpoints: how many of the newest stay.
    choose_by: the measure on held-out questions that picks the step whose weights the
        stage gives, with "-" before it where lower is better ("-average_rank"); None:
        the last step's.
    max_skipped_in_a_row: steps with a non-finite loss before the run stops.
    seed: of batches, dropout and, in the first stage, the initial weights.
    """

    name: str
    method: Any
    train_steps: int
    batch_size: int = 64
    num_chunks: int = 1
    optimizer: AdamW | Adafactor = AdamW()
    refresh_every_steps: int | None = 500
    rolling_refresh: bool = False
    keep_refresh_parts: bool = False
    eval_every_steps: int = 500
    eval_from_step: int = 0
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
                "num_chunks",
                "refresh_every_steps",
                "eval_every_steps",
                "save_every_steps",
                "log_every_steps",
                "keep_checkpoints",
            )
        }
        for name, value in intervals.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} of stage {self.name!r} is {value}: >= 1.")
        if self.refresh_every_steps is None:
            if self.rolling_refresh:
                raise ConfigError(
                    f"stage {self.name!r} has rolling_refresh and no refresh_every_"
                    "steps, in which to go through the evidence once: give it."
                )
        elif self.eval_every_steps % self.refresh_every_steps:
            raise ConfigError(
                f"stage {self.name!r} evaluates every {self.eval_every_steps} steps "
                f"and refreshes every {self.refresh_every_steps}: make the first a "
                "multiple of the second, or an evaluation reads a stale table."
            )


def run_stage(
    stage: Stage,
    workspace: Any,
    params: Params,
    *,
    directory: pathlib.Path,
    report: Callable[[str], None],
    refresher: Refresher | None = None,
    passage_side: Callable[[Params], Params] = lambda params: params,
    evaluate: Callable[[loop.RunState], Mapping[str, float]] | None = None,
) -> Params:
    """Returns the parameters the stage ends with: the best on held-out questions.

    Goes on from the newest checkpoint in `directory` where there is one; a finished
    stage is not trained again, unless `train_steps` has grown since.

    Args:
        stage: what to do.
        workspace: what the method is bound to.
        params: where to start; not used up. The run is laid out as they are.
        directory: of this stage's checkpoints and metrics.
        report: told one line at each event.
        refresher: embeds the evidence; None: what is trained has no table.
        passage_side: the part of the parameters `refresher.encode` takes.
        evaluate: run -> measures on held-out questions; None: there are none.

    Raises:
        PreemptedError: a signal came; the run was saved.
        ConfigError: the checkpoints are of a run with other passages or another model,
            or the stage asks for a table where there is no evidence.
        CorruptError: a file that is needed is damaged or gone.
    """
    if refresher is None and stage.refresh_every_steps is not None:
        raise ConfigError(
            f"stage {stage.name!r} refreshes every {stage.refresh_every_steps} steps, "
            "but what it trains has no table: set refresh_every_steps to None."
        )
    directory = pathlib.Path(directory)
    checkpoints, best = directory / "checkpoints", directory / "best"
    replicated = partitioning.replicated(workspace.mesh)
    info = train_state.read_info(checkpoints)
    boundary_done = False
    if info is not None:
        digest = None if refresher is None else refresher.evidence_digest
        hooks.check_same_evidence(checkpoints, info, digest)
        boundary_done = _is_boundary_done(stage, checkpoints, info)
        if boundary_done and info["step"] == stage.train_steps:
            report(f"{stage.name}: finished before, at step {info['step']}")
            return _load_best(best, info["best"]["step"], params)

    problem = stage.method.bind(
        workspace,
        batch_size=stage.batch_size,
        seed=stage.seed,
        num_chunks=stage.num_chunks,
        directory=directory,
    )
    optimizer = optimizers.freeze(_build_optimizer(stage, problem), problem.frozen)
    layout = update.state_layout(params, optimizer, replicated)
    run = loop.RunState(
        jax.jit(
            lambda params: update.init_state(params, optimizer), out_shardings=layout
        )(loop.copy_params(params))
    )
    if info is not None:
        run = hooks.resume_run(
            checkpoints,
            info,
            run,
            refresher,
            passage_side,
            report=report,
            parts=_parts(stage, directory / "resume_parts"),
        )
        report(f"{stage.name}: going on from step {int(run.train.step)}")
    first_step = int(run.train.step)
    is_first_process = jax.process_index() == 0
    writer = None
    if is_first_process:
        writer = MetricsWriter(
            directory, from_step=first_step, boundary_done=boundary_done
        )

    def save(run: loop.RunState, step: int, boundary_done: bool) -> None:
        problem.flush()
        hooks.save_run(
            checkpoints,
            run,
            step,
            boundary_done=boundary_done,
            train_steps=stage.train_steps,
            keep=stage.keep_checkpoints,
        )
        # Not before: until now a run that was killed went on from a checkpoint whose
        # best step is the one before.
        train_state.keep_only(best, _best_steps(checkpoints))

    def save_best(run: loop.RunState, step: int) -> None:
        train_state.save_checkpoint(
            best, step, {"params": run.train.params}, {}, keep=None
        )

    last_step = stage.train_steps
    run_hooks = []
    if stage.refresh_every_steps is not None:
        refresh = hooks.refresh_hook(
            refresher,
            passage_side,
            every_steps=stage.refresh_every_steps,
            last_step=last_step,
            report=report,
            parts=_parts(stage, directory / "refresh_parts"),
        )
        if "passage" in problem.frozen:
            refresh = hooks.refresh_once(refresh)
        elif stage.rolling_refresh:
            refresh = hooks.rolling_hook(
                refresher,
                passage_side,
                every_steps=stage.refresh_every_steps,
                refresh_all=refresh,
            )
        run_hooks.append(refresh)
    evaluate = _join_measures(
        problem.evaluate, None if stage.refresh_every_steps is None else evaluate
    )
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
                first_step=stage.eval_from_step,
            )
        )
    run_hooks.append(
        hooks.save_hook(save, every_steps=stage.save_every_steps, last_step=last_step)
    )
    observers = [
        # Logged first, so that the steps that went wrong are on record.
        hooks.log_metrics(
            writer,
            every_steps=stage.log_every_steps,
            learning_rate=stage.optimizer.schedule(stage.train_steps),
        ),
        loop.stop_when_diverged(
            stage.max_skipped_in_a_row, every_steps=stage.log_every_steps
        ),
    ]
    if is_first_process:
        observers.append(
            hooks.show_progress(
                stage.name, first_step=first_step, train_steps=stage.train_steps
            )
        )
    try:
        run = loop.run_steps(
            run,
            problem,
            update.make_update(
                problem.loss,
                optimizer,
                prepare=problem.prepare,
                num_chunks=stage.num_chunks,
                state_sharding=layout,
            ),
            train_steps=stage.train_steps,
            key=jax.random.key(stage.seed),
            hooks=run_hooks,
            observers=observers,
            save_on_signal=save,
            first_boundary_done=boundary_done,
        )
    finally:
        if writer is not None:
            writer.close()
    return _load_best(best, run.best.step, params)


def _build_optimizer(stage: Stage, problem: loop.Problem):
    if not problem.stacked:
        return stage.optimizer.build(stage.train_steps)
    return stage.optimizer.build_for_towers(stage.train_steps, problem.stacked)


def _join_measures(
    *evaluations: Callable[[loop.RunState], Mapping[str, float]] | None,
) -> Callable[[loop.RunState], Mapping[str, float]] | None:
    """Returns what gives the measures of all that are not None; None: all are."""
    given = [evaluate for evaluate in evaluations if evaluate is not None]
    if not given:
        return None
    return lambda run: {
        name: value for evaluate in given for name, value in evaluate(run).items()
    }


def _parts(stage: Stage, folder: pathlib.Path) -> pathlib.Path | None:
    return folder if stage.keep_refresh_parts else None


def _is_boundary_done(stage: Stage, checkpoints: pathlib.Path, info: dict) -> bool:
    """Returns whether the hooks of a saved step ran, all that this stage asks for.

    Raises:
        ConfigError: the saved run is past the stage's last step.
    """
    step = info["step"]
    if step > stage.train_steps:
        raise ConfigError(
            f"{checkpoints} holds step {step} of stage {stage.name!r}, but its "
            f"train_steps is {stage.train_steps}: ask for {step} or more, or use "
            "another MODEL_DIR."
        )
    # Where train_steps was changed to this step, its hooks did not know it as the last.
    is_new_end = step == stage.train_steps != info["train_steps"]
    return info["boundary_done"] and not is_new_end


def _best_steps(checkpoints: pathlib.Path) -> set[int]:
    """Returns the best steps of all checkpoints, any of which a run may go on from."""
    bests = [info["best"] for info in train_state.all_info(checkpoints)]
    return {best["step"] for best in bests if best is not None}


def _load_best(directory: pathlib.Path, step: int, params: Params) -> Params:
    """Returns the weights of the best step, laid out as `params`."""
    info = train_state.read_info(directory, step=step)
    abstract = {"params": jax.tree.map(hooks.abstract_leaf, params)}
    return train_state.restore_checkpoint(directory, info, abstract)["params"]
