"""`metarl compare`: the curves of several runs in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from metarl.runs.run_curves import Comparison


def compare(
    run: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ],
    out: Path = Path("compare.png"),
    split: str | None = None,
    by: Literal["iterations", "environment-steps"] = "iterations",
    over_seeds: bool = False,
    runs: Path = Path("runs"),
) -> None:
    """Draws the curves of runs in one figure and prints a table; 95 % intervals over the tasks.

    Left: the validation metric after the last adaptation step, over training. Right: the metric
    over adaptation steps.

    Args:
        run: Run folders, at least one; or `latest`.
        out: File for the figure (.png, .pdf, .svg).
        split: The adaptation curves to draw, such as test_5_shot, as in eval.jsonl; by default the
            first of the reports, or validation.
        by: What training is counted in.
        over_seeds: Combines runs that differ only in --training.seed into one curve, whose
            intervals are over the seeds (Student's t).
        runs: Folder of the run folders, for `latest`.
    """
    from metarl.console import OutputConsole
    from metarl.errors import SettingsError
    from metarl.plots.comparison import comparison_figure
    from metarl.plots.figures import check_figure, save_figure
    from metarl.runs.run_curves import compare_runs
    from metarl.runs.run_search import run_path
    from metarl.runs.seed_groups import merge_seeds

    if not run:
        raise SettingsError("Expected run folders to compare; `metarl runs` lists them.")
    check_figure(out)
    folders = [run_path(path, runs) for path in run]
    comparison = compare_runs(folders, split, by == "environment-steps")
    note = worlds_note(folders, comparison)
    if over_seeds:
        comparison = merge_seeds(folders, comparison)
    figure = comparison_figure(
        {r.label: r.training for r in comparison.runs},
        {r.label: r.adaptation for r in comparison.runs},
        comparison.metric,
        axis="Meta-iterations" if by == "iterations" else "Environment steps",
        split=comparison.split,
    )
    save_figure(figure, out)
    console = OutputConsole()
    console.print_whole(comparison_table(comparison))
    if note:
        console.print(note, markup=False)
    console.print("Figure:", str(out), markup=False, soft_wrap=True)


def worlds_note(folders: Sequence[Path], comparison: Comparison) -> str:
    """Returns a sentence about runs whose worlds differ; empty if none are known to.

    Args:
        folders: The run folders.
        comparison: Their curves.
    """
    from metarl.training.other_worlds import world_differences

    parts = []
    for name, values in world_differences(folders).items():
        if any(isinstance(value, dict) for value in values):  # a space
            parts.append(f"the {name}")
            continue
        runs = zip(values, comparison.runs, strict=True)
        parts.append(f"the {name}: " + ", ".join(f"{value} in {run.label}" for value, run in runs))
    if not parts:
        return ""
    return (
        f"The worlds of these runs differ in {'; '.join(parts)}. The {comparison.metric} of one "
        "is then no measure of the other."
    )


def comparison_table(comparison: Comparison) -> Table:
    """Returns a table of the adaptation curves, a column per run."""
    from rich.markup import escape

    from metarl.evaluation.statistics import telling_steps
    from metarl.evaluation.tables import interval_cell, report_table

    table = report_table(
        f"{comparison.metric}, {comparison.split.replace('_', ' ')} tasks",
        f"mean [95 % interval over {comparison.over}]",
    )
    table.add_column("steps", justify="right", no_wrap=True)
    for run in comparison.runs:
        table.add_column(escape(run.label), justify="right", overflow="fold")
    runs = comparison.runs
    digits = 3 if comparison.metric == "accuracy" else 2
    for step in telling_steps(max(max(r.adaptation) for r in runs)):
        reached = [r.adaptation.get(step) for r in runs]
        if any(reached):
            cells = ["" if s is None else interval_cell(s, digits) for s in reached]
            table.add_row(str(step), *cells)
    return table
