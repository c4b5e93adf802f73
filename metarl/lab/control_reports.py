"""What experiments on control tasks end with: returns, logged, and as tables, figures and films."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from rich.table import Table

from metarl.adaptation.learner import ControlLearner
from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import (
    TEST_SEED,
    ControlProtocol,
    protocol_curve,
    return_table,
)
from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.evaluation.statistics import summarise_curve
from metarl.plots.figures import adaptation_figure, save_figure
from metarl.plots.film import Film
from metarl.plots.per_task import TASKS_FILE, tasks_figure, write_tasks
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sim.family import TaskFamily
from metarl.training.loop import OuterLoop


def control_report(
    loop: OuterLoop,
    test: TaskFamily,
    algorithm: str,
    num_tasks: int,
    steps: int,
    protocols: Sequence[ControlProtocol] = (),
) -> Table:
    """Evaluates control tasks; writes `adaptation.png` into the run folder.

    Beside it go `tasks.csv`, a row per test task, and `tasks.png`, the returns over their range.
    Where steps are the episodes of a trial, it also tells what all of them give together. Where an
    adaptation step takes a known number of environment steps of its task, the curve of the test
    tasks also stands against these, as `adaptation/return`: from-scratch baselines beside others.

    Args:
        loop: A finished training.
        test: The test split of its family.
        algorithm: Its name; published values of the same name stand beside it.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        protocols: Published evaluations to add.

    Returns:
        The table of returns.
    """
    generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
    curves = {
        "test tasks": adaptation_curve(
            loop.learner, test, num_tasks=num_tasks, steps=steps, generator=generator
        )
    }
    for p in protocols:
        curves[p.name] = protocol_curve(loop.learner, p.extended(steps), loop.device)
    rows = {}
    for label, curve in curves.items():
        prefix = "eval_test" if label == "test tasks" else f"eval_{label}"
        rows[label] = loop.logger.curve(
            curve, loop.iteration, prefix, environment_steps=loop.environment_steps
        )
    cost = loop.learner.adaptation_cost if isinstance(loop.learner, ControlLearner) else 0
    for k, summary in enumerate(rows["test tasks"] if cost else ()):
        loop.logger.scalars({"adaptation/return": summary.mean}, k * cost)
    whole = None
    if steps and isinstance(loop.learner, TrialLearner):
        total = curves["test tasks"].values.sum(0, keepdim=True)
        whole = summarise_curve(total, torch.Generator().manual_seed(0))[0]
        loop.logger.scalars({"eval_test/return/trial": whole.mean}, loop.iteration)
    published = {p.name: p.published.get(algorithm, {}) for p in protocols}
    figure = adaptation_figure(
        rows, "return", published=published, title=f"{algorithm}, {test.name}"
    )
    save_figure(figure, loop.folder / "adaptation.png")
    _tell_tasks(loop, curves["test tasks"], f"{algorithm}, {test.name}")
    loop.logger.close()
    return return_table(rows, published, f"{algorithm} on {test.name}", whole)


def _tell_tasks(loop: OuterLoop, curve: AdaptationCurve, title: str) -> None:
    write_tasks(curve, loop.folder / TASKS_FILE)
    figure = tasks_figure(curve, title)
    if figure is not None:
        loop.logger.figure("tasks", figure, loop.iteration)


def log_film(loop: OuterLoop, film: Callable[[], Film]) -> None:
    """Makes a film and logs it; where that cannot be done, says so and goes on.

    Args:
        loop: A finished training.
        film: Makes it.
    """
    try:
        made = film()
    except SettingsError as error:
        print(f"There is no film: {error}", file=sys.stderr)
        return
    if made.note:
        print(made.note, file=sys.stderr)
    loop.logger.film(made, loop.iteration)
