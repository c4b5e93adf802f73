"""The errors of several runs of sine regression together, with intervals over tasks they share.

python -m benchmarks.sine_seeds RUN RUN RUN: run folders of `metarl train sine`, one per seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
import tyro
from torch import Tensor

from metarl.adaptation.learner import SupervisedLearner
from metarl.console import run_script
from metarl.evaluation.sine_protocol import NUM_TASKS, STEPS, sine_curves
from metarl.evaluation.statistics import Summary, summarise_curve
from metarl.lab.saved_run import reopened

SHOTS = 5
COLUMNS = (1, STEPS)


def errors(runs: Sequence[Path], num_tasks: int = NUM_TASKS) -> Tensor:
    """Evaluates runs on the same test tasks; returns their errors, [steps + 1, runs, tasks]."""
    return torch.stack(list(_errors(runs, num_tasks)), dim=1)


def _errors(runs: Sequence[Path], num_tasks: int) -> Iterator[Tensor]:
    for run in runs:
        with reopened(run) as (_, loop, _):
            learner = cast(SupervisedLearner, loop.learner)
            yield sine_curves(learner, num_tasks=num_tasks)[SHOTS].values


def summarise_runs(values: Tensor) -> dict[str, list[Summary]]:
    """Summarises each run, and all of them together.

    Args:
        values: What `errors` returns.
    """
    groups = {f"run {i}": values[:, i] for i in range(values.shape[1])}
    groups["together"] = values
    return {
        name: summarise_curve(group, torch.Generator().manual_seed(0))
        for name, group in groups.items()
    }


def main(runs: tuple[Path, ...], /, test_tasks: int = NUM_TASKS) -> None:
    """Prints the mean squared errors after 1 and 10 steps, K = 5.

    Args:
        runs: Run folders, one per seed.
        test_tasks: Test tasks, the same for all runs.
    """
    print("| | " + " | ".join(f"{k} steps: mean | interquartile mean" for k in COLUMNS) + " |")
    print("|---" * (1 + 2 * len(COLUMNS)) + "|")
    for name, summaries in summarise_runs(errors(runs, test_tasks)).items():
        cells = [_cells(summaries[k]) for k in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _cells(s: Summary) -> str:
    return f"{s.mean:.2f} [{s.mean_low:.2f}, {s.mean_high:.2f}] | {s.iqm:.2f}"


if __name__ == "__main__":
    run_script(lambda: tyro.cli(main))
