"""Lake's one-shot runs by several trained learners, one by one and together.

    metarl train omniglot --algorithm one-shot --data-dir DATA --training.seed 0      # and 1, 2
    python -m benchmarks.lake_runs RUN RUN RUN                         # test tasks alone
    python -m benchmarks.lake_runs RUN RUN RUN --lake-runs ARCHIVE     # Lake's runs, too

The ensemble averages the probabilities of the learners (`metarl.learners.Ensemble`). Test tasks are
those of the runs: 20-way 1-shot episodes of alphabets that no training saw.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from metarl_experiments.omniglot import EXPERIMENT
from rich.table import Table

from metarl.adaptation.learner import SupervisedLearner
from metarl.console import OutputConsole, run_script
from metarl.devices import set_threads
from metarl.evaluation.few_shot_protocol import few_shot_curves, lake_errors
from metarl.evaluation.statistics import summarise
from metarl.lab.command_line import saved_settings
from metarl.lab.few_shot_reports import lake_runs_for
from metarl.lab.saved_run import find_good, reopened
from metarl.learners import Ensemble
from metarl.tasks.episodes import FewShot

KIND = "non-transductive"


@dataclass(frozen=True)
class LakeRunsBenchmark:
    """Settings of the benchmark."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of one-shot learners that were trained on the same characters."""
    lake_runs: Path | None = None
    """Archive of Lake's runs; None: they are not looked at."""
    test_tasks: int = 200
    """Test tasks."""
    threads: int = 1
    """Threads of torch."""


def row(
    name: str, learner: SupervisedLearner, test: FewShot, settings: LakeRunsBenchmark
) -> list[str]:
    """Evaluates a learner; returns its row of the table."""
    curves = few_shot_curves(learner, test, num_tasks=settings.test_tasks, steps=0)
    s = summarise(1 - curves[KIND].values[-1], torch.Generator().manual_seed(0))
    cells = [name, f"{100 * s.mean:.1f} [{100 * s.mean_low:.1f}, {100 * s.mean_high:.1f}]"]
    runs = lake_runs_for(test, settings.lake_runs)
    if runs is not None:
        error = lake_errors(learner, runs, test.split("train").alphabets, steps=0)[KIND]
        cells.append(f"{error:.1f}")
    return cells


def main() -> None:
    """Prints the errors of each run and of all together."""
    settings = tyro.cli(LakeRunsBenchmark, description=__doc__)
    set_threads(settings.threads)
    table = Table(title="one-shot learners, errors in percent")
    for column in ("", "new alphabets, 20-way", *(["Lake's runs"] if settings.lake_runs else [])):
        table.add_column(column, no_wrap=True)
    with ExitStack() as stack:
        learners: list[SupervisedLearner] = []
        for run in settings.run:
            components, _, _ = stack.enter_context(reopened(run))
            assert isinstance(components.tasks, FewShot)
            assert isinstance(components.learner, SupervisedLearner)
            tasks = saved_settings(EXPERIMENT.configs, find_good(run).folder).tasks
            test = tasks.test(components.tasks)
            learners.append(components.learner)
            table.add_row(*row(run.name, learners[-1], test, settings))
        if len(learners) > 1:
            table.add_row(*row("together", Ensemble(learners), test, settings))
    OutputConsole().print_whole(table)


if __name__ == "__main__":
    run_script(main)
