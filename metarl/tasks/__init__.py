"""Distributions over supervised tasks."""

from metarl.tasks.base import Examples, Split, TaskBatch, TaskDistribution
from metarl.tasks.check_task_distribution import check_task_distribution
from metarl.tasks.data import Characters, FewShotData, TensorSource
from metarl.tasks.episodes import FewShot
from metarl.tasks.glyphs import Glyphs
from metarl.tasks.image_folder import ImageFolder
from metarl.tasks.omniglot import Omniglot
from metarl.tasks.pools import ExamplePool, ImagePool
from metarl.tasks.sine import Sine

__all__ = [
    "Characters",
    "ExamplePool",
    "Examples",
    "FewShot",
    "FewShotData",
    "Glyphs",
    "ImageFolder",
    "ImagePool",
    "Omniglot",
    "Sine",
    "Split",
    "TaskBatch",
    "TaskDistribution",
    "TensorSource",
    "check_task_distribution",
]
