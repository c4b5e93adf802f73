"""Evaluation of control tasks: returns after every adaptation step, and published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from rich.box import SIMPLE
from rich.table import Table

from metarl.devices import seeded_generator
from metarl.evaluation.curves import AdaptationCurve, stack_steps, warn_if_nan
from metarl.evaluation.statistics import Summary, telling_steps
from metarl.rl.control_learner import ControlLearner
from metarl.sim.family import ControlTasks
from metarl.trees import to_device

TEST_SEED = 2_000_003


@dataclass(frozen=True)
class ControlProtocol:
    """A published evaluation: fixed tasks and an adaptation procedure.

    Attributes:
        name: Its name in tables and tags.
        tasks: The tasks.
        steps: Adaptation steps.
        trajectories: Rollouts per task before each step and after the last.
        scales: Factor on the inner rate of each step; see `PolicyLearner.rollouts`.
        published: Algorithm -> steps -> published mean return.
        source: Publication of these values.
    """

    name: str
    tasks: ControlTasks
    steps: int
    trajectories: int
    scales: Sequence[float] = ()
    published: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    source: str = ""

    def extended(self, steps: int) -> ControlProtocol:
        """Returns the protocol with at least `steps` steps; the added ones repeat its last one."""
        if steps <= self.steps:
            return self
        scales = tuple(self.scales)
        if scales:
            scales += (steps - len(scales)) * scales[-1:]
        return replace(self, steps=steps, scales=scales)


def protocol_curve(
    learner: ControlLearner, protocol: ControlProtocol, device: torch.device | str = "cpu"
) -> AdaptationCurve:
    """Measures the mean return on each of a protocol's tasks after 0..steps steps.

    The rollouts' randomness is the same for every learner that adapts by gradients.
    """
    generator = seeded_generator(device, TEST_SEED)
    tasks = to_device(protocol.tasks, generator.device)
    values = stack_steps(
        learner.measures(tasks, protocol.steps, generator, protocol.scales, protocol.trajectories)
    )
    for name, value in values.items():
        warn_if_nan(value, name, "task")
    return AdaptationCurve("return", values.pop("return"), True, others=values)


def return_table(
    rows: Mapping[str, Sequence[Summary]],
    published: Mapping[str, Mapping[int, float]],
    title: str,
    whole: Summary | None = None,
    others: Mapping[str, Mapping[str, Sequence[Summary]]] | None = None,
) -> Table:
    """Returns a table of mean returns with 95 % confidence intervals over tasks.

    Next to each mean stands that of the worst tenth of the tasks.

    Args:
        rows: Name of the evaluation -> one summary per number of steps.
        published: Name of the evaluation -> steps -> published mean return.
        title: The algorithm and the family.
        whole: Summary of the sums over the steps, if these are the episodes of one trial.
        others: Further metrics: name -> the name of the evaluation -> summaries.
    """
    caption = "mean ± half of the 95 % interval over tasks; worst: mean of the lowest tenth of them"
    if whole is not None:
        caption += f"\nall episodes of a trial together: {_cell(whole)}"
    table = Table(title=f"{title}: return", box=SIMPLE, caption=caption)
    table.add_column("steps", justify="right", no_wrap=True)
    for name, summaries in rows.items():
        title = f"{name.replace('_', ' ')} ({summaries[0].count})"  # wraps between words
        table.add_column(title, justify="right", overflow="fold")
        table.add_column("worst", justify="right")
        if published.get(name):
            table.add_column("published", justify="right")
        for metric, evaluations in (others or {}).items():
            if name in evaluations:
                table.add_column(metric, justify="right", overflow="fold")
                table.add_column("worst", justify="right")
    for step in telling_steps(max(map(len, rows.values())) - 1):
        cells = [str(step)]
        for name, summaries in rows.items():
            cells += _cells(summaries, step)
            if published.get(name):
                value = published[name].get(step)
                cells.append("" if value is None else f"{value:.2f}")
            for evaluations in (others or {}).values():
                if name in evaluations:
                    cells += _cells(evaluations[name], step)
        table.add_row(*cells)
    return table


def _cells(summaries: Sequence[Summary], step: int) -> list[str]:
    """Returns the mean after a step and that of the worst tenth; empty if there is no such step."""
    if step >= len(summaries):
        return ["", ""]
    return [_cell(summaries[step]), f"{summaries[step].lowest_tenth:.2f}"]


def _cell(summary: Summary) -> str:
    return f"{summary.mean:.2f} ±{(summary.mean_high - summary.mean_low) / 2:.2f}"
