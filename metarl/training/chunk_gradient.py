"""The meta-gradient of one chunk of tasks, and the checks of what a learner returns for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner, MetaLoss
from metarl.errors import SettingsError, ShapeError


def chunk_gradient(
    learner: Learner, leaves: Sequence[Tensor], inputs: Any, total: int
) -> tuple[Sequence[Tensor | None], MetaLoss]:
    """Computes the gradient of the summed losses of a chunk, divided by `total`.

    Args:
        learner: The learner.
        leaves: The parameters to differentiate with respect to.
        inputs: The inputs of the learner's `forward` for the tasks of the chunk.
        total: The number of tasks in all chunks.

    Returns:
        The gradient of each leaf, None if the losses do not depend on it, and the learner's output
        with detached losses.

    Raises:
        SettingsError: The output is no `MetaLoss`, or its losses have no derivative.
        ShapeError: There is not one loss per task.
    """
    result: MetaLoss = learner(inputs)
    check_result(result, inputs, learner)
    shares = torch.full_like(result.losses, 1 / total)
    grads = torch.autograd.grad(result.losses, leaves, shares, allow_unused=True)
    return grads, result._replace(losses=result.losses.detach())


def check_result(result: Any, inputs: Any, learner: Learner) -> None:
    """Checks what a learner's `forward` returned for training.

    Raises:
        SettingsError: It is no `MetaLoss`, or its losses have no derivative.
        ShapeError: There is not one loss per task.
    """
    name = type(learner).__name__
    if not isinstance(result, MetaLoss):
        raise SettingsError(
            f"Expected {name}.forward to return MetaLoss(losses, metrics, carry), got a "
            f"{type(result).__name__}."
        )
    tasks = inputs.tasks.num_tasks
    if result.losses.shape != (tasks,):
        raise ShapeError(
            f"Expected {name} to return a loss per task, [{tasks}], got "
            f"{list(result.losses.shape)}: the outer loop takes the mean over tasks. Reduce over "
            "the examples only, such as by losses.mean(1)."
        )
    check_depends(result.losses)


def check_depends(losses: Tensor) -> None:
    """Checks that the outer losses depend on a parameter.

    Raises:
        SettingsError: They have no derivative.
    """
    if not losses.requires_grad and not torch.is_grad_enabled():
        raise SettingsError(
            "Expected gradients, which `torch.no_grad()` or `torch.set_grad_enabled(False)` has "
            "switched off. Train outside of that."
        )
    if not losses.requires_grad:
        raise without_parameters()


def without_parameters() -> SettingsError:
    """Returns the error of outer losses that depend on none of the parameters to train."""
    return SettingsError(
        "Expected an outer loss that depends on the parameters to train, it depends on none: "
        "the network does not use them, or detaches them. Train the parameters that its "
        "forward pass uses (`requires_grad_()`), or train none (`iterations=0`)."
    )
