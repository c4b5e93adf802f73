"""Checks of a user's loss and metric on a few examples, before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.checks.loss_derivatives import check_second_derivative
from metarl.adaptation.loss_function import LossFunction, Outputs, outputs_read_by
from metarl.errors import NonFiniteError, SettingsError, ShapeError
from metarl.tasks.base import Examples
from metarl.tasks.losses import are_shares, task_loss
from metarl.tasks.metrics import binary_accuracy
from metarl.trees import close, in_place_changes, map_tensors, take_tasks, tensors_of

SHRINK = 0.9
"""Factor of the outputs of the other task; probabilities stay probabilities."""
VARIANTS = 5
"""Ways to shift the outputs in which the order of examples is tried."""


def check_loss(
    loss: LossFunction,
    outputs: Outputs,
    examples: Examples,
    values: dict[str, Any],
    second_order: bool = False,
) -> None:
    """Checks a loss on a few tasks.

    It must return a value per task or example that is finite, keep the tasks apart and have a
    gradient.

    Args:
        loss: The loss.
        outputs: What the network returned for the examples.
        examples: Examples of one task or more.
        values: The values of the keywords `params` and `start`.
        second_order: Whether it must have a second derivative, too. A warning says so if that of a
            `torch.autograd.Function` differs from finite differences.

    Raises:
        ShapeError: It returns something else than a value per task or example, or it cannot be
            computed for outputs and targets of these shapes.
        SettingsError: It mixes tasks, or nothing that it depends on has a gradient, or there is no
            second derivative.
        NonFiniteError: It is not finite for finite outputs, or its gradient is not.
    """
    if loss.function is task_loss:
        _check_default(loss, outputs, examples)
        return
    outputs, values = map_tensors(Tensor.detach, (outputs, values))
    losses = _called(loss, outputs, examples, values)
    _check_finite(loss, losses, outputs, examples.targets)
    _check_gradient(loss, outputs, examples, values)
    if second_order:
        check_second_derivative(loss, outputs, examples, values)
    check_tasks_apart(loss, outputs, examples, values)
    check_order_of_examples(loss, outputs, examples, values)
    if loss.of_classes and isinstance(outputs, Tensor):
        _check_shares(loss, outputs, examples.targets)


def check_metric(
    metric: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    """Checks a metric on a few tasks: its shape, and that it keeps tasks apart; see `check_loss`.

    Raises:
        ShapeError: As `check_loss`.
        SettingsError: It mixes tasks.
    """
    with torch.no_grad():
        _called(metric, outputs, examples, values)
        check_tasks_apart(metric, outputs, examples, values)
        check_order_of_examples(metric, outputs, examples, values)


@torch.no_grad()
def check_order_of_examples(
    function: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    """Checks that the value of an example moves with the example.

    Only where outputs have as many classes as examples, [T, N, N]: there a function that takes
    dimension 1 for the classes, such as `F.cross_entropy(outputs, targets)`, raises no error.

    Raises:
        SettingsError: In another order, the examples have other values.
    """
    count = examples.targets.shape[1]
    sizes = {size for tensor in tensors_of(outputs) for size in tensor.shape[2:]}
    if count < 2 or count not in sizes:
        return
    varied = map_tensors(_varied, outputs)
    for places in range(min(count, VARIANTS)):

        def shifted(tensor: Tensor, places: int = places) -> Tensor:
            return tensor.roll(places, -1) if tensor.dim() > 2 else tensor

        changed = map_tensors(shifted, varied)  # other examples are right
        found = function.unreduced(changed, examples, **values)
        if not isinstance(found, Tensor) or found.shape[:2] != examples.targets.shape[:2]:
            return
        flipped = map_tensors(_reversed, (changed, examples))
        other = function.unreduced(*flipped, **values)
        if not close(other.flip(1), found):
            raise SettingsError(
                f"`{function.argument}` gives examples other values in another order: for outputs "
                f"{shown(outputs)}, it seems to take dimension 1 for the classes. Dimension 1 is "
                "the example: losses of torch for labels take F.cross_entropy("
                "outputs.flatten(0, 1), targets.flatten(), reduction='none').view(targets.shape), "
                "and the prediction is outputs.argmax(-1). A function of the set of examples "
                "returns a value per task, [T]."
            )


def _varied(tensor: Tensor) -> Tensor:
    """Returns outputs that differ; equal ones, as those of a head of zeros, are changed."""
    if not tensor.is_floating_point() or tensor.amin() < tensor.amax():
        return tensor
    numbers = torch.arange(tensor.numel(), device=tensor.device, dtype=tensor.dtype)
    return tensor + 0.01 * numbers.sin().view(tensor.shape)


def _reversed(tensor: Tensor) -> Tensor:
    """Returns a tensor [T, N, *] in the reverse order of examples; [T] as it is."""
    return tensor.flip(1) if tensor.dim() > 1 else tensor


def check_tasks_apart(
    function: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    """Checks that the value of a task does not change with the other tasks of the batch.

    The first task is computed alone and next to a changed copy of the last one.

    Raises:
        SettingsError: It does change, or it is another one at each call.
    """
    given = (outputs, examples, values)
    last = len(examples.targets) - 1
    first, other = take_tasks(given, 0, 1), take_tasks(given, last, last + 1)

    def joined(a: Tensor, b: Tensor) -> Tensor:
        changed = _reversed(b)
        return torch.cat((a, changed * SHRINK if changed.is_floating_point() else changed))

    with torch.no_grad():
        alone, again = (_called(function, *first) for _ in range(2))
        beside = _called(function, *map_tensors(joined, first, other))
    if not close(alone, again):
        raise SettingsError(
            f"`{function.argument}` draws random numbers: two calls with the same outputs gave "
            f"{alone[0].item():.6g} and {again[0].item():.6g}. A run could not be repeated; put "
            "what is random into the tasks, which sample from a generator."
        )
    if not close(alone[0], beside[0]):
        raise SettingsError(
            f"`{function.argument}` mixes tasks: the value of a task changed from "
            f"{alone[0].item():.6g} to {beside[0].item():.6g} when another task was in the batch. "
            "Dimension 0 of outputs and targets is the task: reduce over the other dimensions "
            "only."
        )


def _called(
    function: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> Tensor:
    """Returns the values of the function; explains its own errors by the shapes.

    Raises:
        SettingsError: It changes what it was given.
    """
    given = (outputs, examples, values)
    before = in_place_changes(given)
    try:
        found = function.unreduced(outputs, examples, **values)
    except ShapeError:
        raise
    except Exception as error:  # code of the user may raise anything
        targets = examples.targets
        raise ShapeError(
            f"`{function.argument}` raises {type(error).__name__} for outputs {shown(outputs)} and "
            f"targets {shown(targets)} ({targets.dtype}): {error}. "
            f"{_advice(str(error), outputs, targets)}"
        ) from error
    if in_place_changes(given) != before:
        raise SettingsError(
            f"`{function.argument}` changes its outputs, targets or keywords in place: losses, "
            "metrics and later steps would see other numbers. Work on a copy, such as "
            "targets.clone(), or use functions that do not end with an underscore."
        )
    return function.reduced(found, examples)


def _advice(error: str, outputs: Outputs, targets: Tensor) -> str:
    """Returns what to do about an error of a loss or metric."""
    shape = outputs.shape if isinstance(outputs, Tensor) else ()
    if "scalar type" in error or "same dtype" in error:
        return (
            "Give the tensors of the loss the type of the network: loss.double(), or "
            "weight.to(outputs.dtype)."
        )
    if shape == targets.shape and not targets.is_floating_point():
        return "It seems to take values, and the targets are whole: give targets.to(outputs.dtype)."
    if shape == (*targets.shape, 1):
        return (
            "The outputs have a last dimension of 1, and the targets have not: give "
            "targets.unsqueeze(-1), or a loss of outputs.squeeze(-1)."
        )
    return (
        "Dimension 0 is the task and dimension 1 the example: losses of torch for labels take "
        "F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction='none')."
    )


def _check_default(loss: LossFunction, outputs: Outputs, examples: Examples) -> None:
    """Checks that the default loss suits outputs and targets."""
    if not isinstance(outputs, Tensor):
        raise ShapeError(
            f"The network returns {shown(outputs)}, and the default loss takes one tensor. Give "
            f"a loss of your own: `{loss.argument}=`, a function of outputs and targets."
        )
    try:
        loss(outputs, examples)
    except ShapeError as error:
        raise ShapeError(
            f"{error} Or give a loss for such outputs and targets: `{loss.argument}=`."
        ) from error
    if not examples.targets.is_floating_point() and outputs.shape[-1] < 2:
        raise ShapeError(
            f"Expected a logit for each of 2 classes or more for labels, got outputs "
            f"{shown(outputs)}: the cross-entropy of one class is always 0, and nothing would be "
            f"learned. For yes or no, give `{loss.argument}=`, such as one of binary_cross_entropy_"
            "with_logits; for values, targets.float()."
        )
    _warn_of_classes(loss, outputs, examples.targets)


def _check_shares(loss: LossFunction, outputs: Tensor, targets: Tensor) -> None:
    """Refuses shares of classes that add up to 1 after the examples, as torch has them."""
    if not targets.is_floating_point() or targets.dim() < 4:
        return
    last, second = (targets.sum(d) for d in (-1, 2))
    if torch.allclose(second, torch.ones_like(second), atol=1e-3) and not torch.allclose(
        last, torch.ones_like(last), atol=1e-3
    ):
        raise ShapeError(
            f"Expected the classes as the last dimension of outputs {shown(outputs)} and targets, "
            f"for `{loss.argument}`; the targets add up to 1 over dimension 2. Move it in both: "
            "outputs.movedim(1, -1) in the network, targets.movedim(2, -1)."
        )


def check_logits_of(
    function: LossFunction, outputs: Outputs, targets: Tensor, scaled: Callable[[], Outputs]
) -> None:
    """Warns where a loss or metric of logits gets probabilities, as after a softmax or sigmoid.

    Args:
        function: The loss or metric.
        outputs: What the network returned.
        targets: The targets.
        scaled: Returns the outputs for weights many times as large: those of a sigmoid stay
            between 0 and 1.

    Raises:
        SettingsError: It is the binary accuracy, for which all outputs are a yes.
    """
    read = outputs_read_by(function.function)
    if function.function is task_loss and targets.is_floating_point():
        return
    if not read or not isinstance(outputs, Tensor) or outputs.element_size() < 4:
        return
    if read == "logit":
        if not (_lie_in_unit_interval(outputs) and _lie_in_unit_interval(scaled())):
            return
        found, advice = "between 0 and 1", "Leave out the sigmoid at its end"
        if function.function is binary_accuracy:
            raise SettingsError(
                f"Expected logits, which are above 0 for yes, for `{function.argument}`; all "
                "outputs of the network are between 0 and 1, as after a sigmoid, and would count "
                "as yes. Leave it out and use nn.BCEWithLogitsLoss(reduction='none'), or give "
                "metric=lambda outputs, targets: (outputs > 0.5) == (targets > 0.5)."
            )
    elif read == "logits":
        if not _are_shares(outputs):
            return
        found, advice = "shares that add up to 1", "Leave out the softmax at its end"
    else:
        if _are_shares(outputs.exp()):
            return
        found, advice = "other numbers", "End it with a log_softmax, or use nn.CrossEntropyLoss"
    effect = "its values would be wrong" if function.is_metric else "it would learn badly"
    warnings.warn(
        f"`{function.argument}` takes the outputs for {read.removesuffix('s')}s, and the network "
        f"returns {found}: {effect}. {advice}.",
        RuntimeWarning,
        stacklevel=2,
    )


def _lie_in_unit_interval(outputs: Outputs) -> bool:
    """Returns whether all outputs lie in 0..1 and are not all 0, as those of a head of zeros."""
    return bool(((outputs >= 0) & (outputs <= 1)).all()) and bool((outputs > 0).any())


def _are_shares(outputs: Tensor) -> bool:
    """Returns whether outputs are shares of classes, in the last dimension or dimension 2."""
    return are_shares(outputs) or (outputs.dim() > 3 and are_shares(outputs.movedim(2, -1)))


def _warn_of_classes(loss: LossFunction, outputs: Tensor, targets: Tensor) -> None:
    """Warns where dimension 2 may have the classes of elements, as after a convolution."""
    is_alike = outputs.dim() > 3 and len(set(outputs.shape[2:])) == 1
    if targets.is_floating_point() or not is_alike:
        return
    warnings.warn(
        f"For outputs {shown(outputs)} and labels {shown(targets)}, the last dimension is taken "
        "for the classes. If it is dimension 2, as after a convolution, move it in the network: "
        f"outputs.movedim(1, -1). A `{loss.argument}=` of your own does not warn.",
        RuntimeWarning,
        stacklevel=2,
    )


def _check_finite(loss: LossFunction, losses: Tensor, outputs: Outputs, targets: Tensor) -> None:
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors_of(outputs))
    if finite and not losses.isfinite().all():
        task = int((~losses.isfinite()).nonzero()[0])
        advice = "Keep logarithms, roots and divisions away from 0."
        if _hold_nan(targets):
            advice = "The targets hold NaN: leave these out of the loss."
        raise NonFiniteError(
            f"`{loss.argument}` is {losses[task].item()} for task {task} before training, although "
            f"the network's outputs are finite. {advice}"
        )


def _check_gradient(
    loss: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() and not tensor.is_complex():
            return tensor
        leaves.append(tensor.clone().requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        outputs = map_tensors(leaf, outputs)
        count = len(leaves)
        result = loss(outputs, examples, **map_tensors(leaf, values))
        total = result.sum()
    if not result.requires_grad:
        raise SettingsError(
            f"`{loss.argument}` has no gradient: what it returns does not depend on the outputs by "
            "differentiable operations. Leave out `detach`, `item`, NumPy, comparisons and "
            "`argmax`; a value to look at is a `metric=`."
        )
    read = leaves[:count]
    grads = torch.autograd.grad(total, read, allow_unused=True) if read else ()
    broken = any(g is not None and not g.isfinite().all() for g in grads)
    if broken and all(t.isfinite().all() for t in (*read, result)):
        where = ", the targets hold NaN" if _hold_nan(examples.targets) else ""
        raise NonFiniteError(
            f"`{loss.argument}` is finite{where}, and its gradient is not finite: numbers that are "
            "masked after they were computed have a derivative of NaN all the same. Replace them "
            "before, such as by torch.where(targets.isnan(), 0, targets); keep roots away from 0."
        )


def _hold_nan(targets: Tensor) -> bool:
    return targets.is_floating_point() and bool(targets.isnan().any())


def shown(value: Outputs) -> str:
    """Returns the shapes of nested tensors, for a message."""
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(shown, value)) + ")"
    return type(value).__name__
