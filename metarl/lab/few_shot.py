"""Few-shot classification of characters: the settings and what they build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from metarl.adaptation.algorithm import GradientAlgorithm
from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.errors import SettingsError
from metarl.lab.experiment import Components
from metarl.lab.few_shot_reports import few_shot_report, lake_runs_for, show_few_shot
from metarl.learners.images.embeddings import ImageShape
from metarl.learners.problem import NETWORKS, ImageAlgorithm, ImageProblem
from metarl.ranges import COUNT, NOT_NEGATIVE, WIDTH, check_fields
from metarl.tasks.characters import CharacterSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class OmniglotSettings:
    """Omniglot. Options and defaults are those of the chosen `--algorithm`."""

    algorithm: str = "maml"
    """Name of the algorithm; an unknown name lists them all."""
    learner: ImageAlgorithm = field(default_factory=MAMLAlgorithm)
    """The options of the algorithm."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tasks: tyro.conf.OmitArgPrefixes[CharacterSettings] = field(default_factory=CharacterSettings)
    filters: int = 32
    """Filters of each convolution; for resnet12, of its first block."""
    network: str = "conv4"
    """The network of the gradient algorithms: conv4, resnet12, or the path of a file that
    `metarl.models.save_module` wrote (.safetensors), from images to a logit per class."""
    test_tasks: int = 1000
    """Test tasks of the final table."""
    test_steps: int = 3
    """Adaptation steps of the final table."""
    lake_runs: Path | None = None
    """Archive of Lake's one-shot runs, on which the report tests too; needs 20 ways and 1 shot."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    resume: str | None = None
    """Resumes a run: its path, that of a checkpoint, or `latest` for the newest of the algorithm;
    `auto`: `latest`, or a new run if there is none. With --trust, code that the run names as
    module:Name is imported."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(self, filters=WIDTH, test_tasks=COUNT, test_steps=NOT_NEGATIVE)


def image_problem(
    settings: OmniglotSettings, generator: torch.Generator, classes: int
) -> ImageProblem:
    """Returns what the learner of the settings is built for.

    Args:
        settings: The settings.
        generator: Source of the initial weights.
        classes: Number of training classes, rotations included.
    """
    tasks = settings.tasks
    images = ImageShape(size=tasks.image_size)
    return ImageProblem(
        images, tasks.way, settings.filters, classes, generator, tasks.train_way, settings.network
    )


def build_few_shot(settings: OmniglotSettings) -> Components:
    """Builds the tasks, the learner and the reports.

    Raises:
        SettingsError: Parts of the settings do not suit each other.
        DataError: An archive is missing or corrupt.
    """
    if settings.network != NETWORKS[0] and not isinstance(settings.learner, GradientAlgorithm):
        raise SettingsError(
            f"Expected a gradient algorithm for `--network {settings.network}`, got "
            f"{settings.algorithm}, which builds another network: leave it out."
        )
    generator = torch.Generator().manual_seed(settings.training.seed)
    tasks = settings.tasks.train()
    test = settings.tasks.test(tasks)
    lake_runs = lake_runs_for(test, settings.lake_runs, settings.tasks.invert)
    learner = settings.learner.build(image_problem(settings, generator, tasks.num_classes))
    counts = {"num_tasks": settings.test_tasks, "steps": settings.test_steps}
    label = f"{settings.algorithm}, {settings.tasks.label}"
    return Components(
        learner=learner,
        tasks=tasks,
        validation=settings.tasks.validation(tasks),
        report=lambda loop: few_shot_report(
            loop, learner, test, label=label, lake_runs=lake_runs, **counts
        ),
        show=lambda loop, tasks, steps: show_few_shot(
            loop, learner, test, tasks, settings.test_steps if steps is None else steps
        ),
    )
