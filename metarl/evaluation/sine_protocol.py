"""The evaluation of sine regression in Finn et al. 2017, section 5.1, table and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from metarl.adaptation.learner import SupervisedLearner
from metarl.devices import seeded_generator
from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.evaluation.statistics import Summary
from metarl.evaluation.tables import interval_cell, number_cell, report_table
from metarl.evaluation.watch import Watch, unwatched
from metarl.tasks.sine import Sine

SHOTS = (5, 10, 20)
NUM_TASKS = 600
STEPS = 10
TEST_SEED = 2_000_003

# Algorithm -> steps -> mean squared error for K = 5: Finn et al. 2017, table 2 (supplement). The
# paper gives K = 10 and 20 as figures only.
PUBLISHED: dict[str, dict[int, float]] = {
    "maml": {1: 0.67, 5: 0.38, 10: 0.35},
    "pretrained": {1: 2.41, 5: 2.23, 10: 2.19},
}


@dataclass(frozen=True)
class SinePanel:
    """One task of `sine_figure`; plain arrays.

    Attributes:
        inputs: Inputs at which the curves are drawn, ascending; [N].
        target: The true curve, [N].
        support_inputs: Shape [K].
        support_targets: Shape [K].
        predictions: Adaptation steps -> prediction [N].
        title: Title of the panel.
    """

    inputs: np.ndarray
    target: np.ndarray
    support_inputs: np.ndarray
    support_targets: np.ndarray
    predictions: Mapping[int, np.ndarray]
    title: str = ""


def sine_curves(
    learner: SupervisedLearner,
    *,
    queries: int = 100,
    num_tasks: int = NUM_TASKS,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
    watch: Watch = unwatched,
) -> dict[int, AdaptationCurve]:
    """Measures the mean squared error after 0..steps steps for K = 5, 10 and 20.

    The test tasks are the same for every learner.

    Args:
        learner: A trained learner.
        queries: Query points per task.
        num_tasks: Number of test tasks; the paper takes 600.
        steps: Adaptation steps.
        device: The learner's device.
        watch: Watches the evaluation.

    Returns:
        K -> the curve.
    """
    curves = {}
    for shots in SHOTS:
        curves[shots] = adaptation_curve(
            learner,
            Sine(shots, queries).split("test"),
            num_tasks=num_tasks,
            steps=steps,
            generator=seeded_generator(device, TEST_SEED + shots),
            transductive=True,  # as published; without effect on a network without batch norm
            watch=watch,
            name=f"test tasks, K={shots}",
        )
    return curves


def sine_table(
    curves: Mapping[int, Sequence[Summary]], published: Mapping[int, float], metric: str = "mse"
) -> Table:
    """Returns a table of the metric, by default mean squared errors, with 95 % intervals.

    Args:
        curves: K -> one summary per number of steps.
        published: Steps -> published mean squared error at K = 5.
        metric: Name of the metric.
    """
    count = next(iter(curves.values()))[0].count
    name = "Mean squared error" if metric == "mse" else metric
    title = f"{name} on {count} test tasks, mean [95 % interval]"
    caption = "K: support points per task"
    columns = ["steps", *(f"K={shots}" for shots in curves)]
    if published:
        caption += "; paper: Finn et al. 2017, K=5"
        columns.append("paper")
    table = report_table(title, caption)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for step in range(len(next(iter(curves.values())))):
        cells = [interval_cell(summaries[step]) for summaries in curves.values()]
        if published:
            cells.append(number_cell(published[step]) if step in published else "")
        table.add_row(str(step), *cells)
    return table


def sine_panels(
    learner: SupervisedLearner,
    *,
    shots: int = 5,
    steps: Sequence[int] = (0, 1, 10),
    num_tasks: int = 6,
    device: torch.device | str = "cpu",
) -> list[SinePanel]:
    """Fits a few test tasks and returns the panels of `sine_figure`.

    Args:
        learner: A trained learner.
        shots: Support points per task.
        steps: Numbers of adaptation steps after which the fits are drawn.
        num_tasks: Number of panels.
        device: The learner's device.
    """
    generator = seeded_generator(device, TEST_SEED)
    tasks = Sine(shots, 1).split("test").sample(num_tasks, generator)
    amplitude, phase = (tasks.info[n].view(-1, 1, 1) for n in ("amplitude", "phase"))
    grid = torch.linspace(*Sine.inputs, 200, device=generator.device).view(1, -1, 1)
    grid = grid.repeat(num_tasks, 1, 1)
    truth = Sine.values(amplitude, phase, grid)
    path = learner.adapt(tasks.support, max(steps), generator)
    fits = {
        k: learner.predict(a, grid, transductive=True) for k, a in enumerate(path) if k in steps
    }
    panels = []
    for t in range(num_tasks):
        inputs, target, support_inputs, support_targets = (
            v[t, :, 0].cpu().numpy()
            for v in (grid, truth, tasks.support.inputs, tasks.support.targets)
        )
        predictions = {k: outputs[t, :, 0].cpu().numpy() for k, outputs in fits.items()}
        title = f"A = {amplitude[t].item():.1f}, φ = {phase[t].item():.1f}"
        panels.append(
            SinePanel(inputs, target, support_inputs, support_targets, predictions, title)
        )
    return panels
