"""The folder of a run and its console: what all trainings have in common."""

import difflib
import json
import pathlib
import platform
import sys
import time
from importlib import metadata

import jax

from art_jax import atomic
from art_jax.errors import ConfigError
from art_jax.training.stage import Stage
from art_jax.types import Params


class Clock:
    """Wall time by part: `lap(name)` adds what went by since the last lap."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to `name`."""
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def report(line: str) -> None:
    """Prints one line of progress, from the first process, on stderr."""
    if jax.process_index() == 0:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def check_model_dir(folder: pathlib.Path) -> None:
    """Raises ConfigError where the folder holds something that is no run."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"MODEL_DIR {folder} is a file: give a folder.")
    if any(folder.iterdir()) and not (folder / "env.json").exists():
        known = {"tokenizers", "evidence", "data", "config.gin"}
        strange = [path.name for path in folder.iterdir() if path.name not in known]
        strange = [name for name in strange if not name.startswith(".")]
        if strange:
            raise ConfigError(
                f"MODEL_DIR {folder} holds {strange[0]!r} and no run of art-jax: give "
                "a new folder."
            )


def check_stage(stage: Stage, workspace) -> None:
    """Raises ConfigError, naming the stage, where its method cannot be bound."""
    try:
        stage.method.check(workspace, stage.batch_size, stage.num_chunks)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name!r}: {error}") from error


def write_facts(folder: pathlib.Path, params: Params) -> None:
    """Writes config.gin, env.json and model-info.txt, as T5X users expect them.

    Settings that differ from those in a config.gin that is there are reported: a run
    that goes on follows the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "python": sys.version,
        "platform": platform.platform(),
        "command": sys.argv,
        "devices": [str(device) for device in jax.devices()],
        "process_count": jax.process_count(),
        "packages": {
            name: metadata.version(name)
            for name in ("art-jax", "jax", "jaxlib", "flax", "optax", "numpy")
        },
    }
    atomic.write_text(folder / "env.json", json.dumps(environment, indent=1))
    lines, total = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        total += leaf.size
        lines.append(
            f"Variable {name} size {leaf.size} shape {tuple(leaf.shape)} "
            f"partition spec {leaf.sharding.spec}"
        )
    lines.append(f"Total number of parameters: {total}")
    atomic.write_text(folder / "model-info.txt", "\n".join(lines) + "\n")
    if "gin" in sys.modules:
        path, settings = folder / "config.gin", sys.modules["gin"].config_str()
        if path.exists():
            changes = changed_settings(path.read_text(encoding="utf-8"), settings)
            if changes:
                report("settings have changed since the last start, and count from now")
                report("\n".join(f"  {line}" for line in changes))
        atomic.write_text(path, settings)


def changed_settings(before: str, after: str) -> list[str]:
    """The lines that two gin files do not share: "- K = 8", "+ K = 16"; no comments."""
    lines = (
        [line for line in text.splitlines() if line and not line.startswith("#")]
        for text in (before, after)
    )
    return [line for line in difflib.ndiff(*lines) if line[0] in "+-"]
