"""Finds weights that a user's loss computes with, but its loop does not train."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metarl.adaptation.checks.loss_derivatives import graph_nodes
from metarl.adaptation.loss_function import LossFunction, Outputs
from metarl.models.base import Adaptable
from metarl.tasks.base import Examples
from metarl.tasks.losses import task_loss
from metarl.trees import map_tensors

SHOWN = 3
"""Weights that a warning names at most."""


@torch.enable_grad()
def warn_of_other_weights(
    loss: LossFunction,
    outputs: Outputs,
    examples: Examples,
    values: dict[str, Any],
    network: Adaptable,
    adapting: Collection[str] = (),
) -> None:
    """Warns of weights that a loss reads by a closure, a method or a `functools.partial`.

    Args:
        loss: The loss.
        outputs: What the network returned for the examples.
        examples: Examples of one task or more.
        values: The values of the keywords `params` and `start`.
        network: The network. The outer loop trains its parameters, and those of a loss that is a
            module.
        adapting: Names of its parameters that the inner loop adapts; none for a loss of the outer
            loop alone.
    """
    if loss.function is task_loss:
        return
    outputs, values = map_tensors(Tensor.detach, (outputs, values))
    read = list(_leaves(loss(outputs, examples, **values)))
    names = {id(p): name for name, p in network.named_parameters()}
    own = loss.function.parameters() if isinstance(loss.function, nn.Module) else ()
    known = {*names, *map(id, own)}
    untrained = [str(list(tensor.shape)) for tensor in read if id(tensor) not in known]
    if untrained:
        warnings.warn(
            f"`{loss.argument}` computes with weights that are not trained, of the shape "
            f"{', '.join(untrained[:SHOWN])}: neither loop changes them, and no checkpoint holds "
            "them. Give the loss as an nn.Module that has them as parameters, the module and no "
            "method or `functools.partial` of it; of weights that shall stay, call "
            "requires_grad_(False).",
            RuntimeWarning,
            stacklevel=2,
        )
    of_start = [names[id(t)] for t in read if names.get(id(t)) in adapting]
    if of_start:
        warnings.warn(
            f"`{loss.argument}` reads {', '.join(of_start[:SHOWN])} of the network itself, where "
            "the adaptation starts: an inner step does not see that they change. Declare the "
            "keyword `params`, whose values are those of each task, [T, *shape]; the start is "
            "`start`.",
            RuntimeWarning,
            stacklevel=2,
        )


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """Yields the tensors whose gradient a backward pass from a value would compute."""
    return (node.variable for node in graph_nodes(value) if hasattr(node, "variable"))
