"""Training checkpoints: an Orbax tree, what describes it, and digests of both.

    <directory>/checkpoint_1234/state/         Orbax, any tree of arrays
    <directory>/checkpoint_1234/run.json       facts about the run at that step
    <directory>/checkpoint_1234/manifest.json  bytes and digest of every file

A checkpoint is written beside its place and moved there whole, so a kill leaves the
one before it. Restoring verifies the digests and falls back to the newest good step.
"""

import json
import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from art_jax import atomic, manifest, partitioning
from art_jax.errors import ConfigError, CorruptError

_NAME = re.compile(r"checkpoint_(0|[1-9][0-9]*)")
_SET_ASIDE = re.compile(rf"\.({_NAME.pattern})\.replaced")


def all_steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps that have a finished checkpoint, in rising order."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        return []
    folders = (path.name for path in directory.iterdir() if path.is_dir())
    matches = map(_NAME.fullmatch, folders)
    return sorted(int(match[1]) for match in matches if match)


def save_checkpoint(
    directory: pathlib.Path,
    step: int,
    tree: Any,
    info: dict,
    *,
    keep: int | None,
    save_more: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Writes a checkpoint, all of it or nothing, then removes the oldest. Collective.

    Args:
        directory: of all checkpoints of a run.
        step: its number; a checkpoint of the same step is replaced.
        tree: of arrays, laid out on any number of devices.
        info: JSON values that describe the run at that step.
        keep: how many of the newest checkpoints stay, >= 1; later steps are of an
            attempt that this run did not go on from, and go. None: all stay.
        save_more: writes more into the checkpoint's folder, given to it; `run.json`,
            `state` and the manifest are taken. Called on every process.
    """
    directory = pathlib.Path(directory).absolute()
    final = directory / f"checkpoint_{step}"
    unfinished = atomic.unfinished_directory(final)
    if jax.process_index() == 0:
        atomic.new_directory(final)
    partitioning.barrier("checkpoint_start")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(unfinished / "state", tree)
        checkpointer.wait_until_finished()
    if save_more is not None:
        save_more(unfinished)
    partitioning.barrier("checkpoint_written")
    if jax.process_index() == 0:
        text = json.dumps({**info, "step": step, "arrays": _shapes(tree)}, indent=1)
        (unfinished / "run.json").write_text(text, encoding="utf-8")
        manifest.write_manifest(unfinished, {"kind": "training_checkpoint"})
        atomic.finish_directory(final)
        if keep is not None:
            past = [old for old in all_steps(directory) if old <= step]
            _remove_others(directory, past[-keep:])
    partitioning.barrier("checkpoint_saved")


def keep_only(directory: pathlib.Path, steps: Collection[int]) -> None:
    """Removes the checkpoints of all other steps. Collective."""
    if jax.process_index() == 0:
        _remove_others(pathlib.Path(directory), steps)
    partitioning.barrier("checkpoints_removed")


def all_info(directory: pathlib.Path) -> list[dict]:
    """Returns the facts of every checkpoint that can be read, in order of step."""
    found = []
    for step in all_steps(directory):
        path = pathlib.Path(directory) / f"checkpoint_{step}" / "run.json"
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # Damaged: no run goes on from it.
    return found


def read_info(directory: pathlib.Path, *, step: int | None = None) -> dict | None:
    """Returns the facts of the newest undamaged checkpoint, None where there is none.

    Damaged ones are named in the log and passed over.

    Args:
        directory: of all checkpoints of a run.
        step: the one to read; None: the newest.

    Raises:
        CorruptError: there are checkpoints and every one is damaged, or that of
            `step` is damaged or gone.
    """
    directory = pathlib.Path(directory)
    _recover(directory)
    if step is not None:
        path = directory / f"checkpoint_{step}"
        manifest.verify_manifest(path)
        return json.loads((path / "run.json").read_text(encoding="utf-8"))
    steps = all_steps(directory)
    for step in reversed(steps):
        path = directory / f"checkpoint_{step}"
        try:
            manifest.verify_manifest(path)
            return json.loads((path / "run.json").read_text(encoding="utf-8"))
        except CorruptError as error:
            logging.warning("passing over a damaged checkpoint: %s", error)
    if steps:
        raise CorruptError(
            f"every checkpoint in {directory} is damaged (steps {steps}): remove the "
            "folder to start again, or restore it from a copy."
        )
    return None


def restore_checkpoint(directory: pathlib.Path, info: dict, abstract_tree: Any) -> Any:
    """Returns the tree of the checkpoint `info` was read from.

    Args:
        directory: of all checkpoints of a run.
        info: from `read_info`.
        abstract_tree: jax.ShapeDtypeStruct leaves with shardings: where and how each
            array is to be laid out, on any number of devices.

    Raises:
        ConfigError: the checkpoint is of another model; names the first arrays that
            differ.
    """
    path = pathlib.Path(directory).absolute() / f"checkpoint_{info['step']}"
    check_same_arrays(info["arrays"], _shapes(abstract_tree), path)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path / "state", abstract_tree)


def check_same_arrays(held: dict, wanted: dict, path: pathlib.Path) -> None:
    """Raises where a checkpoint's arrays are not those the model has.

    Args:
        held: array path -> [shape, dtype] of the checkpoint.
        wanted: the same of the model.
        path: of the checkpoint, for the message.

    Raises:
        ConfigError: they differ.
    """
    differences = [
        f"{name}: the checkpoint has {held.get(name, 'nothing')}, "
        f"the model {wanted.get(name, 'nothing')}"
        for name in sorted({*held, *wanted})
        if held.get(name) != wanted.get(name)
    ]
    if differences:
        shown = "\n  ".join(differences[:5])
        raise ConfigError(
            f"{path} is a checkpoint of another model; {len(differences)} arrays "
            f"differ:\n  {shown}\nUse the configuration it was made with, or another "
            "MODEL_DIR."
        )


def _remove_others(directory: pathlib.Path, steps: Collection[int]) -> None:
    for step in all_steps(directory):
        if step not in steps:
            atomic.remove_directory(directory / f"checkpoint_{step}")


def _recover(directory: pathlib.Path) -> None:
    """Brings back steps that were being replaced when the run was killed."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    for match in filter(None, map(_SET_ASIDE.fullmatch, names)):
        atomic.recover_directory(directory / match[1])


def _shapes(tree: Any) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [
            list(leaf.shape),
            np.dtype(leaf.dtype).name,
        ]
        for path, leaf in leaves
    }
