"""Pictures of an adaptation: a figure for files and TensorBoard, and a terminal plot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from metarl.evaluation.curves import AdaptationCurve
from metarl.evaluation.sine_protocol import SinePanel
from metarl.evaluation.statistics import summarise_curve, telling_steps
from metarl.evaluation.tables import number_cell
from metarl.plots.figures import (
    COLOURS,
    adaptation_figure,
    after_steps,
    sine_figure,
)
from metarl.plots.path_figure import Paths, check_paths, paths_figure, square
from metarl.plots.terminal_plot import TerminalPlot

_GOAL, _TRUTH = f"bold {COLOURS[4]}", "bright_black"


@dataclass(frozen=True)
class Picture:
    """A picture of an adaptation.

    Attributes:
        name: Name of the figure's file, without the extension.
        figure: The figure.
        drawing: The same for a terminal: any rich renderable.
    """

    name: str
    figure: Figure
    drawing: RenderableType


def paths_picture(tasks: Sequence[Paths], *, title: str = "", rows: int = 9) -> Picture:
    """Draws paths before and after each adaptation step: a row per task, a column per step.

    Args:
        tasks: See `paths_figure`.
        title: Title of the figure.
        rows: Height of each terminal plot, in rows.

    Raises:
        SettingsError: There is no task, or a task has no paths.
        ShapeError: See `paths_figure`.
    """
    columns = check_paths(tasks)
    low, high = square(tasks)
    drawings = []
    for task in tasks:
        cells = []
        for i, step in enumerate(columns):
            canvas = TerminalPlot(2 * rows, rows, low, high)
            for path in task.steps[step]:
                canvas.line(path, _style(i, step))
            canvas.mark(task.steps[step][0][0], "o", "bold")
            canvas.mark(task.goal, "✶", _GOAL)
            label = f"\nreturn {task.returns[step]:.1f}" if step in task.returns else ""
            cells.append(canvas.text().append(label))
        drawings.append((task.title, cells))
    key = Text.assemble(("o", "bold"), " start   ", ("✶", _GOAL), " goal")
    grid = _Grid(columns, drawings, title, key)
    return Picture("paths", paths_figure(tasks, title=title), grid)


def sine_picture(panels: Sequence[SinePanel], *, width: int = 22, rows: int = 8) -> Picture:
    """Draws fits of sine curves: a row per task, a column per number of steps.

    Args:
        panels: See `sine_figure`.
        width: Width of each terminal plot, in characters.
        rows: Height of each terminal plot, in rows.

    Raises:
        SettingsError: There is no panel.
        ShapeError: The arrays of a panel do not fit together.
    """
    figure = sine_figure(panels)
    columns = sorted(panels[0].predictions)
    drawings = []
    for panel in panels:
        low = np.array([panel.inputs[0], panel.target.min()])
        high = np.array([panel.inputs[-1], panel.target.max()])
        spare = 0.2 * (high - low) * [0, 1]
        cells = []
        for i, step in enumerate(columns):
            canvas = TerminalPlot(width, rows, low - spare, high + spare)
            canvas.line(np.stack((panel.inputs, panel.target), 1), _TRUTH)
            canvas.line(np.stack((panel.inputs, panel.predictions[step]), 1), _style(i, step))
            for point in np.stack((panel.support_inputs, panel.support_targets), 1):
                canvas.mark(point, "o", _GOAL)
            cells.append(canvas.text())
        drawings.append((panel.title, cells))
    key = Text.assemble(
        ("o", _GOAL), " support points   ", ("──", _TRUTH), " truth   ", ("──", COLOURS[0]),
        " network",
    )  # fmt: skip
    return Picture("fits", figure, _Grid(columns, drawings, "", key))


def curve_picture(curve: AdaptationCurve) -> Picture:
    """Draws the mean of a curve, and lists the metric of each task after each step."""
    summaries = summarise_curve(curve.values, torch.Generator().manual_seed(0))
    figure = adaptation_figure({"mean": summaries}, curve.metric)
    columns = {f"task {t}": values for t, values in enumerate(curve.values.T.tolist())}
    columns["mean"] = [s.mean for s in summaries]
    return Picture("adaptation", figure, step_table(columns, curve.metric))


def step_table(columns: Mapping[str, Sequence[float]], metric: str) -> Table:
    """Returns a table of a metric after the adaptation steps, a column per task.

    Args:
        columns: Name of a task -> the metric after 0, 1, ... steps.
        metric: Name of the metric.
    """
    table = Table(box=SIMPLE, caption=escape(metric))
    table.add_column("steps", justify="right")
    for name in columns:
        table.add_column(escape(name), justify="right")
    rows = list(zip(*columns.values(), strict=True))
    for step in telling_steps(len(rows) - 1):
        table.add_row(str(step), *(number_cell(value) for value in rows[step]))
    return table


def _style(place: int, step: int) -> str:
    return "white" if step == 0 else COLOURS[(place - 1) % len(COLOURS)]


@dataclass(frozen=True)
class _Grid:
    """Plots: a row per task, a column per step; steps that do not fit into the width come below."""

    steps: Sequence[int]
    rows: Sequence[tuple[str, Sequence[Text]]]
    title: str
    key: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = len(self.steps)
        unlimited = options.update(max_width=sys.maxsize)
        while columns > 1:
            widest = Measurement.get(console, unlimited, self._table(0, columns)).maximum
            if widest <= options.max_width:
                break
            columns -= 1
        for start in range(0, len(self.steps), columns):
            yield self._table(start, start + columns)

    def _table(self, start: int, stop: int) -> Table:
        table = Table(title=self.title, box=SIMPLE, show_lines=True, caption=self.key)
        for step in self.steps[start:stop]:
            table.add_column(after_steps(step), no_wrap=True)
        for name, cells in self.rows:
            table.add_row(Text(f"{name}\n", style="bold"))
            table.add_row(*cells[start:stop])
        return table
