"""Losses and metrics of each task, selected by the dtype of the targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import ShapeError

_IGNORE_NOTHING = torch.iinfo(torch.int64).min
"""torch leaves out targets of its `ignore_index`, -100 by default; this one is no label."""

TaskLoss = Callable[..., Tensor]
"""Maps outputs [T, N, *] and targets [T, N, *] to one loss per task, [T], or per example, [T, N] or
[T, N, *]; see `metarl.adaptation.loss_function.LossFunction`."""


def mean_squared_error(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the mean squared error of each task.

    Args:
        outputs: Shape [T, N, *], float.
        targets: The same shape and dtype.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes differ (they would broadcast silently).
    """
    if outputs.shape != targets.shape:
        advice = f"let the model give {tuple(targets.shape[2:])} per example"
        if outputs.shape == (*targets.shape, 1):
            advice = "give targets.unsqueeze(-1), one number per example"
        elif outputs.shape[:-1] == targets.shape:
            advice = "labels of classes are integers, targets.long()"
        raise ShapeError(
            f"Expected outputs and targets of one shape, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}; {advice}."
        )
    # L = mean over n of ||f(x_n) - y_n||^2 / dim(y)
    errors = F.mse_loss(outputs, targets, reduction="none")
    if weights is not None or mask is not None:
        return weighted_mean(errors, weights, mask)
    return errors.mean(tuple(range(1, errors.dim())))


def cross_entropy(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the mean cross-entropy of each task, in nats.

    Args:
        outputs: Logits, shape [T, N, classes], or [T, N, L, classes] for a class per element.
        targets: Class labels, shape [T, N] or [T, N, L], any integer type or bool.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes do not match, or a label has no logit (on the CPU; CUDA raises
            its own assertion error).
    """
    check_logits(outputs, targets)
    try:
        # L = mean over n of -log softmax(f(x_n))_{y_n}
        losses = F.cross_entropy(
            outputs.flatten(0, -2), targets.flatten().long(),
            reduction="none", ignore_index=_IGNORE_NOTHING,
        )  # fmt: skip
    except IndexError as error:
        raise ShapeError(
            f"Expected labels from 0 to {outputs.shape[-1] - 1} for {outputs.shape[-1]} logits, "
            f"got {int(targets.min())} to {int(targets.max())}; give the model an output per class."
        ) from error
    return weighted_mean(losses.view(targets.shape), weights, mask)


def accuracy(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the fraction of correct predictions of each task, in [0, 1].

    It is NaN for a task with a prediction whose largest logit is not finite. A logit of -inf next
    to a finite one is a class of probability 0.

    Args:
        outputs: Logits, shape [T, N, classes], or [T, N, L, classes] for a class per element.
        targets: Class labels, shape [T, N] or [T, N, L], any integer type or bool, from 0 to
            classes - 1.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Returns:
        Shape [T].

    Raises:
        ShapeError: If the shapes do not match.
    """
    check_logits(outputs, targets)
    largest, predictions = outputs.max(-1)  # NaN is larger than any number
    correct = nan_unless_finite((predictions == targets).to(outputs.dtype), largest)
    return weighted_mean(correct, weights, mask)


def weighted_mean(
    values: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the weighted mean of each task's values; what has the weight 0 is not read.

        sum_n w_n sum_l m_nl v_nl / sum_n w_n sum_l m_nl

    Args:
        values: A value per example, [T, N], or several, [T, N, *].
        weights: Weight of each example, [T, N], with a sum above 0 in each task; None: all 1.
        mask: True for the real elements of each example, [T, N, L], bool. It counts for values
            [T, N, L, *]; a value per example has read it already. None: all are real.

    Returns:
        Shape [T].
    """
    if mask is not None and values.shape[:3] != mask.shape:
        mask = None
    if weights is None and mask is None:
        return values.flatten(1).mean(1)
    shape = (values if mask is None else mask).shape
    factors = values.new_ones(shape[:2]) if weights is None else weights.to(values.dtype)
    factors = factors.view(*shape[:2], *[1] * (values.dim() - 2))
    if mask is not None:
        factors = factors * mask.view(*mask.shape, *[1] * (values.dim() - 3))
    factors = factors.expand_as(values).flatten(1)
    values = values.flatten(1).masked_fill(factors == 0, 0.0)
    return (factors * values).sum(1) / factors.sum(1)


def are_shares(values: Tensor) -> bool:
    """Returns whether the last dimension holds shares of classes: none negative, their sum 1."""
    if values.dim() < 3 or values.shape[-1] < 2 or not bool((values >= 0).all()):
        return False
    sums = values.sum(-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def nan_unless_finite(values: Tensor, source: Tensor) -> Tensor:
    """Returns `values` with NaN where `source`, of the same shape, is not finite."""
    return torch.where(source.isfinite(), values, float("nan"))


def task_loss(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the cross-entropy for integer targets, else the mean squared error; shape [T]."""
    loss = mean_squared_error if targets.is_floating_point() else cross_entropy
    return loss(outputs, targets, weights, mask)


def task_metric(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the accuracy for integer targets, else the mean squared error; shape [T]."""
    metric = mean_squared_error if targets.is_floating_point() else accuracy
    return metric(outputs, targets, weights, mask)


def evaluation_metric(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns `task_metric`, and NaN for tasks with an output or a target that is not finite.

    What has the weight 0 is not read. A logit of -inf next to a finite one counts as finite; see
    `accuracy`.
    """
    metric = task_metric(outputs, targets, weights, mask)
    if not targets.is_floating_point():
        return metric
    # x - x = 0 for finite x, else NaN. The squared error of infinite outputs is infinite.
    return metric + weighted_mean((outputs - outputs) + (targets - targets), weights, mask)


def metric_name(targets: Tensor) -> str:
    """Returns the name of the metric that `task_metric` computes: "mse" or "accuracy"."""
    return "mse" if targets.is_floating_point() else "accuracy"


def check_logits(outputs: Tensor, targets: Tensor) -> None:
    """Raises ShapeError unless outputs [T, N, *, classes] are logits for labels [T, N, *]."""
    if outputs.dim() < 3 or outputs.shape[:-1] != targets.shape:
        hint = ""
        if outputs.dim() > 3 and (*outputs.shape[:2], *outputs.shape[3:]) == targets.shape:
            hint = " Dimension 2 seems to have the classes: return outputs.movedim(1, -1)."
        raise ShapeError(
            f"Expected logits [T, N, classes] for labels [T, N], got {tuple(outputs.shape)} for "
            f"{tuple(targets.shape)}.{hint}"
        )
