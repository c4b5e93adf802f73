"""`metarl play`: an adaptation as a picture, in the terminal and as a file."""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.console import Console

from metarl.errors import SettingsError
from metarl.evaluation.figures import save_figure
from metarl.training.saved_run import reopened


def play(
    run: tyro.conf.Positional[Path],
    script: Path | None = None,
    tasks: int = 3,
    steps: int | None = None,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Adapts a run's learner to a few test tasks and shows what that looks like.

    Args:
        run: A run folder, whose newest good checkpoint is taken, or a checkpoint.
        script: The experiment script, if it is not where it was.
        tasks: Test tasks, at least 1.
        steps: Adaptation steps; what suits the experiment by default.
        device: cpu, cuda, ...; that of the run by default.
        out: File for the figure (.png, .pdf, .svg); by default it is drawn in the terminal only.
    """
    if tasks < 1 or (steps is not None and steps < 0):
        raise SettingsError(f"Expected tasks >= 1 and steps >= 0, got {tasks} and {steps}.")
    with reopened(run, script=script, training__device=device) as (parts, loop, _):
        if parts.show is None:
            raise SettingsError(
                f"The experiment of {run} has no picture of an adaptation; give its `Parts` a "
                "`show`, or see `metarl evaluate`."
            )
        picture = parts.show(loop, tasks, steps)
    console = Console()
    console.print(picture.drawing)
    if out is not None:
        save_figure(picture.figure, out)
        console.print("Figure:", str(out), soft_wrap=True)
