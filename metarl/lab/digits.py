"""Few-shot classification of scikit-learn's digits: the settings and what they build."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm
from metarl.adaptation.algorithms import MAMLAlgorithm, PretrainedAlgorithm
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.extras import import_extra
from metarl.lab.experiment import Components
from metarl.lab.few_shot_reports import few_shot_report, show_few_shot
from metarl.learners.images.embeddings import ImageShape, Pixels
from metarl.learners.metric.algorithms import NearestNeighbourAlgorithm
from metarl.learners.metric.comparisons import NearestNeighbour
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.problem import ImageAlgorithm
from metarl.models.mlp import MLP
from metarl.ranges import COUNT, NOT_NEGATIVE, WIDTH, check_fields
from metarl.tasks.base import Split, TaskBatch
from metarl.tasks.data.few_shot_data import FewShotData
from metarl.tasks.distortions import Distortion
from metarl.tasks.episodes import FewShot, Rotations
from metarl.training.settings import TrainingSettings

IMAGE_SIZE = 8
LARGEST = 16.0  # of the pixels' values
EXTRA = "data"
NEW_CLASSES = Distortion(15.0, 0.2, 0.2, 0.08, 0.05, novelty=2.0)


@dataclass(frozen=True)
class DigitSettings:
    """scikit-learn's digits. Options and defaults are those of the chosen `--algorithm`."""

    only_at_start: ClassVar[tuple[str, ...]] = ("split_seed",)
    """With another split, a resumed run would be tested on digits that it was trained on."""

    algorithm: str = "maml"
    """Name of the algorithm; an unknown name lists them all."""
    learner: ImageAlgorithm = field(default_factory=MAMLAlgorithm)
    """The options of the algorithm."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    way: int = 5
    """Classes per task; test tasks have at most 5."""
    shots: int = 1
    """Support images per class."""
    queries: int = 15
    """Query images per class."""
    rotations: Rotations = "reflected"
    """Rotations of training digits; see metarl.tasks.FewShot. Test digits are not rotated."""
    distortion: Distortion = field(default_factory=lambda: NEW_CLASSES)
    """Random distortions of training images; novelty in effect makes new digits."""
    split_seed: int = 0
    """Seed of the choice of the five digits for training; the other five are for test tasks."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the network's hidden layers; none: a linear classifier."""
    test_tasks: int = 600
    """Test tasks of the final table."""
    test_steps: int = 50
    """Adaptation steps of the final table."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    resume: str | None = None
    """Resumes a run: its path, that of a checkpoint, or `latest` for the newest of the algorithm;
    `auto`: `latest`, or a new run if there is none. With --trust, code that the run names as
    module:Name is imported."""

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_fields(
            self, way=COUNT, shots=COUNT, queries=COUNT, hidden=WIDTH, test_tasks=COUNT,
            test_steps=NOT_NEGATIVE,
        )  # fmt: skip


@dataclass(frozen=True)
class DigitProblem:
    """What a gradient-based algorithm is built for: a network of fully connected layers.

    Attributes:
        sizes: Widths of the layers.
        generator: Source of the initial weights.
    """

    sizes: tuple[int, ...]
    generator: torch.Generator

    def network(self) -> MLP:
        """Builds the network that adapts."""
        return MLP(self.sizes, self.generator)

    def learner(self, adaptation: Adaptation) -> GradientLearner:
        """Builds the learner of an adaptation of the network."""
        return GradientLearner(adaptation)


@dataclass(frozen=True)
class AllClasses:
    """Episodes whose labels number all classes of the split, for an ordinary classifier.

    Attributes:
        episodes: The episodes.
    """

    episodes: FewShot

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of episodes with labels below `num_classes` of the episodes."""
        tasks = self.episodes.sample(num_tasks, generator)
        support, query = (
            part._replace(targets=tasks.info["labels"].gather(1, part.targets))
            for part in (tasks.support, tasks.query)
        )
        return replace(tasks, support=support, query=query)

    def split(self, name: Split) -> AllClasses:
        """Returns the distribution over the tasks of one split."""
        return AllClasses(self.episodes.split(name))


def digit_tasks(settings: DigitSettings) -> FewShot:
    """Returns the training tasks; `split("test")` has the other five digits.

    Raises:
        SettingsError: scikit-learn is not installed, or the settings do not fit the ten digits.
    """
    data = import_extra("sklearn.datasets", EXTRA).load_digits()
    images = np.asarray(data.images, np.float32)[:, None] / LARGEST
    tasks = FewShotData(
        images, data.target, settings.way, settings.shots, settings.queries,
        splits={"train": 0.5, "test": 0.5}, seed=settings.split_seed,
        rotations=settings.rotations,
    )  # fmt: skip
    return replace(tasks, distortion=settings.distortion)


def build_digits(settings: DigitSettings) -> Components:
    """Builds the tasks, the learner and the reports.

    Raises:
        SettingsError: scikit-learn is not installed, or settings do not suit each other.
    """
    generator = torch.Generator().manual_seed(settings.training.seed)
    episodes = digit_tasks(settings)
    test = replace(episodes, part="test", rotations="none", distortion=None)
    pretrains = isinstance(settings.learner, PretrainedAlgorithm)
    tasks = AllClasses(episodes) if pretrains else episodes
    learner = _learner(settings, generator, episodes.num_classes if pretrains else settings.way)

    def tested() -> SupervisedLearner:
        return _with_new_head(settings, learner) if pretrains else learner

    label = f"{settings.algorithm}, digits, split {settings.split_seed}"
    return Components(
        learner=learner,
        tasks=tasks,
        validation=tasks if pretrains else replace(episodes, rotations="none", distortion=None),
        report=lambda loop: few_shot_report(
            loop, tested(), test, label=label, num_tasks=settings.test_tasks,
            steps=settings.test_steps,
        ),
        show=lambda loop, number, steps: show_few_shot(
            loop, tested(), test, number, settings.test_steps if steps is None else steps
        ),
    )  # fmt: skip


def _learner(
    settings: DigitSettings, generator: torch.Generator, outputs: int
) -> SupervisedLearner:
    if isinstance(settings.learner, NearestNeighbourAlgorithm):
        pixels = Pixels(ImageShape(1, IMAGE_SIZE))
        return MetricLearner(pixels, NearestNeighbour(settings.learner.scale))
    if not isinstance(settings.learner, GradientAlgorithm):
        raise SettingsError(
            f"Expected an algorithm that adapts by gradients or nearest-neighbour, got "
            f"{type(settings.learner).__name__}; the images are too small for the other networks."
        )
    sizes = (IMAGE_SIZE**2, *settings.hidden, outputs)
    return settings.learner.build(DigitProblem(sizes, generator))


def _with_new_head(settings: DigitSettings, learner: SupervisedLearner) -> SupervisedLearner:
    """Returns a trained classifier with a last layer of zeros, an output for each class of a task.

    Every class has the same logit before the fine-tuning.
    """
    generator = torch.Generator().manual_seed(settings.training.seed)
    tested = _learner(settings, generator, settings.way)
    trained, last = learner.state_dict(), f"layers.{len(settings.hidden)}."
    state = {
        name: torch.zeros_like(value) if last in name else trained[name]
        for name, value in tested.state_dict().items()
    }
    tested.load_state_dict(state)
    return tested.to(next(learner.parameters()).device)
