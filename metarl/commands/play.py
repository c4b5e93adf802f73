"""`metarl play`: an adaptation as a picture or a film."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from metarl.commands.options import Device, OptionalTestSteps, Run, TestTasks
from metarl.errors import SettingsError

T = TypeVar("T")

_KINDS = {
    "film": ("film", "Leave out --video for a picture in the terminal; --out FILE writes it."),
    "show": ("picture", "`metarl evaluate` prints its table."),
}
"""Component -> what it makes, and what to do without it."""


def play(
    run: Run,
    script: str | None = None,
    runs: Path = Path("runs"),
    test_tasks: TestTasks = 3,
    test_steps: OptionalTestSteps = None,
    device: Device = None,
    trust: bool = False,
    out: Path | None = None,
    video: Path | None = None,
) -> None:
    """Adapts a run's learner to a few test tasks and draws the adaptation.

    Args:
        run: A run folder, whose newest valid checkpoint is used; `RUN/best`, that of the best
            value on validation tasks; a checkpoint; or `latest`.
        script: The experiment, if it is not installed: the path of its script, which is executed,
            or module:EXPERIMENT.
        runs: Folder of the run folders, for `latest`.
        test_tasks: Test tasks, at least 1.
        test_steps: Adaptation steps; by default those that suit the experiment.
        device: cpu, cuda, ...; by default that of the run.
        trust: Imports code that the run's settings name as module:Name, such as its family.
        out: File for the figure (.png, .pdf, .svg); by default it is drawn in the terminal only.
        video: File for a film (.gif, or .mp4 with the extra "video") of the same tasks before and
            after each step. Without `out`, no picture is drawn in addition.
    """
    if test_tasks < 1 or (test_steps is not None and test_steps < 0):
        raise SettingsError(
            f"Expected test_tasks >= 1 and test_steps >= 0, got {test_tasks} and {test_steps}."
        )
    from metarl.console import OutputConsole
    from metarl.lab.saved_run import reopened
    from metarl.plots.figures import check_figure, save_figure
    from metarl.plots.film import check_film, save_film

    if out is not None:
        check_figure(out)
    if video is not None:
        check_film(video)
    picture = film = None
    with reopened(run, runs=runs, script=script, trust=trust, training__device=device) as reopening:
        components, loop, checkpoint = reopening
        folder = checkpoint.parents[1]
        if video is not None:
            film = _require(components.film, "film", folder)(loop, test_tasks, test_steps)
        if video is None or out is not None:
            picture = _require(components.show, "show", folder)(loop, test_tasks, test_steps)
    console = OutputConsole()
    if picture is not None:
        console.print_whole(picture.drawing)
    if picture is not None and out is not None:
        save_figure(picture.figure, out)
        console.print("Figure:", str(out), markup=False, soft_wrap=True)
    if film is not None and video is not None:
        save_film(film, video)
        console.print("Film:", str(video), markup=False, soft_wrap=True)
        if film.note:
            console.print(film.note, markup=False, soft_wrap=True)


def _require(component: Callable[..., T] | None, name: str, run: Path) -> Callable[..., T]:
    if component is None:
        kind, instead = _KINDS[name]
        raise SettingsError(
            f"The experiment of {run} has no {kind} of an adaptation. {instead} In an experiment "
            f"of yours, give its `Components` a `{name}`."
        )
    return component
