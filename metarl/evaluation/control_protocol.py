"""Evaluation of control tasks: returns after every adaptation step, and published ones."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from metarl.chunks import FittingChunks
from metarl.devices import seeded_generator
from metarl.evaluation.curves import AdaptationCurve, fitted, warn_if_not_finite
from metarl.evaluation.statistics import Summary, telling_steps
from metarl.evaluation.tables import number_cell, report_table
from metarl.evaluation.watch import Watch, unwatched, watched
from metarl.rl.control_learner import ControlLearner
from metarl.sim.family import ControlTasks
from metarl.trees import to_device

TEST_SEED = 2_000_003
_HEADER = 13  # letters of a line of a column's title; cells do not wrap


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
        trial: Whether step k is episode k of a trial; see `trial_protocols`.
    """

    name: str
    tasks: ControlTasks
    steps: int
    trajectories: int
    scales: Sequence[float] = ()
    published: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    source: str = ""
    trial: bool = False

    def extended(self, steps: int) -> ControlProtocol:
        """Returns the protocol with at least `steps` steps; the added ones repeat its last one."""
        if steps <= self.steps:
            return self
        scales = tuple(self.scales)
        if scales:
            scales += (steps - len(scales)) * scales[-1:]
        return replace(self, steps=steps, scales=scales)

    def explained(self) -> str:
        """Returns what the protocol does, in a line: the source, the rollouts and the rates."""
        source = f"the tasks of {self.source}, " if self.source else ""
        if self.trial:
            return f"{self.title}: {source}{self.steps + 1} episodes of a trial"
        parts = [f"{self.steps} steps of {self.trajectories} rollouts per task"]
        if any(scale != 1 for scale in self.scales):
            first, *later = self.scales
            same = len(set(later)) == 1 and first == 1
            factors = (
                f"{later[0]:g} after step 1" if same else ", ".join(f"{s:g}" for s in self.scales)
            )
            parts.append(f"inner rate times {factors}")
        return f"{self.title}: {source}{', '.join(parts)}"

    @property
    def title(self) -> str:
        """The name in tables, which wraps between words."""
        return self.name.replace("_", " ")


def trial_protocols(protocols: Iterable[ControlProtocol]) -> list[ControlProtocol]:
    """Returns the protocols for a learner whose adaptation steps are the episodes of a trial.

    Such a learner has no inner rate, and plays one episode per step. Of protocols on the same tasks
    that differ in rates and rollouts alone, the first is left.

    Args:
        protocols: Protocols of learners that adapt by gradients.
    """
    kept: dict[tuple[int, int], ControlProtocol] = {}
    for protocol in protocols:
        kept.setdefault((id(protocol.tasks), protocol.steps), replace(protocol, trial=True))
    return list(kept.values())


def protocol_curve(
    learner: ControlLearner,
    protocol: ControlProtocol,
    device: torch.device | str = "cpu",
    watch: Watch = unwatched,
) -> AdaptationCurve:
    """Measures the mean return on each of a protocol's tasks after 0..steps steps.

    The rollouts' randomness is the same for every learner that adapts by gradients.

    Args:
        learner: A trained learner.
        protocol: The protocol.
        device: The learner's device.
        watch: Watches the evaluation.
    """
    generator = seeded_generator(device, TEST_SEED)
    tasks = to_device(protocol.tasks, generator.device)
    with watch(protocol.title, tasks.num_tasks * (protocol.steps + 1)) as advance:

        def rows(part: ControlTasks) -> Iterable[dict[str, Tensor]]:
            found = learner.measures(
                part, protocol.steps, generator, protocol.scales, protocol.trajectories
            )
            return watched(found, advance)

        values = fitted(rows, tasks, generator, FittingChunks("evaluations"))
    for name, value in values.items():
        warn_if_not_finite(value, name, "task")
    return AdaptationCurve("return", values.pop("return"), True, others=values)


def return_table(
    rows: Mapping[str, Sequence[Summary]],
    published: Mapping[str, Mapping[int, float]],
    title: str,
    whole: Summary | None = None,
    others: Mapping[str, Mapping[str, Sequence[Summary]]] | None = None,
    protocols: Sequence[ControlProtocol] = (),
) -> Table:
    """Returns a table of mean returns with 95 % confidence intervals over tasks.

    Next to each mean stands that of the worst tenth of the tasks, except for published protocols,
    so that the rows of three of them fit into 80 columns.

    Args:
        rows: Name of the evaluation -> one summary per number of steps.
        published: Name of the evaluation -> steps -> published mean return.
        title: The algorithm and the family.
        whole: Summary of the sums over the steps, if these are the episodes of one trial.
        others: Further metrics: name -> the name of the evaluation -> summaries.
        protocols: The protocols among the evaluations, which the caption explains.
    """
    # Two lines: a table is as wide as its caption.
    caption = [
        "mean ± half of the 95 % interval over tasks; (n): n tasks",
        "worst: mean of the lowest tenth",
    ]
    if whole is not None:
        caption.append(f"all episodes of a trial together: {_cell(whole)}")
    caption += [p.explained() for p in protocols if p.name in rows]
    explained = {p.name for p in protocols}
    table = report_table(f"{title}: return", "\n".join(caption))
    table.add_column("steps", justify="right", no_wrap=True)
    steps = telling_steps(max(map(len, rows.values())) - 1)
    columns = [[str(step) for step in steps]]
    for name, summaries in rows.items():
        words = f"{name.replace('_', ' ')} ({summaries[0].count})"
        heading = "\n".join(textwrap.wrap(words, _HEADER, break_long_words=False))
        means, worst = _columns(summaries, steps)
        table.add_column(escape(heading), justify="right", no_wrap=True)
        columns.append(means)
        if name not in explained:
            table.add_column("worst", justify="right", no_wrap=True)
            columns.append(worst)
        if values := published.get(name):
            table.add_column("published", justify="right")
            columns.append([number_cell(values[k]) if k in values else "" for k in steps])
        measured = {m: e[name] for m, e in (others or {}).items() if name in e}
        for metric, further in measured.items():
            table.add_column(escape(metric), justify="right", overflow="fold")
            table.add_column("worst", justify="right")
            columns += _columns(further, steps)
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    return table


def _columns(summaries: Sequence[Summary], steps: Sequence[int]) -> list[list[str]]:
    """Returns two columns: the means after some steps, and those of the worst tenth."""
    return list(map(list, zip(*(_cells(summaries, step) for step in steps), strict=True)))


def _cells(summaries: Sequence[Summary], step: int) -> list[str]:
    """Returns the mean after a step and that of the worst tenth; empty if there is no such step."""
    if step >= len(summaries):
        return ["", ""]
    return [_cell(summaries[step]), number_cell(summaries[step].lowest_tenth)]


def _cell(summary: Summary) -> str:
    half = (summary.mean_high - summary.mean_low) / 2
    return f"{number_cell(summary.mean)} ±{number_cell(half)}"
