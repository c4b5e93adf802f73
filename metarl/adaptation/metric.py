"""The metric of a learner: the default of its tasks, one by name, or a function of the user."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.checks.losses import check_metric, shown
from metarl.adaptation.loss_function import METRIC_KEYWORDS, LossFunction, Outputs, name_of
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import check_labels, label_range
from metarl.tasks.losses import (
    are_shares,
    evaluation_metric,
    metric_name,
    task_metric,
    weighted_mean,
)
from metarl.tasks.metrics import METRICS, MetricFunction
from metarl.trees import map_tensors, tensors_of


class Metric:
    """What a learner measures on the queries of a task.

    Args:
        metric: A name of `METRICS`, or a function of outputs and targets (see `LossFunction`);
            None for the default: the accuracy of logits for labels, or the mean squared error.
        name: Its name in curves and logs; None for that of the function.
        own_loss: Whether the user brought the loss. The default metric then refuses outputs of one
            logit: the predicted class would always be 0.

    Attributes:
        is_default: Whether it is the default.
        function: The function, as learners call it.

    Raises:
        UnknownNameError: No metric has this name.
        SettingsError: The function requires an argument that no learner has.
    """

    def __init__(
        self,
        metric: str | MetricFunction | None = None,
        name: str | None = None,
        *,
        own_loss: bool = False,
    ) -> None:
        self.is_default = metric is None
        self._own_loss = own_loss
        if isinstance(metric, str):
            self._name, function = metric, METRICS.get(metric)
        elif metric is None:
            self._name, function = "", task_metric
        else:
            self._name, function = name or name_of(metric), metric
        self.function = LossFunction(function, "metric", METRIC_KEYWORDS)

    def name(self, targets: Tensor) -> str:
        """Returns the name that curves and logs show for such targets."""
        return self._name or metric_name(targets)

    def train(self, outputs: Outputs, query: Examples, tasks: TaskBatch) -> Tensor:
        """Returns the value of each task in training, [T], detached."""
        if self.is_default:
            return task_metric(outputs, query.targets, query.weights, query.mask).detach()
        outputs = map_tensors(Tensor.detach, outputs)
        return self.function(outputs, query, **_extras(tasks)).detach()

    @torch.no_grad()
    def evaluate(self, outputs: Outputs, query: Examples, tasks: TaskBatch) -> Tensor:
        """Returns the value of each task, [T]; NaN for tasks with an output that is NaN.

        Outputs for queries of weight 0 are not read.
        """
        if self.is_default:
            self._check_default(outputs, query.targets)
            return evaluation_metric(outputs, query.targets, query.weights, query.mask)
        values = self.function(outputs, query, **_extras(tasks))
        broken = torch.stack([_has_nan(tensor, query) for tensor in tensors_of(outputs)])
        return values.masked_fill(broken.any(0), float("nan"))

    def check_labels(self, outputs: Outputs, targets: Tensor) -> None:
        """Checks that every label has an output, where the metric is the default for labels.

        Raises:
            TaskError: A label has none.
        """
        if self.is_default and not targets.is_floating_point():
            check_labels(label_range(targets), outputs.shape[-1])

    def check(self, outputs: Outputs, query: Examples, tasks: TaskBatch) -> None:
        """Checks the metric on the queries of a few tasks, before training.

        Args:
            outputs: What the network returned for the queries.
            query: The queries.
            tasks: The tasks.

        Raises:
            ShapeError: It does not suit outputs and targets; the message names the argument.
            SettingsError: It mixes tasks, or is the default and the targets are probabilities.
            TaskError: It compares predicted classes with a label that has no output.
        """
        if self.is_default:
            self._check_default(outputs, query.targets)
            self._check_values(query.targets)
        if self._name in ("", "accuracy", "f1") and not query.targets.is_floating_point():
            try:
                check_labels(label_range(query.targets), outputs.shape[-1])
            except TaskError as error:
                raise TaskError(
                    f"{error} Or give a `metric=` that leaves such labels out; this one would "
                    "count them as wrong predictions."
                ) from error
        if not self.is_default:
            check_metric(self.function, outputs, query, _extras(tasks))

    def _check_values(self, targets: Tensor) -> None:
        """Refuses the squared error of what seem to be logits, for a loss of the user's."""
        if not (self._own_loss and targets.is_floating_point() and _are_probabilities(targets)):
            return
        raise SettingsError(
            "Expected a metric for targets that are 0 or 1, or that add up to 1: the default, mse, "
            "would compare them with what may be logits. Give the argument `metric=`: "
            '"binary_accuracy", "mse" if the outputs are values, "loss", or a function.'
        )

    def _check_default(self, outputs: Outputs, targets: Tensor) -> None:
        is_value = targets.is_floating_point()
        if isinstance(outputs, Tensor):
            shape = outputs.shape if is_value else outputs.shape[:-1]
            one_logit = self._own_loss and outputs.shape[-1] < 2
            if shape == targets.shape and (is_value or (outputs.dim() > 2 and not one_logit)):
                return
        wanted = (
            "outputs of the shape of the targets"
            if is_value
            else "a logit for each of 2 classes or more, [T, N, classes], for labels [T, N]"
        )
        names = ", ".join(METRICS.names()) + (", loss" if self._own_loss else "")
        raise ShapeError(
            f"Expected a metric for outputs {shown(outputs)} and targets {shown(targets)}: the "
            f"default, {metric_name(targets)}, takes {wanted}. Give the argument `metric=`: a "
            f"function of outputs and targets, or one of {names}."
        )


def _are_probabilities(targets: Tensor) -> bool:
    """Returns whether all targets are 0 or 1, or shares of classes in the last dimension."""
    return bool(((targets == 0) | (targets == 1)).all()) or are_shares(targets)


def _has_nan(outputs: Tensor, query: Examples) -> Tensor:
    """Returns whether outputs [T, *] of each task are NaN for an example that counts, [T]."""
    of_examples = outputs.shape[:2] == query.targets.shape[:2]
    padding = (query.weights, query.mask) if of_examples else ()
    return weighted_mean(outputs.isnan().float(), *padding) > 0


def _extras(tasks: TaskBatch) -> dict[str, Any]:
    return {"support": tasks.support, "info": tasks.info}
