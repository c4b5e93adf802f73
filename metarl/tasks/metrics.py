"""Metrics by name: what curves, tables and logs show of a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metarl.errors import ShapeError, TaskError
from metarl.registry import Registry
from metarl.tasks.base import Examples
from metarl.tasks.losses import (
    accuracy,
    check_logits,
    cross_entropy,
    mean_squared_error,
    nan_unless_finite,
    weighted_mean,
)

MetricFunction = Callable[..., Tensor]
"""Maps outputs [T, N, *] and targets [T, N, *] to a value per task, [T], or per example, [T, N] or
[T, N, *]; a learner takes the weighted mean of the latter."""

METRICS: Registry[MetricFunction] = Registry("metric")
"""Name -> metric. Each has the arguments `outputs`, `targets`, `weights` and `mask`; some take what
else a learner passes to metrics (see `metarl.adaptation.loss_function`)."""


def binary_accuracy(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the fraction of yes-or-no answers that are correct; an answer is yes above 0.

    Args:
        outputs: A logit per answer, the shape of the targets, or with a last dimension of 1 more.
        targets: 0 or 1, shape [T, N], or [T, N, labels] for several labels per example.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Returns:
        Shape [T]; NaN where a logit is NaN.

    Raises:
        ShapeError: The shapes differ.
    """
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs.squeeze(-1)
    _check_one_shape(outputs, targets, "logits")
    correct = ((outputs > 0) == (targets > 0.5)).to(outputs.dtype)
    return weighted_mean(correct.masked_fill(outputs.isnan(), float("nan")), weights, mask)


