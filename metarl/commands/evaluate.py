"""`metarl evaluate`: the table of a run, made again."""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.console import Console

from metarl.lab.saved_run import reopened
from metarl.plots.per_task import TASKS_FILE, tasks_table


def evaluate(
    run: tyro.conf.Positional[Path],
    script: Path | None = None,
    tasks: int | None = None,
    steps: int | None = None,
    device: str | None = None,
    out: Path | None = None,
    per_task: bool = False,
) -> None:
    """Judges a run on test tasks again and prints its table; the run's folder stays as it is.

    Args:
        run: A run folder, whose newest good checkpoint is taken, or a checkpoint.
        script: The experiment script, if it is not where it was.
        tasks: Test tasks; as many as in the run by default.
        steps: Adaptation steps; as many as in the run by default.
        device: cpu, cuda, ...; that of the run by default.
        out: Folder for the figures and eval.jsonl; by default none are kept.
        per_task: Prints a row for each test task of a control experiment, too.
    """
    changes = {"test_tasks": tasks, "test_steps": steps, "training__device": device}
    with reopened(run, script=script, out=out, **changes) as (parts, loop, checkpoint):
        table = parts.report(loop)
        rows = tasks_table(loop.folder / TASKS_FILE) if per_task else None
    console = Console()
    if rows is not None:
        console.print(rows)
    console.print(table)
    console.print("Checkpoint:", str(checkpoint), soft_wrap=True)
    if out is not None:
        console.print("Figures and eval.jsonl:", str(out), soft_wrap=True)
