"""The training loop, one for every method.

At each step's boundary the hooks run in order: refresh the table, evaluate, save. A
method supplies a batch and a loss; it never owns a loop.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from art_jax.errors import DivergedError, PreemptedError
from art_jax.index.table import EmbeddingTable
from art_jax.training import preemption
from art_jax.training.update import Batch, PrepareFn, Resources
from art_jax.types import Params, TrainState


@dataclasses.dataclass(frozen=True)
class Best:
    """The best step on held-out questions so far; its weights are in a file.

    step: whose weights were best.
    value: of the measure they were chosen by; higher is better.
    """

    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class RunState:
    """All that a run carries from step to step, and that a checkpoint holds.

    train: step, parameters, optimiser.
    table: the embedding table in use, None before the first refresh.
    table_params: copies of the parameters that made it, from which a resumed run
        rebuilds it bit for bit. None: its rows are of several steps, so a checkpoint
        holds the table itself.
    best: None before the first evaluation.
    """

    train: TrainState
    table: EmbeddingTable | None = None
    table_params: Params | None = None
    best: Best | None = None


Hook = Callable[[RunState, int], RunState]  # (run, step) -> run
Observer = Callable[[int, dict], None]  # (steps done, metrics on the device)


WriteBack = Callable[[EmbeddingTable, dict], tuple[EmbeddingTable, dict]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a method supplies: a batch and a loss.

    make_batch: step -> batch, a pure function of the step, laid out on the mesh.
    loss: (params, batch, resources, key) -> (loss, metrics), differentiated, chunk by
        chunk where the stage asks for chunks.
    prepare: (params, batch, resources, key) -> batch, given the whole batch before
        the loss is, in the same compiled program and without a gradient.
    resources: table -> the arrays the loss reads and does not train.
    complete: (train state, batch, resources, key) -> batch, run before the update;
        for what cannot happen on the device, such as reading a memory map.
    write_back: (table, metrics) -> (table, metrics), run after the update; writes
        embeddings that the step made into the table and leaves the other metrics.
    flush: called before each save; puts on disk what the method keeps there.
    frozen: names at the top of the parameter tree whose arrays stay as they are. A
        zero gradient is not enough: weight decay would still shrink them.
    stacked: names at the top of the parameter tree whose arrays are stacks of towers,
        and of how many; a tower that a step does not use stays as it is, too.
    evaluate: run -> measures of the method's own on held-out examples, beside those
        of held-out questions; None: it has none.
    """

    make_batch: Callable[[int], Batch]
    loss: Callable[..., tuple[jax.Array, dict]]
    prepare: PrepareFn | None = None
    resources: Callable[[EmbeddingTable | None], Resources] = lambda table: ()
    complete: Callable[[TrainState, Batch, Resources, jax.Array], Batch] | None = None
    write_back: WriteBack | None = None
    flush: Callable[[], None] = lambda: None
    frozen: tuple[str, ...] = ()
    stacked: Mapping[str, int] = dataclasses.field(default_factory=dict)
    evaluate: Callable[[RunState], Mapping[str, float]] | None = None


def run_steps(
    run: RunState,
    problem: Problem,
    update: Callable[..., tuple[TrainState, dict]],
    *,
    train_steps: int,
    key: jax.Array,
    hooks: Sequence[Hook] = (),
    observers: Sequence[Observer] = (),
    save_on_signal: Callable[[RunState, int, bool], None] | None = None,
    first_boundary_done: bool = False,
) -> RunState:
    """Returns the run after `train_steps` steps, with the hooks run at its end too.

    Args:
        run: where to start; its step may be above 0.
        problem: the method's batch and loss.
        update: from `make_update`, of the problem's `loss` and `prepare`.
        train_steps: the step to stop at.
        key: the run's; each step folds its number in.
        hooks: run in order at every step's boundary, before that step.
        observers: told the metrics after every step.
        save_on_signal: (run, step, whether this boundary's hooks are done), called
            when a signal stops the run.
        first_boundary_done: the hooks of the first boundary ran before the checkpoint
            this run resumes from.

    Raises:
        PreemptedError: a signal came; the run was saved.
    """
    step = int(run.train.step)
    boundary_done = first_boundary_done
    try:
        while True:
            if not boundary_done:
                for hook in hooks:
                    run = hook(run, step)
            boundary_done = True
            if step >= train_steps:
                return run
            preemption.poll_together(step)
            resources = problem.resources(run.table)
            batch = problem.make_batch(step)
            if problem.complete is not None:
                batch = problem.complete(run.train, batch, resources, key)
            train, metrics = update(run.train, batch, resources, key)
            run = dataclasses.replace(run, train=train)
            if problem.write_back is not None:
                table, metrics = problem.write_back(run.table, metrics)
                run = dataclasses.replace(run, table=table, table_params=None)
            step += 1
            boundary_done = False
            for observer in observers:
                observer(step, metrics)
    except PreemptedError:
        if save_on_signal is not None:
            save_on_signal(run, step, boundary_done)
        raise


def copy_params(params: Params) -> Params:
    """Returns copies that outlive the donation of `params` to the next update."""
    return jax.tree.map(lambda leaf: leaf.copy(), params)


def stop_when_diverged(max_skipped_in_a_row: int, *, every_steps: int) -> Observer:
    """Returns an observer that raises once too many steps in a row were skipped.

    Args:
        max_skipped_in_a_row: steps that may be skipped one after the other.
        every_steps: how often to look; looking waits for the device.
    """

    def observe(step: int, metrics: dict[str, Any]) -> None:
        if step % every_steps:
            return
        skipped = int(metrics["skipped_in_a_row"])
        if skipped > max_skipped_in_a_row:
            raise DivergedError(
                f"the loss or its gradient was not finite for {skipped} steps in a "
                f"row, up to step {step}; the weights are those of step "
                f"{step - skipped}. Lower the learning rate, or look at the data of "
                "those steps; the last checkpoint is undamaged."
            )

    return observe
