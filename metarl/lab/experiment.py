"""What an experiment script is: settings, what they build, and training from start to report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from rich.table import Table

from metarl.adaptation.learner import Learner
from metarl.devices import resolve_device, set_threads
from metarl.lab.command_line import parse_settings, run_script
from metarl.plots.film import Film
from metarl.plots.pictures import Picture
from metarl.runs.run_folder import ResumePoint, create_run_folder, to_json, write_config
from metarl.tasks.base import TaskSource
from metarl.tasks.episodes import FewShot
from metarl.tasks.streams import Streams
from metarl.training.loop import OuterLoop
from metarl.training.outer_update import OuterUpdate
from metarl.training.settings import TrainingSettings


class ExperimentSettings(Protocol):
    """The fields that the settings of every experiment have; frozen dataclasses."""

    @property
    def algorithm(self) -> str:
        """Name of the configuration that gave the defaults."""
        ...

    @property
    def training(self) -> TrainingSettings:
        """The outer loop's settings."""
        ...

    @property
    def runs(self) -> Path:
        """Where the run folders lie."""
        ...


S = TypeVar("S", bound=ExperimentSettings)


@dataclass(frozen=True)
class Components:
    """What the settings of an experiment build.

    Attributes:
        learner: What is trained.
        tasks: Distribution of the training tasks.
        report: Judges the learner of a loop on test tasks, logs that and returns a table.
        validation: Distribution for the adaptation curves during training; None draws none.
        update: The outer update; None takes the optimiser of the training settings.
        show: Adapts the learner of a loop to a number of test tasks, in a number of steps (None:
            as many as suit it), and returns that as a picture; None: there is none to see.
        film: The same as a film; None: there is nothing that moves.
    """

    learner: Learner
    tasks: TaskSource
    report: Callable[[OuterLoop], Table]
    validation: TaskSource | None = None
    update: OuterUpdate | None = None
    show: Callable[[OuterLoop, int, int | None], Picture] | None = None
    film: Callable[[OuterLoop, int, int | None], Film] | None = None


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """An experiment script: all that training, resuming and judging again need.

    A script keeps its experiment under the name EXPERIMENT; run folders note where the script
    lies, and `metarl evaluate` and `metarl play` load it from there.

    Attributes:
        name: First folder below `runs`.
        configs: Default settings by algorithm, frozen dataclasses; the first one is the default.
        build: Makes the parts from settings.
    """

    name: str
    configs: Mapping[str, S]
    build: Callable[[S], Components]

    def run(self) -> None:
        """Does what a script does: parses the command line, trains and reports."""
        run_script(self.main)

    def open(self, settings: S, parts: Components, resume: ResumePoint | None = None) -> OuterLoop:
        """Returns the outer loop of a new run folder, or of a resumed one at its checkpoint."""
        set_threads(settings.training.threads)  # before versions.json notes them
        if resume is None:
            seed = settings.training.seed
            folder = create_run_folder(
                settings.runs, self.name, settings.algorithm, seed, settings, script=self._script()
            )
        else:
            folder = resume.folder
            write_config(folder, settings)  # what was changed holds for the next resumption too
        checkpoint = None if resume is None else resume.checkpoint
        return _loop(settings, parts, folder, checkpoint, to_json(settings))

    def reopen(self, settings: S, checkpoint: Path, folder: Path) -> tuple[OuterLoop, Components]:
        """Returns the outer loop at a checkpoint, and its parts, to look at the learner again.

        Args:
            settings: Those of the run.
            checkpoint: The checkpoint.
            folder: Where reports and logs go: another one than the run's.
        """
        set_threads(settings.training.threads)
        parts = self.build(settings)
        return _loop(settings, parts, folder, checkpoint), parts

    def main(self) -> None:
        """Trains and reports; raises what `run` turns into a message."""
        settings, resume = parse_settings(self.configs, self.name)
        parts = self.build(settings)
        loop = self.open(settings, parts, resume)
        result = loop.run()
        if not result.finished:
            print_stopped(result)
        print_report(parts.report(loop), loop, result)

    def _script(self) -> Path:
        return Path(inspect.getfile(self.build)).resolve()


def _loop(
    settings: ExperimentSettings,
    parts: Components,
    folder: Path,
    checkpoint: Path | None,
    config: dict[str, Any] | None = None,
) -> OuterLoop:
    device = resolve_device(settings.training.device)
    return OuterLoop(
        parts.learner,
        _on_device(parts.tasks, device),
        settings.training,
        folder,
        validation=_on_device(parts.validation, device),
        update=parts.update,
        resume=checkpoint,
        config=config,
    )


def _on_device(tasks: Any, device: torch.device) -> Any:
    """Moves images to the device, where episodes are then drawn; the rest draws by generator."""
    return tasks.to(device) if isinstance(tasks, FewShot | Streams) else tasks
