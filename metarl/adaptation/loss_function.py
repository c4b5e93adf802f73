"""Losses and metrics of the user, as learners call them: one value per task."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.tasks.base import Examples
from metarl.tasks.losses import TaskLoss, cross_entropy, task_loss, weighted_mean
from metarl.tasks.metrics import binary_accuracy

Outputs = Any
"""What a network returns: a tensor [T, N, *], or a tuple, list or dict of such tensors."""

LOSS_KEYWORDS = ("weights", "mask", "inputs", "params", "start")
METRIC_KEYWORDS = ("weights", "mask", "inputs", "support", "info")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class LossFunction:
    """A function of outputs and targets, called for a batch of tasks; returns a value per task.

    The function is called as function(outputs, targets), with those keywords that its signature
    declares:

    - `weights`: the weight of each example, [T, N], or None;
    - `mask`: True for the real elements of each example, [T, N, L], or None;
    - `inputs`: the inputs of the examples, [T, N, *input];
    - `params`, `start` (losses): the parameters of each task now and where its adaptation started,
      [T, *shape] per name, such as for a penalty on their distance;
    - `support`, `info` (metrics): the support set (`Examples`), and `TaskBatch.info`.

    `nn.CrossEntropyLoss`, `nn.NLLLoss` and their functions get the classes as dimension 1, and
    their mean is torch's: it counts a label by the weight of its class, and no ignored one. The
    classes are the last dimension of the outputs, or, if labels fit only so, that after the
    examples, as torch has them for images: [T, N, classes, H, W].

    It returns a value per task, [T], or per example, [T, N] or [T, N, *], of which the weighted
    mean is taken (see `weighted_mean`). A metric may return truth values, integers or an array of
    NumPy; a loss returns floating-point tensors. A value per task cannot have respected weights
    that the function did not receive: this is refused.

    Args:
        function: The function, or a module such as `nn.MSELoss(reduction="none")`.
        argument: Name of the argument that the user gave it as, for messages: "loss".
        keywords: The keywords that it may declare.

    Attributes:
        function: The function.
        of_classes: Whether it is one of torch's that take the classes as dimension 1.
        declared: The keywords that it declares.
        is_metric: Whether it is a metric.

    Raises:
        SettingsError: It is not callable, or requires another argument.
    """

    def __init__(
        self, function: TaskLoss, argument: str, keywords: Collection[str] = LOSS_KEYWORDS
    ) -> None:
        self.function = function
        self.argument = argument
        self.declared = _declared(function, argument, keywords)
        self._is_default = function is task_loss
        self.of_classes = _is_of_classes(function)
        self.is_metric = keywords is METRIC_KEYWORDS

    def __call__(self, outputs: Outputs, examples: Examples, **values: Any) -> Tensor:
        """Returns the value of each task, [T].

        Args:
            outputs: What the network returned for the examples.
            examples: The examples.
            **values: The values of the keywords other than those of the examples.

        Raises:
            ShapeError: The function returned something else than a value per task or example.
        """
        if self._is_default and examples.weights is None and examples.mask is None:
            return self.function(outputs, examples.targets)
        return self.reduced(self.unreduced(outputs, examples, **values), examples)

    def unreduced(self, outputs: Outputs, examples: Examples, **values: Any) -> Any:
        """Returns what the function returns; of a metric, a floating-point tensor if possible."""
        given: dict[str, Any] = {}
        for name in self.declared:
            given[name] = values[name] if name in values else getattr(examples, name)
        targets = examples.targets
        if self.of_classes and isinstance(outputs, Tensor):
            outputs = outputs.movedim(_classes_dim(outputs, targets), 1)  # [T, classes, N, ...]
            targets = targets.movedim(-1, 1) if targets.is_floating_point() else targets
        found = self.function(outputs, targets, **given)
        return _numbers(found, targets) if self.is_metric else found

    def reduced(self, values: Any, examples: Examples) -> Tensor:
        """Returns what the function returned as one value per task, [T]; checks its shape."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(
                f"Expected `{self.argument}` to return a floating-point tensor, got {kind}. "
                f"{self._wanted(examples)}"
            )
        count = examples.targets.shape[:2]
        if values.shape == count[:1]:
            self._check_declared(examples)
            return values
        if values.dim() < 2 or values.shape[:2] != count:
            advice = ""
            if values.dim() == 0:
                advice = (
                    " One number is a mean or sum over tasks, which must stay apart: leave out the "
                    'reduction (`reduction="none"`).'
                )
            raise ShapeError(f"{self._wanted(examples)} It returned {list(values.shape)}.{advice}")
        if self._has_lost_elements(values, examples):
            self._refuse("mask")
        mean = weighted_mean(values, examples.weights, examples.mask)
        shares = self._shares(examples.targets, values.dtype)
        if shares is None:
            return mean
        return mean / weighted_mean(shares, examples.weights, examples.mask)

    def _shares(self, targets: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Returns by how much torch's mean of a loss of classes counts each label, [T, N, *]."""
        if not self.of_classes or targets.is_floating_point():
            return None
        weight, ignored = _class_options(self.function)
        keep = targets != ignored
        if weight is None:
            return keep.to(dtype)
        return (weight[torch.where(keep, targets, 0)] * keep).to(dtype)

    def _check_declared(self, examples: Examples) -> None:
        if examples.weights is not None and "weights" not in self.declared:
            self._refuse("weights")
        if self._has_lost_elements(None, examples):
            self._refuse("mask")

    def _has_lost_elements(self, values: Tensor | None, examples: Examples) -> bool:
        """Returns whether the function took means over elements without the mask of the padding."""
        mask = examples.mask
        if mask is None or "mask" in self.declared:
            return False
        if values is not None and values.shape[:3] == mask.shape:
            return False
        return "inputs" in self.declared or examples.targets.shape[:3] == mask.shape

    def _refuse(self, keyword: str) -> None:
        example = {"weights": "per example, [T, N]", "mask": "per element, [T, N, L]"}[keyword]
        raise ShapeError(
            f"The examples have `{keyword}`, and `{self.argument}` cannot have respected it: it "
            f"takes a mean without that argument. Return a value {example}, of which the weighted "
            f"mean is taken; or declare the keyword: {self.argument}(outputs, targets, {keyword})."
        )

    def _wanted(self, examples: Examples) -> str:
        tasks, count = examples.targets.shape[:2]
        return (
            f"Expected `{self.argument}` to return a value per task, [{tasks}], or per example, "
            f"[{tasks}, {count}] or [{tasks}, {count}, ...]."
        )


def _numbers(values: Any, targets: Tensor) -> Any:
    """Returns truth values, counts and arrays of NumPy, which metrics may return, as a tensor."""
    if isinstance(values, np.ndarray):
        values = torch.as_tensor(values, device=targets.device)
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        return values
    return values.to(torch.get_default_dtype())


def name_of(function: Callable[..., Any]) -> str:
    """Returns the name of a function or module, in characters that tags of logs allow."""
    function = _inside(function)
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"[^\w.-]+", "_", name).strip("_").replace("lambda", "metric")


