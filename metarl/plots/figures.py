"""Figures of adaptation: metric curves over adaptation steps, and fitted sine curves.

The figures do not use pyplot, so they need no display and create no global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from metarl.errors import SettingsError, ShapeError
from metarl.evaluation.sine_protocol import SinePanel
from metarl.evaluation.statistics import Summary
from metarl.ranges import user_path
from metarl.tasks.files import result_path

# The palette of Okabe and Ito, which most colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, BEFORE, _GRID = "#333333", "#888888", "#E2E2E2"
_AXIS_NAMES = {"mse": "Mean squared error", "accuracy": "Accuracy", "return": "Return"}
_DPI = 150


def adaptation_figure(
    curves: Mapping[str, Sequence[Summary]],
    metric: str,
    *,
    statistic: Literal["mean", "iqm"] = "mean",
    published: Mapping[str, Mapping[int, float]] | None = None,
    band: str = "95 % CI",
    title: str = "",
    axis: str = "Adaptation steps",
    first_step: int = 0,
) -> Figure:
    """Draws a metric over adaptation steps, with confidence bands.

    A mean squared error whose largest value exceeds three times its smallest has a logarithmic
    axis. With more than one curve, a legend is drawn next to the axes.

    Args:
        curves: Label -> one summary per number of adaptation steps, starting at `first_step`.
        metric: Name of the metric ("mse", "accuracy", "return" or another name).
        statistic: The statistic to draw.
        published: Label -> {steps: value}, drawn as diamonds in the colour of the curve with the
            same label. Without such a curve, they are dark and the legend has the label.
        band: Legend label of the bands.
        title: Title of the figure.
        axis: Label of the x axis.
        first_step: The adaptation steps of the first summary.

    Raises:
        SettingsError: `curves` is empty or contains an empty curve.
    """
    if not curves or not all(curves.values()):
        raise SettingsError("Expected at least one curve and one step of each, got an empty one.")
    published = {label: points for label, points in (published or {}).items() if points}
    with_legend = len(curves) > 1 or bool(published)
    others = [f"published: {label}" for label in published if label not in curves]
    names = [*curves, *(others or ["published"])]
    margin = 0.9 + 0.085 * max(map(len, names)) if with_legend else 0.0
    figure = Figure(figsize=(5.6 + margin, 4.0), layout="constrained")
    axes = figure.add_subplot()
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(curves)}
    by_steps = {label: dict(enumerate(s, first_step)) for label, s in curves.items()}
    for label, summaries in by_steps.items():
        _draw_curve(axes, label, summaries, statistic, colours[label])
    for label, points in published.items():
        colour = colours.get(label, INK)
        axes.plot(list(points), list(points.values()), **_diamond(colour), clip_on=False)
    style_axes(axes)
    values = [getattr(s, statistic) for summaries in curves.values() for s in summaries]
    scale_axis(axes, metric, values)
    mark_steps(axes, by_steps.values())
    axes.set_xlabel(axis, color=INK)
    suffix = "" if statistic == "mean" else ", interquartile mean"
    axes.set_ylabel(metric_name(metric) + suffix, color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    if with_legend:
        points = others or ["published"] if published else []
        _curve_legend(figure, axes, [band, *points])
    return figure


def sine_figure(panels: Sequence[SinePanel], *, title: str = "") -> Figure:
    """Draws the true sine curve, the support points and the predictions of each task.

    Args:
        panels: One panel per task, at least one; they share both axes. A row has at most three.
        title: Title of the figure.

    Raises:
        SettingsError: `panels` is empty.
        ShapeError: The arrays of a panel have incompatible shapes.
    """
    if not panels:
        raise SettingsError("Expected at least one panel, got none.")
    for panel in panels:
        _check_panel(panel)
    count = len(panels)
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    wide = columns == 3
    size = (3.3 * columns + (0.0 if wide else 1.7), 2.5 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < count)
        if i < count:
            _draw_panel(axes, panels[i])
            _label_edges(axes, left=i % columns == 0, bottom=i + columns >= count)
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    place = "outside lower center" if wide else "outside right upper"
    ncols = len(labels) if wide else 1
    figure.legend(handles, labels, loc=place, ncols=ncols, frameon=False, fontsize=10)
    return figure


def figure_pixels(figure: Figure) -> np.ndarray:
    """Renders a figure and returns its RGB pixels, [height, width, 3] uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_figure(path: Path | str) -> None:
    """Checks that a figure can have this name, before anything is computed or drawn.

    Raises:
        SettingsError: Its ending is that of no format of Matplotlib.
    """
    ending = Path(path).suffix[1:].lower()
    known = FigureCanvasBase.get_supported_filetypes()
    if ending and ending not in known:
        raise SettingsError(
            f"Expected the name of a figure to end in .png, .pdf, .svg or another of "
            f"{', '.join(sorted(known))}, got {Path(path).name}."
        )


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes a figure in the format of the file name's suffix (png, pdf, svg).

    The write is atomic: readers see either the old or the new file.

    Raises:
        SettingsError: See `check_figure`.
        CheckpointError: The file cannot be written.
    """
    check_figure(path)
    path = user_path(path)
    with result_path(path, "figure") as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=_DPI, facecolor="white")


def _draw_curve(
    axes: Axes, label: str, summaries: Mapping[int, Summary], statistic: str, colour: str
) -> None:
    steps = list(summaries)
    middle = [getattr(s, statistic) for s in summaries.values()]
    low = [getattr(s, f"{statistic}_low") for s in summaries.values()]
    high = [getattr(s, f"{statistic}_high") for s in summaries.values()]
    draw_band(axes, steps, low, high, colour)
    axes.plot(
        steps, middle, color=colour, linewidth=2, marker="o", markersize=4.5, label=label, zorder=3
    )


def mark_steps(axes: Axes, curves: Iterable[Iterable[int]]) -> None:
    """Marks the numbers of adaptation steps of the curves on the x axis."""
    steps = sorted({step for curve in curves for step in curve})
    locator = FixedLocator(steps) if len(steps) == 1 else MaxNLocator(integer=True)
    axes.xaxis.set_major_locator(locator)


def draw_band(
    axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """Draws the intervals of a curve: a band, or a bar if there is one point only."""
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:
        axes.vlines(x, low, high, color=colour, alpha=0.35, linewidth=6)


def _diamond(colour: str) -> dict[str, Any]:
    return {
        "marker": "D", "markersize": 7, "linestyle": "none", "markerfacecolor": "white",
        "markeredgecolor": colour, "markeredgewidth": 1.8, "zorder": 4,
    }  # fmt: skip


def _curve_legend(figure: Figure, axes: Axes, extra: Sequence[str]) -> None:
    """Draws the legend next to the axes, where it does not hide a curve.

    Args:
        figure: The figure.
        axes: The axes with the labelled curves.
        extra: Label of the bands, followed by the labels of the diamonds, if any.
    """
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Patch(color=INK, alpha=0.18, linewidth=0))
    handles += [Line2D([], [], **_diamond(INK)) for _ in extra[1:]]
    figure.legend(handles, [*labels, *extra], loc="outside right upper", frameon=False, fontsize=10)


def metric_name(metric: str) -> str:
    """Returns the label of a metric's axis."""
    return _AXIS_NAMES.get(metric, metric)