def macro_f1(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the F1 score of each task, the mean over the classes that occur in it.

    F1 = 2 TP / (2 TP + FP + FN) for each class that is the target or the prediction of an example.

    Args:
        outputs: Logits, shape [T, N, classes], or [T, N, L, classes] for a class per element.
        targets: Class labels, shape [T, N] or [T, N, L], any integer type or bool.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Returns:
        Shape [T], in [0, 1]; NaN where a largest logit is not finite.

    Raises:
        ShapeError: The shapes do not match.
    """
    check_logits(outputs, targets)
    classes = torch.arange(outputs.shape[-1], device=outputs.device)
    largest, predictions = outputs.max(-1)
    shares = torch.ones_like(largest) if weights is None else _expanded(weights, largest)
    if mask is not None and mask.shape == largest.shape:
        shares = shares * mask
    shares = torch.where(shares > 0, nan_unless_finite(shares, largest), 0.0).unsqueeze(-1)
    predicted = (predictions.unsqueeze(-1) == classes).to(outputs.dtype)
    actual = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
    dims = tuple(range(1, outputs.dim() - 1))
    hits = (shares * predicted * actual).sum(dims)
    counts = (shares * (predicted + actual)).sum(dims)  # 2 TP + FP + FN
    occurring = counts > 0
    scores = torch.where(occurring, 2 * hits / counts.masked_fill(counts == 0, 1), 0.0)
    return scores.sum(1) / occurring.sum(1) + 0 * counts.sum(1)  # 0 * NaN is NaN


def root_mean_squared_error(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the root of the mean squared error of each task, [T]; see `mean_squared_error`."""
    return mean_squared_error(outputs, targets, weights, mask).sqrt()


def mean_absolute_error(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the mean absolute error of each task, [T].

    Args:
        outputs: Shape [T, N, *], float.
        targets: The same shape.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; None: all.

    Raises:
        ShapeError: The shapes differ.
    """
    _check_one_shape(outputs, targets, "outputs")
    return weighted_mean((outputs - targets).abs(), weights, mask)


def r_squared(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Returns the coefficient of determination of each task, the mean over the target's numbers.

    R^2 = 1 - sum_n w_n (y_n - f(x_n))^2 / sum_n w_n (y_n - mean(y))^2

    Args:
        outputs: Shape [T, N, *], float.
        targets: The same shape.
        weights: Weight of each example, [T, N]; None: all 1.
        mask: True for the real elements of each example, [T, N, L]; all elements of a column then
            share one mean. None: all.

    Returns:
        Shape [T], at most 1; not finite where the targets of a task are constant.

    Raises:
        ShapeError: The shapes differ.
    """
    _check_one_shape(outputs, targets, "outputs")
    shares = torch.ones_like(targets) if weights is None else _expanded(weights, targets)
    columns = 2
    if mask is not None and targets.shape[:3] == mask.shape:
        shares = shares * _expanded(mask, targets)
        columns = 3
    shares, outputs, targets = (
        t.flatten(1, columns - 1).flatten(2) if t.dim() > columns else t.flatten(1).unsqueeze(2)
        for t in (shares, outputs, targets)
    )  # [T, examples, numbers]
    outputs, targets = (t.masked_fill(shares == 0, 0.0) for t in (outputs, targets))
    mean = (shares * targets).sum(1, keepdim=True) / shares.sum(1, keepdim=True)
    residual = (shares * (targets - outputs).square()).sum(1)
    total = (shares * (targets - mean).square()).sum(1)
    return (1 - residual / total).mean(1)


def generalised_accuracy(
    outputs: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    support: Examples | None = None,
    info: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Returns the generalised zero-shot accuracy of each task, over seen and unseen classes.

    The harmonic mean of the accuracy on queries of seen classes and on those of unseen classes,
    with logits of all classes for each (Xian et al. 2017, section 4.2): H = 2 s u / (s + u). Each
    is the mean over classes. Seen are the classes of `info["seen"]`, [T, way], bool, or else those
    with support examples of weight above 0.

    Args:
        outputs: Logits, shape [T, N, way].
        targets: Class labels, shape [T, N], any integer type.
        weights: Weight of each query, [T, N]; None: all 1.
        mask: Not used.
        support: The support set of each task.
        info: `TaskBatch.info`.

    Returns:
        Shape [T], in [0, 1]; NaN for a task without queries of seen or of unseen classes, or with a
        largest logit that is not finite.

    Raises:
        ShapeError: The shapes do not match.
        TaskError: Neither the support set nor `info["seen"]` is given.
    """
    del mask
    if info is not None and "seen" in info:
        seen = info["seen"].bool()
    elif support is not None:
        seen = _classes_of(support, outputs.shape[-1])
    else:
        raise TaskError("Expected the classes that are seen, as info['seen'] [T, way].")
    parts = [_mean_over_classes(outputs, targets, weights, classes) for classes in (seen, ~seen)]
    product = 2 * parts[0] * parts[1]
    return torch.where(product == 0, product, product / (parts[0] + parts[1]))


METRICS.register("accuracy", accuracy)
METRICS.register("generalised_accuracy", generalised_accuracy)
METRICS.register("binary_accuracy", binary_accuracy)
METRICS.register("f1", macro_f1)
METRICS.register("nll", cross_entropy)
METRICS.register("mse", mean_squared_error)
METRICS.register("rmse", root_mean_squared_error)
METRICS.register("mae", mean_absolute_error)
METRICS.register("r2", r_squared)


def _classes_of(support: Examples, way: int) -> Tensor:
    """Returns which classes have support examples of weight above 0, [T, way]."""
    present = support.targets.unsqueeze(2) == torch.arange(way, device=support.targets.device)
    if support.weights is not None:
        present = present & (support.weights > 0).unsqueeze(2)
    return present.any(1)


def _mean_over_classes(
    outputs: Tensor, targets: Tensor, weights: Tensor | None, classes: Tensor
) -> Tensor:
    """Returns the mean of the accuracies of some classes, [T, way] bool; [T], NaN without any."""
    check_logits(outputs, targets)
    largest, predictions = outputs.max(-1)
    correct = nan_unless_finite((predictions == targets).to(outputs.dtype), largest)
    rows = targets.unsqueeze(2) == torch.arange(outputs.shape[-1], device=outputs.device)
    shares = (rows & classes.unsqueeze(1)).to(outputs.dtype)  # [T, N, way]
    if weights is not None:
        shares = shares * weights.unsqueeze(2)
    counts = shares.sum(1)
    hits = (shares * correct.masked_fill(shares.sum(2) == 0, 0.0).unsqueeze(2)).sum(1)
    occurring = counts > 0
    return (hits / counts.masked_fill(~occurring, 1.0)).sum(1) / occurring.sum(1)


def _check_one_shape(outputs: Tensor, targets: Tensor, name: str) -> None:
    if outputs.shape != targets.shape:
        raise ShapeError(
            f"Expected {name} and targets of one shape, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}."
        )


def _expanded(values: Tensor, like: Tensor) -> Tensor:
    """Returns values [T, N] or [T, N, L] in the shape of `like` [T, N, L, *]."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim())).expand_as(like)
