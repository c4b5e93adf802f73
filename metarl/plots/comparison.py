"""A figure of several runs: their training and their adaptation, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from metarl.errors import SettingsError
from metarl.evaluation.statistics import Summary
from metarl.plots.figures import (
    COLOURS,
    INK,
    draw_band,
    mark_steps,
    metric_name,
    scale_axis,
    style_axes,
)

_DASHES = ("solid", (0, (4, 2)), (0, (1, 1.5)))


def comparison_figure(
    training: Mapping[str, Sequence[tuple[int, Summary]]],
    adaptation: Mapping[str, Mapping[int, Summary]],
    metric: str,
    *,
    axis: str = "Meta-iterations",
    split: str = "test",
    title: str = "",
) -> Figure:
    """Draws the means of runs with 95 % intervals over the tasks.

    On the left the validation metric after the last adaptation step over the training, if there is
    any; on the right the metric over adaptation steps. The labels of both are the same. More than
    seven runs repeat the colours with dashes.

    Args:
        training: Label -> the position on the axis and the summary there.
        adaptation: Label -> the summary after each number of adaptation steps.
        metric: Name of the metric.
        axis: What training is counted in.
        split: The split of the adaptation curves.
        title: Title of the figure.

    Raises:
        SettingsError: There is no run.
    """
    if not adaptation:
        raise SettingsError("Expected at least one run to draw, got none.")
    both = any(training.values())
    margin = 1.1 + 0.085 * max(map(len, adaptation))
    figure = Figure(figsize=((9.6 if both else 5.6) + margin, 4.0), layout="constrained")
    *left, right = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    for i, (label, summaries) in enumerate(adaptation.items()):
        text = _legend_text(label)
        _draw(right, list(summaries.items()), text, i)
        for axes in left:
            _draw(axes, training.get(label, ()), text, i)
    style_axes(right)
    mark_steps(right, adaptation.values())
    right.set_xlabel("Adaptation steps", color=INK)
    right.set_ylabel(metric_name(metric), color=INK)
    right.set_title(f"{split.replace('_', ' ')} tasks".capitalize(), color=INK, fontsize=10)
    scale_axis(right, metric, [s.mean for points in adaptation.values() for s in points.values()])
    for axes in left:
        style_axes(axes)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(axis, color=INK)
        axes.set_ylabel(metric_name(metric), color=INK)
        axes.set_title("Validation tasks, after the last step", color=INK, fontsize=10)
        scale_axis(axes, metric, [s.mean for points in training.values() for _, s in points])
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    handles, labels = right.get_legend_handles_labels()
    handles.append(Patch(color=INK, alpha=0.18, linewidth=0))
    figure.legend(
        handles, [*labels, "95 % CI"], loc="outside right upper", frameon=False, fontsize=10
    )
    return figure


def _legend_text(label: str) -> str:
    """Returns a label as matplotlib shows it: no formula, and not left out for its underscore."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _draw(axes: Axes, points: Sequence[tuple[int, Summary]], label: str, place: int) -> None:
    if not points:
        return
    colour = COLOURS[place % len(COLOURS)]
    x = [position for position, _ in points]
    low, high = [s.mean_low for _, s in points], [s.mean_high for _, s in points]
    draw_band(axes, x, low, high, colour)
    axes.plot(
        x, [s.mean for _, s in points], color=colour, linewidth=2, label=label, zorder=3,
        marker="o", markersize=4.0 if len(points) <= 30 else 0.0,
        linestyle=_DASHES[place // len(COLOURS) % len(_DASHES)],
    )  # fmt: skip
