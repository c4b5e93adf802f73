"""Adapted weights as the state dict of an ordinary module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from metarl.adaptation.network_call import NetworkCall
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Params, Statistics

if TYPE_CHECKING:
    from metarl.adaptation.learner import Adapted


@torch.no_grad()
def adapted_state(
    network: nn.Module, adapted: Adapted, task: int | None = None
) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a network after its adaptation, copied.

    Running statistics of batch normalisations that use those of the batch become the ones of the
    support set (or of the episode, where the learner keeps them), with the adapted parameters.
    After `load_state_dict` and `eval()`, the module normalises queries by them.

    Args:
        network: The network: a `Model`, or the model of an ordinary module.
        adapted: What `adapt` yielded.
        task: Which of the T tasks; None: all, each tensor with a leading task dimension, as
            `torch.func.functional_call` takes it under `vmap`.

    Returns:
        A tensor for every name of `network.state_dict()`.

    Raises:
        SettingsError: There is no such task.
        ShapeError: The support set has weights, and the batch normalisation would count examples of
            weight 0.
    """
    params, num_tasks = adapted.params, adapted.support.shape[0]
    if task is not None and not 0 <= task < num_tasks:
        raise SettingsError(f"Expected a task from 0 to {num_tasks - 1}, got {task}.")
    buffers = network.state_dict()
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, p in network.named_parameters(remove_duplicate=False):
        tensors[name] = params[first.setdefault(id(p), name)]
    for layer, moments in _statistics(network, params, adapted).items():
        for moment, values in zip(("running_mean", "running_var"), moments, strict=True):
            if f"{layer}.{moment}".lstrip(".") in buffers:
                tensors[f"{layer}.{moment}".lstrip(".")] = values
    if task is None:
        chosen = {n: t.expand(num_tasks, *t.shape) for n, t in buffers.items() if n not in tensors}
        chosen |= tensors
    else:
        chosen = {**buffers, **{n: t[task] for n, t in tensors.items()}}
    return {n: chosen[n].detach().clone() for n in buffers}


def _statistics(
    network: nn.Module, params: Params, adapted: Adapted
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns the statistics of the episode, or else those of the support set."""
    if adapted.statistics is not None and adapted.statistics.values:
        return adapted.statistics.values
    if not getattr(network, "normalises_batches", False):
        return {}
    record = Statistics(momentum=1.0)
    assert isinstance(network, Adaptable)
    call = NetworkCall(network)
    call(params, adapted.support, record, adapted.weights, adapted.mask)
    return record.values
