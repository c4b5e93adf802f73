"""Few-shot classification of characters: the settings, and each algorithm's defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from metarl.adaptation import settings as learners
from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.learners.images.embeddings import ImageShape
from metarl.learners.memory import algorithms as memory
from metarl.learners.metric import algorithms as metric
from metarl.models.conv4 import Conv4
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.distortions import Distortion
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class OmniglotSettings:
    """Omniglot; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "maml"
    """The algorithm; an unknown name lists them all."""
    learner: Any = field(default_factory=learners.MAMLSettings)
    """`LearnerSettings`, `MetricSettings` or `MemorySettings`; `algorithm` chooses which."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tasks: tyro.conf.OmitArgPrefixes[CharacterSettings] = field(default_factory=CharacterSettings)
    filters: int = 32
    """Filters of each convolution."""
    test_tasks: int = 1000
    """Test tasks of the final table."""
    test_steps: int = 3
    """Adaptation steps at test."""
    lake_runs: Path | None = None
    """Archive of Lake's one-shot runs; for 20 ways and 1 shot."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""


def build_learner(
    settings: OmniglotSettings, generator: torch.Generator, classes: int
) -> SupervisedLearner:
    """Builds the learner, its network included.

    Args:
        settings: Those of the experiment.
        generator: The initial weights start from its draws.
        classes: Number of training classes, rotations counted.

    Raises:
        SettingsError: A learner with an output per class is to train on more or fewer classes than
            it is tested on.
    """
    chosen, tasks = settings.learner, settings.tasks
    images = ImageShape(size=tasks.image_size)
    if isinstance(chosen, metric.MetricSettings):
        return chosen.build(images, settings.filters, generator)
    if isinstance(chosen, metric.FeatureClassifierSettings):
        return chosen.build(images, settings.filters, classes, generator)
    if tasks.train_way not in (None, tasks.way):
        raise SettingsError(
            f"The network of {settings.algorithm} has an output per class: expected a train_way "
            f"of {tasks.way}, got {tasks.train_way}. Metric learners take any."
        )
    if isinstance(chosen, memory.MemorySettings):
        return chosen.build(images, tasks.way, settings.filters, generator)
    model = Conv4(
        tasks.way,
        generator,
        image_size=tasks.image_size,
        filters=settings.filters,
        pooling="stride",
    )
    return chosen.build(model, generator)


# Chosen by the accuracy on fresh training tasks of 5 and 20 ways: docs/results.md.
BASE = TrainingSettings(
    iterations=2000,
    meta_batch_size=8,
    outer_lr=3e-3,
    schedule="cosine",
    threads=1,
    eval_every=500,
    eval_steps=3,
)
LSTMS = replace(BASE, iterations=500, meta_batch_size=4, max_grad_norm=0.25)
REPTILE = replace(
    BASE, iterations=4000, meta_batch_size=5, optimizer="sgd", outer_lr=1.0, schedule="linear"
)
NORMS = ("*.norm.*",)  # Finn's code adapts no normalisation; nor does MAML++
MAML = learners.MAMLSettings(inner_lr=2.0, frozen=NORMS)
# Without second derivatives a start learns little from how far a single step goes.
FOMAML = replace(MAML, inner_lr=1.0, steps=3, first_order=True)
META_SGD = learners.MetaSGDSettings(low=1.0, high=2.0, frozen=NORMS)
MAML_PLUS_PLUS = learners.MAMLPlusPlusSettings(1.0, steps=2, multi_step_iterations=200)
LSTM = learners.LSTMMetaLearnerSettings(steps=5, units=8)
LEARNED_OPTIMIZER = learners.LearnedOptimizerSettings(steps=5, unroll=5, units=8)
TEN_SHOTS = CharacterSettings(train_shots=10)

# One large episode a meta-iteration, as Snell et al.; adaptation has no steps.
EPISODES = replace(BASE, meta_batch_size=1, outer_lr=1e-3, eval_steps=0)
SIXTY_WAYS = CharacterSettings(train_way=60, queries=5)
CLIPPED = replace(EPISODES, meta_batch_size=4, max_grad_norm=0.5)
SEVERAL = replace(
    EPISODES, iterations=15_000, meta_batch_size=16, outer_lr=3e-3, max_grad_norm=10.0
)
FEW = replace(EPISODES, meta_batch_size=4, max_grad_norm=10.0)
FIVE_WAYS = CharacterSettings(queries=5)
TWENTY_WAYS = replace(SIXTY_WAYS, train_way=20)

# For Lake's runs, chosen on the new alphabets of minimal-2: classes and images that are distorted
# replace the background's other alphabets.
ONE_SHOT = metric.MatchingSettings(
    scale=20.0, embedding=metric.EmbeddingSettings("pyramid", bfloat16=True, views=9)
)
DISTORTED = CharacterSettings(
    way=20,
    train_way=128,
    rotations="reflected",
    test_grouping="drawers",
    distortion=Distortion(12, 0.15, 0.15, 0.06, 0.025, 0.5),
)
LONG = replace(EPISODES, iterations=2400, outer_lr=6e-3, max_grad_norm=5.0, eval_every=0)


def _comparing(name: str, learner: Any, **changes: Any) -> OmniglotSettings:
    defaults = {"training": EPISODES, "tasks": SIXTY_WAYS, "filters": 64, "test_steps": 0}
    return OmniglotSettings(name, learner, **{**defaults, **changes})


CONFIGS = {
    "maml": OmniglotSettings("maml", MAML, BASE, test_steps=1),
    "fomaml": OmniglotSettings("fomaml", FOMAML, BASE, test_steps=3),
    "metasgd": OmniglotSettings("metasgd", META_SGD, BASE, test_steps=1),
    "mamlplusplus": OmniglotSettings("mamlplusplus", MAML_PLUS_PLUS, BASE, test_steps=2),
    "reptile": OmniglotSettings(
        "reptile", learners.ReptileSettings(), REPTILE, TEN_SHOTS, test_steps=50
    ),
    "lstm": OmniglotSettings("lstm", LSTM, LSTMS, filters=16, test_steps=5),
    "learned-optimizer": OmniglotSettings(
        "learned-optimizer", LEARNED_OPTIMIZER, LSTMS, filters=16, test_steps=5
    ),
    "prototypical": _comparing("prototypical", metric.PrototypicalSettings()),
    "matching": _comparing("matching", metric.MatchingSettings(), tasks=TWENTY_WAYS),
    "relation": _comparing(
        "relation", metric.RelationSettings(), tasks=FIVE_WAYS, training=CLIPPED
    ),
    "siamese": _comparing("siamese", metric.SiameseSettings(), tasks=TWENTY_WAYS),
    "one-shot": OmniglotSettings(
        "one-shot", ONE_SHOT, LONG, DISTORTED, 32, test_tasks=200, test_steps=0
    ),
    "nearest-neighbour": _comparing(
        "nearest-neighbour",
        metric.NearestNeighbourSettings(),
        training=replace(EPISODES, iterations=0),
    ),
    "mann": _comparing("mann", memory.MANNSettings(), tasks=CharacterSettings(), training=SEVERAL),
    "metanet": _comparing(
        "metanet", memory.MetaNetSettings(), tasks=FIVE_WAYS, training=FEW, filters=32
    ),
    "classifier": _comparing("classifier", metric.FeatureClassifierSettings()),
}
