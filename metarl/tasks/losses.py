"""Losses and metrics per task, chosen by the type of the targets."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from metarl.errors import ShapeError

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs [T, N, *] and targets [T, N, *] to a loss per task [T]."""


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error of each task.

    Args:
        outputs: Shape [T, N, *], float.
        targets: The same shape and type.

    Returns:
        Shape [T].

    Raises:
        ShapeError: The shapes differ (they would broadcast silently).
    """
    if outputs.shape != targets.shape:
        raise ShapeError(
            f"Expected outputs and targets of one shape, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}; let the model give {tuple(targets.shape[2:])} per example."
        )
    errors = F.mse_loss(outputs, targets, reduction="none")
    return errors.mean(tuple(range(1, errors.dim())))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean cross-entropy of each task, in nats.

    Args:
        outputs: Logits, shape [T, N, classes].
        targets: Class labels, shape [T, N], int64.

    Returns:
        Shape [T].

    Raises:
        ShapeError: The shapes do not fit each other, or a label has no logit.
    """
    _check_logits(outputs, targets)
    try:
        losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    except IndexError as error:  # on the CPU; a GPU stops with an assertion of its own
        raise ShapeError(
            f"Expected labels from 0 to {outputs.shape[-1] - 1} for {outputs.shape[-1]} logits, "
            f"got {int(targets.min())} to {int(targets.max())}; give the model an output per class."
        ) from error
    return losses.view(targets.shape).mean(1)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the share of right labels of each task, in [0, 1].

    Args:
        outputs: Logits, shape [T, N, classes].
        targets: Class labels, shape [T, N], int64.

    Returns:
        Shape [T].

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    _check_logits(outputs, targets)
    return (outputs.argmax(-1) == targets).to(outputs.dtype).mean(1)


def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for integer targets, mean squared error for the rest; per task [T]."""
    loss = mean_squared_error if targets.is_floating_point() else cross_entropy
    return loss(outputs, targets)


def task_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    """Accuracy for integer targets, mean squared error for the rest; per task [T]."""
    if targets.is_floating_point():
        return mean_squared_error(outputs, targets)
    return accuracy(outputs, targets)


def metric_name(targets: Tensor) -> str:
    """Returns the name of what `task_metric` gives for such targets: "mse" or "accuracy"."""
    return "mse" if targets.is_floating_point() else "accuracy"


def _check_logits(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise ShapeError(
            f"Expected logits [T, N, classes] for labels [T, N], got {tuple(outputs.shape)} for "
            f"{tuple(targets.shape)}."
        )
