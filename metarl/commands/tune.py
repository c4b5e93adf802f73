"""`metarl tune`: searches settings of an experiment by Optuna."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metarl.help_texts import settings_registry

if TYPE_CHECKING:
    from rich.table import Table

    from metarl.lab.tuning import Study

HELP = """Searches settings of an experiment.

Trains it with values that Optuna proposes, and compares the metric of the validation tasks at the
end. Trials worse than the median at the same meta-iteration end early. All other OPTIONS are those
of `metarl train EXPERIMENT`.

  metarl tune sine --trials 30 --training.iterations 5000 --training.eval-every 500 \\
    --search training.outer-lr=1e-4..1e-2:log learner.steps=1,2,5
"""


@dataclass(frozen=True)
class TuneSettings:
    """Options of the search; all others are those of `metarl train`."""

    search: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=RANGE ...")]
    """What to search: NAME=LOW..HIGH (uniform), NAME=LOW..HIGH:log (log-uniform) or NAME=A,B,C."""
    trials: int = 20
    """Trials of the study, those of earlier calls and of other machines included; at least 1."""
    study: str | None = None
    """Name of the study. None: the experiment and the algorithm."""
    storage: str | None = None
    """Where the study is kept: a file, or the address of a database (postgresql://...), which all
    machines must reach. None: tune.log in the folder of the runs."""
    pruning: bool = True
    """Ends trials early whose validation metric is worse than the median of earlier ones."""
    direction: Literal["minimize", "maximize"] | None = None
    """Whether lower or higher values of the validation metric are better. None: as its name says; a
    metric of your own needs it."""
    search_seed: int | None = None
    """Seed of the proposals. None: another one each time, as several machines need."""


def tune(*arguments: str) -> None:
    """Searches settings of an experiment by Optuna; see `metarl tune --help`.

    Args:
        arguments: The experiment, and the options.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        tyro.cli(
            TuneSettings, args=["--help"], prog="metarl tune EXPERIMENT", description=HELP,
            registry=settings_registry(),
        )  # fmt: skip
        return
    from metarl.lab.lookup import find_experiment
    from metarl.lab.tuning import Study

    name, *rest = arguments
    experiment = find_experiment(name)
    settings, options = tyro.cli(
        TuneSettings, args=rest, prog=f"metarl tune {name}", return_unknown_args=True,
        registry=settings_registry(),
    )  # fmt: skip
    study = Study(
        experiment, options, settings.search, storage=settings.storage, name=settings.study,
        pruning=settings.pruning, seed=settings.search_seed, direction=settings.direction,
    )  # fmt: skip
    try:
        study.run(settings.trials)
    finally:
        _print(study, name)


def _print(study: Study, experiment: str) -> None:
    """Prints the trials, best first, and the command that trains with the best settings."""
    import shlex

    from metarl.console import OutputConsole

    best = study.best_arguments()
    console = OutputConsole()
    console.print_whole(results_table(study))
    if best is None:
        console.print("No trial has finished.")
        return
    command = shlex.join(["metarl", "train", experiment, *best])
    console.print("The best one:", command, markup=False, highlight=False, soft_wrap=True)


def results_table(study: Study, longest: int = 10) -> Table:
    """Returns a table of the best trials, best first."""
    from rich.markup import escape

    from metarl.evaluation.tables import report_table

    trials, counts = study.best(longest), study.counts()
    caption = ", ".join(f"{count} {state}" for state, count in counts.items())
    table = report_table(f"Study {study.name}: {study.metric or 'no metric yet'}", caption)
    for column in ("trial", escape(study.metric or "value"), *study.names):
        table.add_column(column, justify="right")
    for trial in trials:
        values = [escape(_short(trial.params.get(name, ""))) for name in study.names]
        table.add_row(str(trial.number), f"{trial.value:.4g}", *values)
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
