"""Checks of a network that the user wrote for many tasks, before training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.loss_function import Outputs
from metarl.adaptation.network_call import NetworkCall
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Model, Params, task_params
from metarl.models.modules import ModuleModel
from metarl.tasks.base import Examples
from metarl.trees import map_tensors, take_tasks, tensors_of

SHRINK = 0.9
"""Factor of the parameters and inputs of the other task."""
TOLERANCE = 1e-3
"""Largest difference, relative to the largest output."""


def check_model(network: NetworkCall, support: Examples, frozen: Collection[str]) -> None:
    """Checks that a model keeps tasks apart and computes with the parameters that it is given.

    An ordinary module is compared with plain torch elsewhere, and MetaRL's networks are tested;
    neither is run here.

    Args:
        network: The network.
        support: Examples of one task or more.
        frozen: The parameters that do not adapt; the model may read its own ones for them.

    Raises:
        SettingsError: The outputs of a task change with the other tasks, are others at each call,
            do not follow `params`, or depend on the other examples although `normalises_batches`
            is False.
    """
    model = network.network
    is_known = type(model).__module__.startswith("metarl.models.")
    if not isinstance(model, Model) or isinstance(model, ModuleModel) or is_known:
        return
    first = map_tensors(Tensor.detach, take_tasks(support, 0, 1))
    theta = {n: p.detach() for n, p in task_params(model, 1).items()}
    name = type(model).__name__
    alone = _outputs(network, theta, first)
    if not alike(alone, _outputs(network, theta, first)):
        raise SettingsError(
            f"{name} gives other outputs for the same inputs: it draws random numbers, or keeps "
            "something between calls, which replays and resumed runs would change. Draw them in "
            "`draw_noise`, whose numbers `forward` receives as `noise`."
        )
    _check_apart(network, theta, first, alone)
    _check_params(network, theta, first, frozen)
    if not model.normalises_batches:
        _check_examples_apart(network, theta, first, alone)


def _check_examples_apart(
    network: NetworkCall, theta: Params, first: Examples, alone: Outputs
) -> None:
    """Raises SettingsError if an example has other outputs alone than next to others."""
    count = first.targets.shape[1]
    one = _outputs(network, theta, map_tensors(lambda t: t[:, :1], first))
    for all_rows, row in zip(tensors_of(alone), tensors_of(one), strict=True):
        if all_rows.shape[1:2] == (count,) and not alike(all_rows[:, :1], row):
            raise SettingsError(
                f"The outputs of {type(network.network).__name__} for an example depend on the "
                "other examples, and its `normalises_batches` is False: predictions would depend "
                "on the other queries, and padding rows would count. Set it to True, or treat "
                "each example alone."
            )


def _check_apart(network: NetworkCall, theta: Params, first: Examples, alone: Outputs) -> None:
    """Raises SettingsError if a task has other outputs alone than next to another one."""
    other = map_tensors(_varied, first._replace(weights=None, mask=None))
    other = other._replace(weights=first.weights, mask=first.mask)
    moved = {n: SHRINK * p for n, p in theta.items()}
    both: Any = map_tensors(lambda *parts: torch.cat(parts), (theta, first), (moved, other))
    together = _outputs(network, *both)
    for row, expected in enumerate((alone, _outputs(network, moved, other))):
        if not alike(expected, map_tensors(lambda t, r=row: t[r : r + 1], together)):
            raise SettingsError(
                f"{type(network.network).__name__} mixes tasks: the outputs of a task changed when "
                "another one was in the batch. Dimension 0 of parameters, inputs and outputs is "
                "the task: reduce over the other dimensions only, and use the parameters of each "
                "task for its inputs."
            )


@torch.enable_grad()
def _check_params(
    network: NetworkCall, theta: Params, first: Examples, frozen: Collection[str]
) -> None:
    """Raises SettingsError if the outputs depend on the network's own parameters."""
    model: Adaptable = network.network
    own = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in frozen}
    totals = [t.abs().sum() for t in tensors_of(network.examples(theta, first, None))]
    found = sum(total for total in totals if total.requires_grad)
    if not own or not isinstance(found, Tensor):
        return
    grads = torch.autograd.grad(found, list(own.values()), allow_unused=True)
    read = [n for n, g in zip(own, grads, strict=True) if g is not None]
    if read:
        raise SettingsError(
            f"{type(model).__name__} computes with its own {read[0]!r}, which no task adapts. Take "
            f"params[{read[0]!r}], [T, *shape], or name it in `frozen`."
        )


@torch.no_grad()
def _outputs(network: NetworkCall, params: Params, examples: Examples) -> Outputs:
    return network.examples(params, examples, None)


def _varied(tensor: Tensor) -> Tensor:
    """Returns the numbers in another order of examples, and smaller ones if they are no counts."""
    flipped = tensor.flip(1)
    return flipped * SHRINK if tensor.is_floating_point() else flipped


def alike(a: Outputs, b: Outputs) -> bool:
    """Whether outputs are equal, up to rounding of their largest numbers."""
    same: list[bool] = []

    def compare(x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:
            same.append(False)
        elif not x.is_floating_point() and not x.is_complex():
            same.append(torch.equal(x, y))
        else:
            largest = float(x.abs().nan_to_num(0, 0).amax()) if x.numel() else 0.0
            bound = max(TOLERANCE, 8 * torch.finfo(x.dtype).eps) * largest
            same.append(torch.allclose(x, y, rtol=0, atol=bound, equal_nan=True))
        return x

    map_tensors(compare, a, b)
    return all(same)
