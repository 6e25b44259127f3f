"""What was measured, for people to read: a table, and accuracy against k."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from art_jax.errors import ConfigError, require_package

_COLUMN = 9
_TABLE_WIDTH = 100
_BAR_WIDTH = 50

Metrics = Mapping[str, float]


def format_table(
    metrics_by_name: Mapping[str, Metrics], depths: Sequence[int] = (1, 5, 20, 50, 100)
) -> str:
    """Measures as a table of text, one row a name.

    Columns are measures, as many as a line holds; of top-k accuracies those at
    `depths`. What a row has not got is left blank.
    """
    shown = [
        name
        for name in dict.fromkeys(
            name for row in metrics_by_name.values() for name in row
        )
        if not name.startswith("num_") and _depth_of_accuracy(name) in (None, *depths)
    ]
    width = max(map(len, metrics_by_name)) + 2
    headings = {name: short_name(name) for name in shown}
    sizes = {name: max(_COLUMN, len(headings[name]) + 2) for name in shown}
    while shown and width + sum(sizes[name] for name in shown) > _TABLE_WIDTH:
        shown.pop()
    lines = [" " * width + "".join(headings[name].rjust(sizes[name]) for name in shown)]
    for row, metrics in metrics_by_name.items():
        values = (
            (f"{metrics[name]:.3f}" if name in metrics else "").rjust(sizes[name])
            for name in shown
        )
        lines.append((row.ljust(width) + "".join(values)).rstrip())
    return "\n".join(lines)


def short_name(measure: str) -> str:
    """A measure's name as a heading: "top-20", "ndcg@10"."""
    depth = _depth_of_accuracy(measure)
    return f"top-{depth}" if depth else measure.replace("_at_", "@")


def mean_metrics(metrics_by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """The mean over tasks of the measures that all of them have.

    "num_questions" is the sum: each task counts the same, however many it has.
    """
    every = list(metrics_by_task.values())
    shared = [name for name in every[0] if all(name in one for one in every)]
    means = {
        name: float(np.mean([metrics[name] for metrics in every])) for name in shared
    }
    total = sum(int(metrics["num_questions"]) for metrics in every)
    return {**means, "num_questions": total}


def accuracy_curve(hits: np.ndarray) -> np.ndarray:
    """Top-k accuracy at every k, [K] float64, of hits [n, K] bool."""
    return np.logical_or.accumulate(hits, axis=1).mean(axis=0)


def format_curves(curves: Mapping[str, np.ndarray]) -> str:
    """Accuracy against k as bars of text, one block a name.

    Args:
        curves: of each name [K] float, accuracy at k = 1, 2, ..., K.
    """
    lines = []
    for name, curve in curves.items():
        lines.append(f"{name}: top-k accuracy")
        for k in (k for k in _LADDER if k <= len(curve)):
            bar = "#" * round(_BAR_WIDTH * float(curve[k - 1]))
            lines.append(f"{k:>6}  {bar:<{_BAR_WIDTH}} {curve[k - 1]:.3f}")
    return "\n".join(lines)


def plot_curves(curves: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Draws accuracy against k into a PNG file.

    Raises:
        ConfigError: matplotlib is not installed, or the name does not end in .png.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no display is asked for
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(np.arange(1, len(curve) + 1), curve, label=name)
    axes.set(xscale="log", xlabel="k", ylabel="top-k accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format="png", dpi=150)
    unfinished.replace(path)


def check_plot(path: str | os.PathLike) -> None:
    """Raises ConfigError where `plot_curves` would, before anything is measured."""
    if pathlib.Path(path).suffix.lower() != ".png":
        raise ConfigError(f"{path}: the name of a plot must end in .png")
    require_package("matplotlib", purpose="--plot", extra="plot")


_LADDER = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]


def _depth_of_accuracy(measure: str) -> int | None:
    if measure.startswith("top_") and measure.endswith("_accuracy"):
        return int(measure.removeprefix("top_").removesuffix("_accuracy"))
    return None
