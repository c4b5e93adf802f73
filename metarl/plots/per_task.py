"""Results of each task: a CSV file, a table and a figure over the range of tasks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from metarl.errors import SettingsError
from metarl.evaluation.curves import AdaptationCurve
from metarl.evaluation.statistics import telling_steps
from metarl.plots.figures import BEFORE, COLOURS, INK, after_steps, style_axes
from metarl.tasks.files import result_path

TASKS_FILE = "tasks.csv"
_MAX_COLUMNS = 8  # for the task's values: tabular MDPs have hundreds
_MAX_STEPS = 4  # different numbers of adaptation steps in a figure
_MIN_TASKS = 3  # different tasks in a figure


def write_tasks(curve: AdaptationCurve, path: Path) -> None:
    """Writes a CSV file with a row per task: its values, and the metric after 0, 1, ... steps.

    The write is atomic: readers see either the old or the new file.

    Args:
        curve: A curve with `tasks`.
        path: The file.

    Raises:
        SettingsError: The curve has no tasks.
        CheckpointError: The file cannot be written.
    """
    names, values = _task_columns(curve)
    header = [*names, *(f"{curve.metric}_{k}" for k in range(len(curve.values)))]
    rows = np.concatenate((values, curve.values.T.numpy()), 1)
    with (
        result_path(path, "table") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"{x:.6g}" for x in row] for row in rows])


def tasks_table(path: Path) -> Table:
    """Reads a file of `write_tasks` into a table.

    Raises:
        SettingsError: The file does not exist.
    """
    if not path.is_file():
        raise SettingsError(
            "This experiment has no results of single tasks; those on control tasks have."
        )
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    table = Table(box=SIMPLE)
    for name in header:
        table.add_column(escape(name.replace("_", " ")), justify="right")
    for row in rows:
        table.add_row(*(f"{float(x):.4g}" for x in row))
    return table


def tasks_figure(curve: AdaptationCurve, title: str = "") -> Figure | None:
    """Draws the metric over the range of tasks, before and after adaptation.

    Tasks with one value are drawn as a line per number of steps, tasks with two values as a colour
    map per number of steps.

    Args:
        curve: A curve with `tasks`.
        title: Title of the figure.

    Returns:
        The figure. None if tasks have more than two values, if fewer than three tasks are
        different, or if tasks with two values lie on one line.

    Raises:
        SettingsError: The curve has no tasks.
    """
    names, values = _task_columns(curve)
    if len(np.unique(values, axis=0)) < _MIN_TASKS or len(names) not in (1, 2):
        return None
    steps = telling_steps(len(curve.values) - 1, _MAX_STEPS)
    rows = [curve.values[k].numpy() for k in steps]
    if len(names) == 1:
        return _draw_lines(names[0], values[:, 0], curve.metric, steps, rows, title)
    if np.linalg.matrix_rank(values - values.mean(0)) < 2:  # on one line: no triangulation
        return None
    return _draw_maps(names, values, curve.metric, steps, rows, title)


def _task_columns(curve: AdaptationCurve) -> tuple[list[str], np.ndarray]:
    """Returns names and values [T, D] of the first numbers of each task, D at most 8."""
    if curve.tasks is None:
        raise SettingsError("Expected a curve of control tasks, which has `tasks`.")
    names, columns = [], []
    for name, value in curve.tasks.items():
        flat = value.reshape(len(value), -1).double().cpu().numpy()
        title = name.replace("_", " ")
        names += [title] if flat.shape[1] == 1 else [f"{title} {i}" for i in range(flat.shape[1])]
        columns.append(flat)
    return names[:_MAX_COLUMNS], np.concatenate(columns, 1)[:, :_MAX_COLUMNS]


def _draw_lines(
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


def _draw_maps(
    names: Sequence[str],
    values: np.ndarray,
    metric: str,
    steps: Sequence[int],
    rows: Sequence[np.ndarray],
    title: str,
) -> Figure:
    figure = Figure(figsize=(2.7 * len(steps) + 1.0, 3.4), layout="constrained")
    grid = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)[0]
    # Quantiles, because outliers would leave all other tasks in one colour.
    low, high = np.quantile(np.concatenate(rows), (0.02, 0.98))
    mesh = None
    for axes, step, row in zip(grid, steps, rows, strict=True):
        assert isinstance(axes, Axes)
        mesh = axes.tripcolor(
            values[:, 0], values[:, 1], row, shading="gouraud", cmap="viridis", vmin=low, vmax=high
        )
        axes.plot(values[:, 0], values[:, 1], ".", color="white", markersize=3, alpha=0.7)
        style_axes(axes)
        axes.grid(False)
        axes.set_aspect("equal")
        axes.set_title(after_steps(step), color=INK, fontsize=11)
        axes.set_xlabel(names[0].capitalize(), color=INK)
    grid[0].set_ylabel(names[1].capitalize(), color=INK)
    assert mesh is not None
    figure.colorbar(mesh, ax=list(grid), label=metric.capitalize(), shrink=0.85)
    figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    return figure