def scale_axis(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """Scales and labels the y axis for the values of a metric; see `adaptation_figure`."""
    values = [v for v in values if math.isfinite(v)]
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    elif metric == "mse" and values and min(values) > 0 and max(values) / min(values) > 3:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)


def _check_panel(panel: SinePanel) -> None:
    shape = panel.inputs.shape
    lines = {"target": panel.target}
    lines |= {f"prediction after {k}": v for k, v in panel.predictions.items()}
    for name, values in lines.items():
        if len(shape) != 1 or values.shape != shape:
            raise ShapeError(f"Expected inputs [N] and {name} alike, got {shape}, {values.shape}.")
    if panel.support_inputs.shape != panel.support_targets.shape:
        raise ShapeError(
            "Expected as many support inputs as targets, got "
            f"{panel.support_inputs.shape} and {panel.support_targets.shape}."
        )


def _draw_panel(axes: Axes, panel: SinePanel) -> None:
    axes.plot(panel.inputs, panel.target, color=INK, linewidth=2, label="truth")
    dashes = ((0, (1, 1.5)), (0, (4, 2)), "solid")
    for i, (steps, values) in enumerate(sorted(panel.predictions.items())):
        name = after_steps(steps)
        colour = BEFORE if steps == 0 else COLOURS[(i - 1) % len(COLOURS)]
        axes.plot(
            panel.inputs, values, color=colour, linewidth=1.8, label=name, zorder=3,
            linestyle=dashes[min(i, 2)],
        )  # fmt: skip
    axes.plot(
        panel.support_inputs, panel.support_targets, linestyle="none", marker="o", markersize=6,
        markerfacecolor=COLOURS[4], markeredgecolor="white", label="support points", zorder=5,
    )  # fmt: skip
    axes.set_title(panel.title, color=INK, fontsize=10)
    style_axes(axes)


def _label_edges(axes: Axes, *, left: bool, bottom: bool) -> None:
    """Labels the axes at the edge of the grid."""
    if left:
        axes.set_ylabel("y", color=INK)
    if bottom:
        axes.set_xlabel("x", color=INK)
        axes.tick_params(labelbottom=True)  # also above an empty cell of the grid


def after_steps(steps: int) -> str:
    """Returns "before", "after 1 step", "after 2 steps", ... for 0, 1, 2, ... steps."""
    return "before" if steps == 0 else f"after {steps} step{'' if steps == 1 else 's'}"


def style_axes(axes: Axes) -> None:
    """Applies the common style of this package's figures to axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=10, color="#999999")
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)
