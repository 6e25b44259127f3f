"""Metrics of a run: one JSON line a record, and TensorBoard."""

import json
import pathlib
from collections.abc import Mapping

from art_jax import atomic

# Of the names of measures that a boundary's evaluation writes.
DEV_PREFIX = "dev/"


class MetricsWriter:
    """Writes scalars to `<directory>/metrics.jsonl` and to TensorBoard events.

    A writer first drops the records of what will be done again, so that a run that
    was killed and resumed holds every step and every evaluation once.
    """

    def __init__(self, directory: pathlib.Path, *, from_step: int, boundary_done: bool):
        """Opens both files.

        Args:
            directory: made if it is not there.
            from_step: the steps done.
            boundary_done: the hooks of that step's boundary ran too, the evaluation
                among them.
        """
        from tensorboardX import SummaryWriter

        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl"
        _drop_undone(self._path, from_step, boundary_done)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(directory), purge_step=from_step + 1 if from_step else None
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one record; NaN and infinity are kept, as strings."""
        finite = {
            name: value if abs(value) < float("inf") else str(value)
            for name, value in scalars.items()
        }
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._board.close()


def read_metrics(directory: pathlib.Path) -> list[dict]:
    """Returns the records of a run's `metrics.jsonl`, in order."""
    text = (pathlib.Path(directory) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _drop_undone(path: pathlib.Path, step: int, boundary_done: bool) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # A line that a kill cut short.
        is_dev = any(name.startswith(DEV_PREFIX) for name in record)
        if record["step"] < step or (
            record["step"] == step and (boundary_done or not is_dev)
        ):
            kept.append(line + "\n")
    atomic.write_text(path, "".join(kept))
