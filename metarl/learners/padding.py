"""Weights, masks and noise as arguments, in learners that adapt without a gradient."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError
from metarl.tasks.base import Examples, TaskBatch


def joined_weights(tasks: TaskBatch) -> Tensor | None:
    """Returns the weights of the support examples followed by those of the queries, [T, M + N].

    None if neither has weights.
    """
    support, query = tasks.support, tasks.query
    if support.weights is None and query.weights is None:
        return None
    return torch.cat((weights_or_ones(support), weights_or_ones(query)), dim=1)


def weights_or_ones(examples: Examples) -> Tensor:
    """Returns the weights of examples, [T, N]; ones where there are none."""
    if examples.weights is not None:
        return examples.weights
    return examples.inputs.new_ones(examples.targets.shape[:2])


def joined_mask(tasks: TaskBatch) -> Tensor | None:
    """Returns the mask of the support examples followed by that of the queries, or None.

    Raises:
        ShapeError: Only one of them has a mask.
    """
    support, query = tasks.support.mask, tasks.query.mask
    if support is None and query is None:
        return None
    if support is None or query is None:
        raise ShapeError(
            "Expected a mask for both the support set and the queries, or for neither."
        )
    return torch.cat((support, query), dim=1)


def mask_option(network: nn.Module, mask: Tensor | None) -> dict[str, Any]:
    """Returns the keyword that passes a mask to a network; none without a mask.

    Raises:
        ShapeError: There is a mask, and the network does not take one.
    """
    if mask is None:
        return {}
    if "mask" not in inspect.signature(network.forward).parameters:
        raise ShapeError(
            f"The inputs are padded sequences with a mask, and {type(network).__name__} does not "
            "take one: it would read the padding. Give its `forward` a keyword `mask` [T, N, L] "
            "(bool, True for real elements)."
        )
    return {"mask": mask}


def noise_option(noise: Tensor | None) -> dict[str, Tensor]:
    """Returns the keyword that passes what dropout draws to an embedding; none without dropout."""
    return {} if noise is None else {"noise": noise}


def refuse_padding(learner: nn.Module, *sets: Examples) -> None:
    """Refuses weights and masks, for a learner that reads every example.

    Raises:
        ShapeError: Examples have weights or a mask.
    """
    for examples in sets:
        refuse_mask(learner, examples.mask)
        if examples.weights is not None:
            _refuse(learner, "weights")


def refuse_mask(learner: nn.Module, mask: Tensor | None) -> None:
    """Raises ShapeError if there is a mask, for a learner that reads every element."""
    if mask is not None:
        _refuse(learner, "a mask")


def _refuse(learner: nn.Module, what: str) -> NoReturn:
    raise ShapeError(
        f"The examples have {what}, and {type(learner).__name__} reads every example and element. "
        "Use tasks of equal size, or a metric or gradient-based learner."
    )