def ignored_label(function: Any) -> int | None:
    """Returns the label that marks an example as ignored; None if the loss has none."""
    return _class_options(function)[1] if _is_of_classes(function) else None


def _is_of_classes(function: Any) -> bool:
    """Returns whether a function is one of torch's that takes classes as dimension 1."""
    return _is_one_of(function, nn.CrossEntropyLoss, nn.NLLLoss, F.cross_entropy, F.nll_loss)


def outputs_read_by(function: Any) -> str:
    """Returns what a known loss or metric takes its outputs for, "" for others.

    "logits" or "log-probabilities" of classes, or "logit" of each yes-or-no answer.
    """
    if _is_one_of(function, task_loss, cross_entropy, nn.CrossEntropyLoss, F.cross_entropy):
        return "logits"
    if _is_one_of(function, nn.NLLLoss, F.nll_loss):
        return "log-probabilities"
    logit = (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, binary_accuracy)
    return "logit" if _is_one_of(function, *logit) else ""


def _is_one_of(function: Any, *known: Any) -> bool:
    """Returns whether a function, or the class of a module, is one of those known."""
    function = _inside(function)
    return any(function is one or type(function) is one for one in known)


def _inside(function: Any) -> Any:
    """Returns the function of a `functools.partial`, others as they are."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _classes_dim(outputs: Tensor, targets: Tensor) -> int:
    """Returns the dimension of the classes: the last one, or 2 if labels fit only so."""
    after_examples = (*outputs.shape[:2], *outputs.shape[3:])
    is_last = targets.is_floating_point() or outputs.shape[:-1] == targets.shape
    return 2 if not is_last and after_examples == targets.shape else -1


def _class_options(function: Any) -> tuple[Tensor | None, int]:
    """Returns `weight` and `ignore_index` of a loss that `_is_of_classes`."""
    options = vars(function).get("_buffers", {}) | vars(function)  # of a module
    if isinstance(function, functools.partial):
        options = function.keywords
    return options.get("weight"), options.get("ignore_index", -100)


def _declared(function: Any, argument: str, keywords: Collection[str]) -> tuple[str, ...]:
    if not callable(function) or isinstance(function, type):
        given, advice = type(function).__name__, ""
        if isinstance(function, type):
            given, advice = f"the class {function.__name__}", f" Give {function.__name__}(...)."
        raise SettingsError(
            f"Expected `{argument}` to be a function of outputs and targets, got {given}.{advice}"
        )
    call = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:  # built in
        return ()
    first = [p for p in parameters if p.kind in _POSITIONAL][:2]
    variable = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if (len(first) < 2 and not variable) or any(p.name in keywords for p in first):
        names = ", ".join(p.name for p in parameters)
        raise SettingsError(
            f"Expected `{argument}` to take outputs and targets, in this order, before any "
            f"keyword; it takes ({names}). One without targets still has the argument: "
            f"{argument}(outputs, targets, inputs)."
        )
    rest = parameters[len(first) :]
    declared = tuple(p.name for p in rest if p.name in keywords)
    for p in rest:
        variable = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and p.name not in keywords and not variable:
            raise SettingsError(
                f"`{argument}` requires an argument `{p.name}`, which MetaRL does not know. It "
                f"calls {argument}(outputs, targets), and passes these keywords if they are "
                f"declared: {', '.join(keywords)}."
            )
    return declared
