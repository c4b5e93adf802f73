"""Figures of paths in the plane before and after each adaptation step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from metarl.errors import SettingsError, ShapeError
from metarl.plots.figures import BEFORE, COLOURS, INK, after_steps, style_axes

_GOAL = COLOURS[4]
# Side of the square over the extent of its content, and at most over that of starts and goals.
_MARGIN, _WIDEST = 1.12, 2.2


@dataclass(frozen=True)
class Paths:
    """The paths of one task.

    Attributes:
        goal: The goal (x, y), [2].
        steps: Number of adaptation steps -> paths, each [L, 2]: the start, then the point after
            each environment step.
        returns: Number of adaptation steps -> mean return, written into the panel.
        radius: Radius of a circle around the goal, such as the region with rewards; 0 draws none.
        title: Name of the task.
    """

    goal: np.ndarray
    steps: Mapping[int, Sequence[np.ndarray]]
    returns: Mapping[int, float] = field(default_factory=dict)
    radius: float = 0.0
    title: str = ""


def paths_figure(tasks: Sequence[Paths], *, title: str = "") -> Figure:
    """Draws the paths before and after each adaptation step: a row per task, a column per step.

    All panels show the same square. See `square`.

    Args:
        tasks: At least one task, all with the same numbers of steps.
        title: Title of the figure.

    Raises:
        SettingsError: `tasks` is empty, or a task has no paths.
        ShapeError: A path is not [L, 2], or the tasks have different numbers of steps.
    """
    columns = check_paths(tasks)
    size = (2.1 * len(columns) + 0.5, 2.1 * len(tasks) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(tasks), len(columns), sharex=True, sharey=True, squeeze=False)
    low, high = square(tasks)
    for row, task in zip(grid, tasks, strict=True):
        for axes, (i, step) in zip(row, enumerate(columns), strict=True):
            draw_paths(axes, task, step, BEFORE if step == 0 else COLOURS[(i - 1) % len(COLOURS)])
        row[0].set_ylabel(task.title, color=INK)
    for axes, step in zip(grid[0], columns, strict=True):
        axes.set_title(after_steps(step), color=INK, fontsize=11)
    grid[0, 0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    handles = [
        Line2D([], [], **_mark("o", INK, 5), label="start"),
        Line2D([], [], **_mark("*", _GOAL, 13), label="goal"),
        Line2D([], [], color=BEFORE, marker="o", markersize=3.5, label="path and its end"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def square(tasks: Sequence[Paths]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower left and the upper right corner of the square that pictures show, [2] each.

    The square contains all starts, goals and paths; paths that lead far away are cut off.
    """
    paths = [path for task in tasks for paths in task.steps.values() for path in paths]
    ends = np.concatenate([[task.goal for task in tasks], [path[0] for path in paths]])
    low, high = ends.min(0), ends.max(0)
    reach = _WIDEST * max(float((high - low).max()), 1e-6) / 2
    middle = (low + high) / 2
    points = np.concatenate([*paths, ends]).clip(middle - reach, middle + reach)
    low, high = points.min(0), points.max(0)
    half = _MARGIN * (high - low).max() / 2
    return (low + high) / 2 - half, (low + high) / 2 + half


def check_paths(tasks: Sequence[Paths]) -> list[int]:
    """Checks paths and returns the numbers of steps of all tasks in ascending order.

    Raises:
        SettingsError: `tasks` is empty, or a task has no paths.
        ShapeError: A path is not [L, 2], or the tasks have different numbers of steps.
    """
    if not tasks or not all(task.steps and all(task.steps.values()) for task in tasks):
        raise SettingsError("Expected at least one task, each with paths, got none.")
    columns = sorted(tasks[0].steps)
    for task in tasks:
        if sorted(task.steps) != columns:
            raise ShapeError(f"Expected paths after {columns} steps, got {sorted(task.steps)}.")
        shapes = {path.shape[1:] for paths in task.steps.values() for path in paths}
        if shapes != {(2,)} or task.goal.shape != (2,):
            raise ShapeError(
                f"Expected paths [L, 2] and a goal [2], got {shapes} and {task.goal.shape}."
            )
    return columns


def draw_paths(axes: Axes, task: Paths, step: int, colour: str) -> None:
    """Draws the paths of a task after `step` adaptation steps, with their start and goal."""
    for path in task.steps[step]:
        axes.plot(*path.T, color=colour, linewidth=0.9, alpha=0.6, zorder=2)
        axes.plot(*path[-1], **_mark("o", colour, 4), zorder=4)
    start = task.steps[step][0][0]
    axes.plot(*start, **_mark("o", INK, 5), zorder=5)
    if task.radius:
        axes.add_patch(Circle(tuple(task.goal), task.radius, color=_GOAL, alpha=0.25, linewidth=0))
    axes.plot(*task.goal, **_mark("*", _GOAL, 13), zorder=6)
    if step in task.returns:
        text = f"return {task.returns[step]:.1f}".replace("-", "\N{MINUS SIGN}")
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5}
        options = {"transform": axes.transAxes, "zorder": 7}
        axes.text(0.04, 0.04, text, color=INK, fontsize=9, bbox=box, **options)
    style_axes(axes)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)


def _mark(marker: str, colour: str, size: float) -> dict[str, Any]:
    return {
        "marker": marker, "markersize": size, "linestyle": "none", "markerfacecolor": colour,
        "markeredgecolor": "white", "markeredgewidth": 0.7,
    }  # fmt: skip
