"""Checks the second derivative of a user's loss, which the meta-gradient contains."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from metarl.adaptation.loss_function import LossFunction, Outputs
from metarl.errors import MetarlError, SettingsError
from metarl.tasks.base import Examples
from metarl.trees import map_tensors

STEPS = (1e-3, 1e-5)
"""Steps of the finite differences, in the units of the outputs; large ones cross kinks."""
TOLERANCE = 1e-2
"""Largest relative error; a derivative that leaves a part out is wrong by more."""


@torch.enable_grad()
def check_second_derivative(
    loss: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    """Checks that a loss can be differentiated twice by the outputs.

    The second derivative of a `torch.autograd.Function`, whose backward pass may compute with what
    has no gradient, is compared with finite differences of the first one, in float64.

    Args:
        loss: The loss.
        outputs: What the network returned for the examples; detached.
        examples: Examples of one task or more.
        values: The values of the keywords `params` and `start`; detached.

    Raises:
        SettingsError: It has no second derivative.
    """
    total, leaves = _total(loss, outputs, examples, values)
    if not leaves or not total.requires_grad:
        return
    try:
        _second(total, leaves)
    except (RuntimeError, NotImplementedError) as error:
        raise SettingsError(
            f"`{loss.argument}` has no second derivative, which the meta-gradient contains: "
            f"{error}. Train with `first_order=True` or an algorithm of first order (FOMAML, "
            "Reptile), or write the loss with functions that have one."
        ) from error
    if _has_own_function(total):
        _compare(loss, outputs, examples, values)


def _compare(
    loss: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> None:
    """Warns if the second derivative differs from finite differences."""
    exact: Any = map_tensors(_double, (outputs, examples, values))
    try:
        total, leaves = _total(loss, *exact)
        found = _second(total, leaves)
        distances = []
        for step in STEPS:
            sides = []
            for sign in (step, -step):
                moved = map_tensors(lambda t, s=sign: t + s * _direction(t, 1), exact[0])
                total, leaves = _total(loss, moved, *exact[1:])
                sides.append(_along(torch.autograd.grad(total, leaves, allow_unused=True), leaves))
            differences = float((sides[0] - sides[1]) / (2 * step))
            distances.append(abs(found - differences) / max(abs(found), abs(differences), 1e-8))
    except (RuntimeError, MetarlError):  # a loss of float32 only
        return
    if not min(distances) > TOLERANCE:
        return
    warnings.warn(
        f"The second derivative of `{loss.argument}` differs from finite differences of its "
        f"gradient by a share of {min(distances):.1e}: the backward pass of a "
        "torch.autograd.Function in it computes with what has no gradient, such as NumPy, saved "
        "results or detached tensors. The meta-gradient lacks that part. Train with "
        "`first_order=True`, or write the loss with functions of torch.",
        RuntimeWarning,
        stacklevel=2,
    )


def _total(
    loss: LossFunction, outputs: Outputs, examples: Examples, values: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """Returns the sum of the losses, and the outputs that it is differentiated by."""
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    return loss(map_tensors(leaf, outputs), examples, **values).sum(), leaves


def _second(total: Tensor, leaves: list[Tensor]) -> float:
    """Returns u^T H v of the outputs for two fixed directions."""
    grads = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    along = _along(grads, leaves)
    if not along.requires_grad:
        return 0.0
    second = torch.autograd.grad(along, leaves, allow_unused=True)
    return float(sum((g * _direction(g, 1)).sum() for g in second if g is not None))


def _along(grads: tuple[Tensor | None, ...], leaves: list[Tensor]) -> Tensor:
    total = leaves[0].new_zeros(())
    for g in grads:
        total = total if g is None else total + (g * _direction(g, 0)).sum()
    return total


def _direction(tensor: Tensor, number: int) -> Tensor:
    """Returns numbers of the tensor's shape without a pattern; 0 for what has no gradient."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    places = torch.arange(tensor.numel(), device=tensor.device, dtype=tensor.dtype)
    return (1 + (3 + number) * places).sin().view(tensor.shape)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _has_own_function(total: Tensor) -> bool:
    """Returns whether the graph of a tensor has a `torch.autograd.Function`."""
    return any(isinstance(node, BackwardCFunction) for node in graph_nodes(total))


def graph_nodes(value: Tensor) -> Iterator[Any]:
    """Yields the nodes of the autograd graph of a tensor, each once."""
    seen, rest = set(), [value.grad_fn]
    while rest:
        node: Any = rest.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        rest.extend(following for following, _ in node.next_functions)
