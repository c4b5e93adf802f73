"""Convolutions under `vmap` over tasks: one grouped convolution of ours, for any derivative."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from metarl.models.convolution import CONVOLUTIONS, Geometry, grouped_conv

Sizes = int | tuple[int, ...] | list[int]


def convolution(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv1d`, `2d` and `3d` of [N, in, *S]; `function` is the one that is called.

    Without filters that differ between tasks, or for padding by words, it is `function`.
    """
    batched = weight.dim() == input.dim() and is_batchedtensor(weight)
    if not batched or isinstance(padding, str):
        return function(input, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry(groups, *(_sizes(s) for s in (stride, padding, dilation)))
    outputs = _PerTask.apply(input, weight, geometry)
    assert isinstance(outputs, Tensor)
    return outputs if bias is None else outputs + bias.view(-1, *[1] * (weight.dim() - 2))


def _sizes(sizes: Sizes) -> int | tuple[int, ...]:
    return sizes if isinstance(sizes, int) else tuple(sizes)


class _PerTask(torch.autograd.Function):
    """A convolution whose rule for `vmap` folds the tasks into the groups."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return grouped_conv(inputs, weight, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # the rule for vmap records the derivatives

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], inputs: Tensor, weight: Tensor, geometry: Geometry
    ) -> tuple[Tensor, int]:
        tasks, (of_inputs, of_weight, *_) = info.batch_size, in_dims
        weight = weight.movedim(of_weight, 0)
        if of_inputs is None:
            inputs = inputs.unsqueeze(1).expand(-1, tasks, *inputs.shape[1:])
        else:
            inputs = inputs.movedim(of_inputs, 1)
        folded = geometry._replace(groups=tasks * geometry.groups)
        outputs = grouped_conv(inputs.flatten(1, 2), weight.flatten(0, 1), folded)
        return outputs.unflatten(1, (tasks, -1)), 1


REPLACED = {
    function: functools.partial(convolution, function) for function in CONVOLUTIONS.values()
}
"""torch's function -> its replacement under `vmap`."""
