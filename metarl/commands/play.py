"""`metarl play`: an adaptation as a picture, in the terminal and as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from metarl.errors import SettingsError
from metarl.lab.saved_run import reopened
from metarl.plots.figures import save_figure
from metarl.plots.film import save_film

T = TypeVar("T")


def play(
    run: tyro.conf.Positional[Path],
    script: Path | None = None,
    tasks: int = 3,
    steps: int | None = None,
    device: str | None = None,
    out: Path | None = None,
    video: Path | None = None,
) -> None:
    """Adapts a run's learner to a few test tasks and shows what that looks like.

    Args:
        run: A run folder, whose newest good checkpoint is taken, or a checkpoint.
        script: The experiment script, if it is not where it was.
        tasks: Test tasks, at least 1.
        steps: Adaptation steps; what suits the experiment by default.
        device: cpu, cuda, ...; that of the run by default.
        out: File for the figure (.png, .pdf, .svg); by default it is drawn in the terminal only.
        video: File for a film (.gif, or .mp4 with the extra "video"): the same tasks before and
            after each step. Nothing else is drawn then, unless `out` asks for it.
    """
    if tasks < 1 or (steps is not None and steps < 0):
        raise SettingsError(f"Expected tasks >= 1 and steps >= 0, got {tasks} and {steps}.")
    picture = film = None
    with reopened(run, script=script, training__device=device) as (parts, loop, _):
        if video is not None:
            film = _asked(parts.film, "film", run)(loop, tasks, steps)
        if video is None or out is not None:
            picture = _asked(parts.show, "show", run)(loop, tasks, steps)
    console = Console()
    if picture is not None:
        console.print(picture.drawing)
    if picture is not None and out is not None:
        save_figure(picture.figure, out)
        console.print("Figure:", str(out), soft_wrap=True)
    if film is not None and video is not None:
        save_film(film, video)
        console.print("Film:", str(video), soft_wrap=True)
        if film.note:
            console.print(escape(film.note), soft_wrap=True)


def _asked(part: Callable[..., T] | None, name: str, run: Path) -> Callable[..., T]:
    if part is None:
        raise SettingsError(
            f"The experiment of {run} has no picture of an adaptation of this kind; give its "
            f"`Components` a `{name}`, or see `metarl evaluate`."
        )
    return part
