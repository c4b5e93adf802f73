"""Normalisation of one task's tensors, written out: right second derivatives under `vmap`.

torch's batch, layer, group and instance normalisation have wrong second derivatives under `vmap`
when their weights are batched; means and squares have right ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from metarl.errors import ShapeError
from metarl.models.convolution import channel_moments
from metarl.models.functional import per_channel
from metarl.models.modules.passes import current_pass


def batch_norm(
    inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, layer: str
) -> Tensor:
    """Normalises each channel by the statistics of the batch, or by recorded ones.

    Args:
        inputs: Shape [N, C, *].
        weight: Shape [C], or None.
        bias: Shape [C], or None.
        eps: Added to the variance.
        layer: Name under which the current pass records the moments, or has recorded ones.
    """
    here = current_pass()
    if here.recorded is None:
        mean, variance = moments(inputs)
        here.moments.append((layer, mean, variance))
    else:
        mean, variance = here.recorded[layer]
    return normalised(inputs, mean, variance, weight, bias, eps)


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and biased variance of each channel of [N, C, *], each [C].

    Raises:
        ShapeError: A channel has one value only, so that its output would always be 0.
    """
    count = inputs.numel()  # a symbol while a graph for any number of examples is captured
    if isinstance(count, int) and count == inputs.shape[1]:
        raise ShapeError(
            "Expected more than one value per channel for a batch normalisation in training mode, "
            "got a batch of one example: the outputs would not depend on its input. Give support "
            "and query sets more examples, call .eval() of the layer to use its running "
            "statistics, or use LayerNorm or GroupNorm."
        )
    if inputs.dim() == 4:
        return channel_moments(inputs)
    dims = [d for d in range(inputs.dim()) if d != 1]
    mean = inputs.mean(dims)
    variance = (inputs - per_channel(mean, inputs)).square().mean(dims)
    return mean, variance


def normalised(
    inputs: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Returns (x - mean) / sqrt(variance + eps) * weight + bias for [N, C, *], the rest [C]."""
    # y = scale * x + shift  (Ioffe & Szegedy 2015, algorithm 1)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    return inputs * per_channel(scale, inputs) + per_channel(shift, inputs)


def layer_norm(
    inputs: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm`: normalises over the last dimensions, those of `shape`."""
    if get_proxy_mode() is None:  # without weights torch's is right under vmap, too
        hidden = F.layer_norm(inputs, list(shape), None, None, eps)
    else:  # a capture for any number of examples, whose sizes torch's would fix
        dims = list(range(-len(shape), 0))
        centred = inputs - inputs.mean(dims, keepdim=True)
        hidden = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    hidden = hidden if weight is None else hidden * weight
    return hidden if bias is None else hidden + bias


def rms_norm(
    inputs: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`F.rms_norm`: divides by the root mean square over the last dimensions."""
    dims = list(range(-len(shape), 0))
    eps = torch.finfo(inputs.dtype).eps if eps is None else eps
    hidden = inputs * torch.rsqrt(inputs.square().mean(dims, keepdim=True) + eps)
    return hidden if weight is None else hidden * weight


def group_norm(
    inputs: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.group_norm`: normalises each example over groups of channels of [N, C, *]."""
    grouped = inputs.unflatten(1, (groups, -1)).flatten(2)  # [N, groups, -1]
    centred = grouped - grouped.mean(2, keepdim=True)
    hidden = centred * torch.rsqrt(centred.square().mean(2, keepdim=True) + eps)
    hidden = hidden.reshape(inputs.shape)
    hidden = hidden if weight is None else hidden * per_channel(weight, inputs)
    return hidden if bias is None else hidden + per_channel(bias, inputs)


def instance_norm(
    inputs: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm`: normalises each channel of each example of [N, C, *].

    Running statistics are read if `use_input_stats` is false, and never updated.
    """
    del momentum
    if use_input_stats:
        return group_norm(inputs, inputs.shape[1], weight, bias, eps)
    assert running_mean is not None and running_var is not None
    return normalised(inputs, running_mean, running_var, weight, bias, eps)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`, which weight_norm calls: v g / ||v||, the norm over all but `dim`."""
    dims = [d for d in range(v.dim()) if d != dim % v.dim()] if dim != -1 else list(range(v.dim()))
    return v * (g / v.square().sum(dims, keepdim=True).sqrt())


def functional_batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`; running statistics are read if `training` is false, and never updated.

    The moments are those of the layer that `running_mean` belongs to, or of a call without one.
    """
    del momentum
    if training:
        here = current_pass()
        name = here.owner(running_mean) or here.next_functional_norm()
        return batch_norm(inputs, weight, bias, eps, name)
    assert running_mean is not None and running_var is not None
    return normalised(inputs, running_mean, running_var, weight, bias, eps)
