"""Adaptation curves on validation tasks during training."""

from __future__ import annotations

import torch

from metarl.adaptation.learner import Learner
from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.tasks.base import TaskSource
from metarl.training.settings import TrainingSettings

VALIDATION_SEED = 1_000_003
"""The validation tasks are the same at every evaluation and for every seed."""


def validation_curve(
    learner: Learner, tasks: TaskSource, settings: TrainingSettings, device: torch.device
) -> AdaptationCurve:
    """Returns the curve of a learner on the validation tasks of the settings.

    Args:
        learner: The learner, on `device`.
        tasks: Distribution of the validation tasks.
        settings: Number of tasks and of adaptation steps.
        device: The device of the tasks.
    """
    try:
        return adaptation_curve(
            learner,
            tasks,
            num_tasks=settings.eval_tasks,
            steps=settings.eval_steps,
            generator=torch.Generator(device).manual_seed(VALIDATION_SEED),
            transductive=True,  # one pass for all queries; learners that cannot ignore it
        )
    except Exception as error:
        error.add_note("This happened on the validation tasks, not in training.")
        raise


def dashboard_tags(
    learner: Learner, tasks: TaskSource | None, settings: TrainingSettings, device: torch.device
) -> list[str]:
    """Returns the tags of the metrics in TensorBoard's dashboard of hyper-parameters.

    Args:
        learner: The learner, on `device`.
        tasks: Distribution of the validation tasks; None without validation.
        settings: Whether there are curves.
        device: The device of the tasks.
    """
    if tasks is None or not settings.eval_every:
        return ["meta/loss"]  # there is no other
    generator = torch.Generator(device).manual_seed(VALIDATION_SEED)
    return [f"eval_validation/{learner.metric(tasks.sample(1, generator))}/mean"]
