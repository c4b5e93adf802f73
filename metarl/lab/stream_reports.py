"""Reports of training on streams: accuracy by instance, logged, as a table and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.table import Table

from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.evaluation.stream_protocol import PUBLISHED, TEST_SEED, instance_table
from metarl.runs.watching import progress_bar
from metarl.tasks.streams import Streams
from metarl.training.loop import OuterLoop

if TYPE_CHECKING:
    from metarl.plots.pictures import Picture


def stream_report(
    loop: OuterLoop, test: Streams, algorithm: str, num_tasks: int, label: str
) -> Table:
    """Evaluates streams; writes `adaptation.png` into the run folder.

    Args:
        loop: A finished training on the distribution that `test` is the test split of.
        test: Distribution of the test streams.
        algorithm: Its name; published values of the same name are added.
        num_tasks: Test streams.
        label: The data of the streams, for the table.

    Returns:
        The table of accuracies by instance.
    """
    from metarl.plots.figures import adaptation_figure, save_figure

    curve = _curve(loop, test, num_tasks, test.instances - 1)
    summaries = loop.logger.curve(curve, loop.iteration)
    published = PUBLISHED.get(algorithm, {})
    points = {algorithm: {i - 1: v / 100 for i, v in published.items()}}
    axis = "Earlier instances of the class"
    figure = adaptation_figure(
        {algorithm: summaries}, "accuracy", published=points, title=label, axis=axis
    )
    save_figure(figure, loop.folder / "adaptation.png")
    loop.logger.close()
    classes = f"{test.episodes.way} classes, {test.labels} labels"
    return instance_table(summaries, published, f"{algorithm}, {label}, {classes}")


def show_streams(loop: OuterLoop, test: Streams, num_tasks: int, steps: int | None) -> Picture:
    """Reads test streams and draws their accuracies by instance."""
    from metarl.plots.pictures import curve_picture

    last = test.instances - 1 if steps is None else steps
    return curve_picture(_curve(loop, test, num_tasks, last))


def _curve(loop: OuterLoop, test: Streams, num_tasks: int, steps: int) -> AdaptationCurve:
    return adaptation_curve(
        loop.learner,
        test.to(loop.device),
        num_tasks=num_tasks,
        steps=steps,
        generator=torch.Generator(loop.device).manual_seed(TEST_SEED),
        transductive=True,
        watch=progress_bar,
        name="test streams",
    )
