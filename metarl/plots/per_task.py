"""What an adaptation did to each task: a table for files, a figure over the range of tasks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from metarl.errors import SettingsError
from metarl.evaluation.curves import AdaptationCurve
from metarl.evaluation.statistics import telling_steps
from metarl.plots.figures import BEFORE, COLOURS, INK, after_steps, style_axes
from metarl.tasks.files import atomic_path

TASKS_FILE = "tasks.csv"
_MOST_NUMBERS = 8  # of a task in a table; tabular MDPs have hundreds
_COLUMNS = 4
_FEWEST = 3  # tasks of a line, and corners of a triangle


def write_tasks(curve: AdaptationCurve, path: Path) -> None:
    """Writes a row of comma-separated values per task: what tells it apart, metric after 0.. steps.

    Args:
        curve: A curve that knows its tasks.
        path: The file; readers see the old one or the whole new one.
    """
    names, values = _told(curve)
    head = [*names, *(f"{curve.metric}_{k}" for k in range(len(curve.values)))]
    rows = np.concatenate((values, curve.values.T.numpy()), 1)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([[f"{x:.6g}" for x in row] for row in rows])


def tasks_table(path: Path) -> Table:
    """Returns the rows of a file of `write_tasks` as a table.

    Raises:
        SettingsError: There is no such file.
    """
    if not path.is_file():
        raise SettingsError("This experiment tells nothing of single tasks.")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    table = Table(box=SIMPLE)
    for name in head:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{float(x):.4g}" for x in row))
    return table


def tasks_figure(curve: AdaptationCurve, title: str = "") -> Figure | None:
    """Draws the metric over the range of tasks, before and after adaptation.

    A point and a line per number of steps where one number tells tasks apart, a map per number of
    steps where two do. Otherwise, and of fewer than three different tasks, there is no figure.

    Args:
        curve: A curve that knows its tasks.
        title: What is written above.
    """
    names, values = _told(curve)
    if len(np.unique(values, axis=0)) < _FEWEST or len(names) not in (1, 2):
        return None
    steps = telling_steps(len(curve.values) - 1, _COLUMNS)
    rows = [curve.values[k].numpy() for k in steps]
    if len(names) == 1:
        return _lines(names[0], values[:, 0], curve.metric, steps, rows, title)
    if np.linalg.matrix_rank(values - values.mean(0)) < 2:  # all on one line: no triangles
        return None
    return _maps(names, values, curve.metric, steps, rows, title)


def _told(curve: AdaptationCurve) -> tuple[list[str], np.ndarray]:
    """Returns names and values [T, D] of the numbers that tell tasks apart, at most eight."""
    if curve.tasks is None:
        raise SettingsError("Expected a curve of control tasks, which knows its tasks.")
    names, columns = [], []
    for name, value in curve.tasks.items():
        flat = value.reshape(len(value), -1).double().cpu().numpy()
        plain = name.replace("_", " ")
        names += [plain] if flat.shape[1] == 1 else [f"{plain} {i}" for i in range(flat.shape[1])]
        columns.append(flat)
    return names[:_MOST_NUMBERS], np.concatenate(columns, 1)[:, :_MOST_NUMBERS]


def _lines(
    name: str,
    values: np.ndarray,
    metric: str,
    steps: Sequence[int],
    rows: Sequence[np.ndarray],
    title: str,
) -> Figure:
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    order = values.argsort(kind="stable")
    for i, (step, row) in enumerate(zip(steps, rows, strict=True)):
        colour = BEFORE if step == 0 else COLOURS[(i - 1) % len(COLOURS)]
        axes.plot(
            values[order], row[order], color=colour, marker="o", markersize=4, linewidth=1.2,
            label=after_steps(step),
        )  # fmt: skip
    style_axes(axes)
    axes.set_xlabel(name.capitalize(), color=INK)
    axes.set_ylabel(metric.capitalize(), color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    return figure


def _maps(
    names: Sequence[str],
    values: np.ndarray,
    metric: str,
    steps: Sequence[int],
    rows: Sequence[np.ndarray],
    title: str,
) -> Figure:
    figure = Figure(figsize=(2.7 * len(steps) + 1.0, 3.4), layout="constrained")
    grid = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)[0]
    # Outliers would leave the rest in one colour.
    low, high = np.quantile(np.concatenate(rows), (0.02, 0.98))
    drawn = None
    for axes, step, row in zip(grid, steps, rows, strict=True):
        assert isinstance(axes, Axes)
        drawn = axes.tripcolor(
            values[:, 0], values[:, 1], row, shading="gouraud", cmap="viridis", vmin=low, vmax=high
        )
        axes.plot(values[:, 0], values[:, 1], ".", color="white", markersize=3, alpha=0.7)
        style_axes(axes)
        axes.grid(False)
        axes.set_aspect("equal")
        axes.set_title(after_steps(step), color=INK, fontsize=11)
        axes.set_xlabel(names[0].capitalize(), color=INK)
    grid[0].set_ylabel(names[1].capitalize(), color=INK)
    assert drawn is not None
    figure.colorbar(drawn, ax=list(grid), label=metric.capitalize(), shrink=0.85)
    figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    return figure
