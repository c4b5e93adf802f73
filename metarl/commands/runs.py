"""`metarl runs`: the run folders, with their state and best metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from metarl.errors import CheckpointError

if TYPE_CHECKING:
    from rich.table import Table

    from metarl.runs.best import Best
    from metarl.runs.run_state import RunState

_WIDE = 100  # letters
_COLOURS = {"training": "cyan", "finished": "green", "damaged": "red", "empty": "dim"}


def runs(
    runs: Path = Path("runs"),
    training_within: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None,
) -> None:
    """Lists run folders: their state, meta-iterations and best metric.

    training: a process writes into the folder; finished; stopped: see `--resume`, or a run from
    Python, of which no file says whether it is finished; empty: no checkpoint; damaged: with the
    reason. The best metric is that of the validation tasks after the last adaptation step; of a
    metric of your own, whose name does not say which values are better, it is the newest value.

    Args:
        runs: Folder of the run folders.
        training_within: Instead of the table, exits with 0 if a run is training and has written a
            file within this many minutes, otherwise with 1: a health check.
    """
    from metarl.console import OutputConsole
    from metarl.runs.run_state import run_states

    states = list(run_states(runs))
    console = OutputConsole()
    if training_within is not None:
        alive = [s for s in states if is_alive(s, training_within)]
        console.print(*(str(s.folder) for s in alive), sep="\n", markup=False, soft_wrap=True)
        if not alive:
            raise SystemExit(1)
        return
    if not states:
        raise CheckpointError(
            f"There are no run folders in {runs}. `metarl train sine` makes one; --runs names "
            "another folder."
        )
    console.print_whole(runs_table(states, runs, console.width >= _WIDE))
    for state in states:
        if state.problem:
            line = f"{state.folder}: {state.problem}"
            console.print(line, style="red", markup=False, soft_wrap=True)


def is_alive(state: RunState, minutes: float) -> bool:
    """Returns whether a run is training and has written a file within some minutes."""
    return state.state == "training" and state.minutes_since_written <= minutes


def runs_table(states: list[RunState], root: Path, wide: bool = True) -> Table:
    """Returns a table with a row per run folder.

    Args:
        states: The states of the runs.
        root: The folder of the run folders.
        wide: Whether there is space for when the best value was reached and a file was written.
    """
    from rich.markup import escape

    from metarl.evaluation.tables import report_table

    table = report_table(
        f"Runs in {root}", "best: the mean over validation tasks after the last adaptation step"
    )
    for name in ("run", "state", "iterations", "best", *(("at", "written") if wide else ())):
        right = name in ("iterations", "at")
        whole = name in ("run", "state", "iterations")  # a run's path can be copied
        table.add_column(name, justify="right" if right else "left", no_wrap=whole)
    for s in states:
        colour = _COLOURS.get(s.state, "")
        state = f"[{colour}]{s.state}[/]" if colour else s.state
        total = "?" if s.iterations is None else str(s.iterations)
        best, at = _best(s.best)
        late = (at, _when(s.minutes_since_written)) if wide else ()
        table.add_row(escape(str(s.folder)), state, f"{s.iteration}/{total}", best, *late)
    return table


def _best(best: Best | None) -> tuple[str, str]:
    from rich.markup import escape

    if best is None:
        return "", ""
    notes = [] if best.split == "validation" else [best.split]
    notes += ["newest"] if best.is_newest else []
    note = f" ({', '.join(notes)})" if notes else ""
    return escape(f"{best.metric} {best.value:.4g}{note}"), str(best.iteration)


def _when(minutes: float) -> str:
    """Returns how long ago something was, in the largest unit that suits."""
    for size, unit in ((1440, "d"), (60, "h")):
        if minutes >= size:
            return f"{minutes / size:.0f} {unit} ago"
    return f"{max(minutes, 0):.0f} min ago"
