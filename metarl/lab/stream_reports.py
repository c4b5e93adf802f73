"""What training on streams ends with: the accuracy by instance, logged, as a table and a figure."""

from __future__ import annotations

import torch
from rich.table import Table

from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.evaluation.stream_protocol import PUBLISHED, TEST_SEED, instance_table
from metarl.plots.figures import adaptation_figure, save_figure
from metarl.plots.pictures import Picture, curve_picture
from metarl.tasks.streams import Streams
from metarl.training.loop import OuterLoop


def stream_report(
    loop: OuterLoop, test: Streams, algorithm: str, num_tasks: int, label: str
) -> Table:
    """Evaluates streams; writes `adaptation.png` into the run folder.

    Args:
        loop: A finished training on the distribution that `test` is the test split of.
        test: Distribution of the test streams.
        algorithm: Its name; published values of the same name stand beside it.
        num_tasks: Test streams.
        label: What the streams are made of, for the table.

    Returns:
        The table of accuracies by instance.
    """
    curve = _curve(loop, test, num_tasks, test.instances - 1)
    summaries = loop.logger.curve(curve, loop.iteration)
    known = PUBLISHED.get(algorithm, {})
    points = {algorithm: {i - 1: value / 100 for i, value in known.items()}} if known else None
    axis = "Earlier instances of the class"
    figure = adaptation_figure(
        {algorithm: summaries}, "accuracy", published=points, title=label, axis=axis
    )
    save_figure(figure, loop.folder / "adaptation.png")
    loop.logger.close()
    classes = f"{test.episodes.way} classes, {test.labels} labels"
    return instance_table(summaries, known, f"{algorithm}, {label}, {classes}")


def show_streams(loop: OuterLoop, test: Streams, num_tasks: int, steps: int | None) -> Picture:
    """Reads test streams and shows their accuracies by instance; see `Components.show`."""
    last = test.instances - 1 if steps is None else steps
    return curve_picture(_curve(loop, test, num_tasks, last))


def _curve(loop: OuterLoop, test: Streams, num_tasks: int, steps: int) -> AdaptationCurve:
    return adaptation_curve(
        loop.learner,
        test.to(loop.device),
        num_tasks=num_tasks,
        steps=steps,
        generator=torch.Generator(loop.device).manual_seed(TEST_SEED),
    )
