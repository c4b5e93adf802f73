"""What every experiment script does between its settings and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from metarl.adaptation.learner import Learner
from metarl.tasks.base import TaskDistribution
from metarl.tasks.episodes import FewShot
from metarl.training.device import resolve_device, set_threads
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.run_folder import ResumePoint, create_run_folder, to_json, write_config
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


def train(
    experiment: str,
    settings: ExperimentSettings,
    learner: Learner,
    tasks: TaskDistribution,
    *,
    validation: TaskDistribution | None = None,
    resume: ResumePoint | None = None,
) -> tuple[OuterLoop, TrainingResult]:
    """Trains a learner in a new run folder, or goes on with a resumed one.

    Args:
        experiment: Its name, the first folder below `runs`.
        settings: The experiment's settings; all of them go into config.json.
        learner: What is trained.
        tasks: Distribution of the training tasks.
        validation: Distribution for the adaptation curves during training.
        resume: The run and checkpoint to go on from.

    Returns:
        The loop, whose logger stays open for the report, and how the training ended.
    """
    set_threads(settings.training.threads)  # before versions.json notes them
    device = resolve_device(settings.training.device)
    if isinstance(tasks, FewShot):  # images lie on the device, and episodes are drawn there
        tasks = tasks.to(device)
    if isinstance(validation, FewShot):
        validation = validation.to(device)
    if resume is None:
        seed = settings.training.seed
        folder = create_run_folder(settings.runs, experiment, settings.algorithm, seed, settings)
    else:
        folder = resume.folder
        write_config(folder, settings)  # what was changed holds for the next resumption too
    loop = OuterLoop(
        learner,
        tasks,
        settings.training,
        folder,
        validation=validation,
        resume=None if resume is None else resume.checkpoint,
        config=to_json(settings),
    )
    return loop, loop.run()
