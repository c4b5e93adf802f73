"""Distributions over supervised tasks, and the batches of tasks that they sample.

`Sine`, `Omniglot` and `Glyphs` are ready to use. `FewShotData`, `GroupedExamples`, `Forecasting`
and `ImageFolder` make tasks from your data. `check_task_distribution` checks a distribution that
you wrote.
"""

from metarl.tasks.background import Background
from metarl.tasks.base import Examples, Split, TaskBatch, TaskDistribution
from metarl.tasks.check_task_distribution import check_task_distribution
from metarl.tasks.data import (
    Characters,
    FewShotData,
    Forecasting,
    GroupedExamples,
    TensorSource,
    with_descriptions,
)
from metarl.tasks.episodes import FewShot
from metarl.tasks.glyphs import Glyphs
from metarl.tasks.grouped import GroupTasks
from metarl.tasks.image_folder import ImageFolder
from metarl.tasks.omniglot import Omniglot
from metarl.tasks.pools import ExamplePool, ImagePool
from metarl.tasks.series import SeriesTasks
from metarl.tasks.sine import Sine

__all__ = [
    "Background",
    "Characters",
    "ExamplePool",
    "Examples",
    "FewShot",
    "FewShotData",
    "Forecasting",
    "Glyphs",
    "GroupTasks",
    "GroupedExamples",
    "ImageFolder",
    "ImagePool",
    "Omniglot",
    "SeriesTasks",
    "Sine",
    "Split",
    "TaskBatch",
    "TaskDistribution",
    "TensorSource",
    "check_task_distribution",
    "with_descriptions",
]
