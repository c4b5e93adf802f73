"""Distributions over supervised tasks."""

from metarl.tasks.base import Examples, Split, TaskBatch, TaskDistribution
from metarl.tasks.sine import Sine

__all__ = ["Examples", "Sine", "Split", "TaskBatch", "TaskDistribution"]
