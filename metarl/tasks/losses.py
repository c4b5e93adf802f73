"""Losses and metrics of each task, selected by the dtype of the targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import ShapeError

_IGNORE_NOTHING = torch.iinfo(torch.int64).min
"""torch leaves out targets of its `ignore_index`, -100 by default; this one is no label."""

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs [T, N, *] and targets [T, N, *] to one loss per task, [T]."""


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error of each task.

    Args:
        outputs: Shape [T, N, *], float.
        targets: The same shape and dtype.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes differ (they would broadcast silently).
    """
    if outputs.shape != targets.shape:
        raise ShapeError(
            f"Expected outputs and targets of one shape, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}; let the model give {tuple(targets.shape[2:])} per example."
        )
    # L = mean over n of ||f(x_n) - y_n||^2 / dim(y)
    errors = F.mse_loss(outputs, targets, reduction="none")
    return errors.mean(tuple(range(1, errors.dim())))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean cross-entropy of each task, in nats.

    Args:
        outputs: Logits, shape [T, N, classes].
        targets: Class labels, shape [T, N], any integer type or bool.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes do not match, or a label has no logit (on the CPU; CUDA raises
            its own assertion error).
    """
    _check_logits(outputs, targets)
    try:
        # L = mean over n of -log softmax(f(x_n))_{y_n}
        losses = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten().long(),
            reduction="none", ignore_index=_IGNORE_NOTHING,
        )  # fmt: skip
    except IndexError as error:
        raise ShapeError(
            f"Expected labels from 0 to {outputs.shape[-1] - 1} for {outputs.shape[-1]} logits, "
            f"got {int(targets.min())} to {int(targets.max())}; give the model an output per class."
        ) from error
    return losses.view(targets.shape).mean(1)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the fraction of correct predictions of each task, in [0, 1].

    It is NaN for a task with a prediction whose largest logit is not finite. A logit of -inf next
    to a finite one is a class of probability 0.

    Args:
        outputs: Logits, shape [T, N, classes].
        targets: Class labels, shape [T, N], any integer type or bool, from 0 to classes - 1.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes do not match.
    """
    _check_logits(outputs, targets)
    largest, predictions = outputs.max(-1)  # NaN is larger than any number
    return nan_unless_finite((predictions == targets).to(outputs.dtype), largest).mean(1)


def nan_unless_finite(values: Tensor, source: Tensor) -> Tensor:
    """Returns `values` with NaN where `source`, of the same shape, is not finite."""
    return torch.where(source.isfinite(), values, float("nan"))


def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy for integer targets, else the mean squared error; shape [T]."""
    loss = mean_squared_error if targets.is_floating_point() else cross_entropy
    return loss(outputs, targets)


def task_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the accuracy for integer targets, else the mean squared error; shape [T]."""
    if targets.is_floating_point():
        return mean_squared_error(outputs, targets)
    return accuracy(outputs, targets)


def evaluation_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `task_metric`, and NaN for tasks with an output or a target that is not finite.

    A logit of -inf next to a finite one counts as finite; see `accuracy`.
    """
    metric = task_metric(outputs, targets)
    if not targets.is_floating_point():
        return metric
    # x - x = 0 for finite x, else NaN. The squared error of infinite outputs is infinite.
    return metric + ((outputs - outputs) + (targets - targets)).flatten(1).sum(1)


def metric_name(targets: Tensor) -> str:
    """Returns the name of the metric that `task_metric` computes: "mse" or "accuracy"."""
    return "mse" if targets.is_floating_point() else "accuracy"


def _check_logits(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise ShapeError(
            f"Expected logits [T, N, classes] for labels [T, N], got {tuple(outputs.shape)} for "
            f"{tuple(targets.shape)}."
        )
