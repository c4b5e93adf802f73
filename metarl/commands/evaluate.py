"""`metarl evaluate`: the table of a run, computed again."""

from __future__ import annotations

from pathlib import Path

from metarl.commands.options import Device, OptionalTestSteps, OptionalTestTasks, Run


def evaluate(
    run: Run,
    script: str | None = None,
    runs: Path = Path("runs"),
    test_tasks: OptionalTestTasks = None,
    test_steps: OptionalTestSteps = None,
    device: Device = None,
    trust: bool = False,
    out: Path | None = None,
    per_task: bool = False,
) -> None:
    """Evaluates a run on test tasks again and prints its table; its folder stays as it is.

    Args:
        run: A run folder, whose newest valid checkpoint is used; `RUN/best`, that of the best
            value on validation tasks; a checkpoint; or `latest`.
        script: The experiment, if it is not installed: the path of its script, which is executed,
            or module:EXPERIMENT.
        runs: Folder of the run folders, for `latest`.
        test_tasks: Test tasks; by default those of the run.
        test_steps: Adaptation steps; by default those of the run.
        device: cpu, cuda, ...; by default that of the run.
        trust: Imports code that the run's settings name as module:Name, such as its family.
        out: Folder for the figures and eval.jsonl; by default none are kept.
        per_task: Prints a row for each test task of a control experiment, too.
    """
    from metarl.console import OutputConsole
    from metarl.lab.saved_run import reopened
    from metarl.plots.per_task import TASKS_FILE, tasks_table

    changes = {"test_tasks": test_tasks, "test_steps": test_steps, "training__device": device}
    with reopened(run, runs=runs, script=script, trust=trust, out=out, **changes) as reopening:
        components, loop, checkpoint = reopening
        table = components.report(loop)
        console = OutputConsole()
        try:
            if per_task:
                console.print_whole(tasks_table(loop.folder / TASKS_FILE))
        finally:  # without results of single tasks, the table still counts
            console.print_whole(table)
    console.print("Checkpoint:", str(checkpoint), markup=False, soft_wrap=True)
    if out is not None:
        console.print("Figures and eval.jsonl:", str(out), markup=False, soft_wrap=True)
