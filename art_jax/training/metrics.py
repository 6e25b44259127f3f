"""Metrics of a run: one JSON line a record, and TensorBoard."""

import json
import pathlib
from collections.abc import Mapping

from art_jax import atomic


class MetricsWriter:
    """Writes scalars to `<directory>/metrics.jsonl` and to TensorBoard events.

    A writer opened at step s first drops the lines after s, so that a run that was
    killed and resumed holds every step once.
    """

    def __init__(self, directory: pathlib.Path, *, from_step: int):
        from tensorboardX import SummaryWriter

        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl"
        _drop_lines_after(self._path, from_step)
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


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # A line that a kill cut short.
        if record["step"] <= step:
            kept.append(line + "\n")
    atomic.write_text(path, "".join(kept))
