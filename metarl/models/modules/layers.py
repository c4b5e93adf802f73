"""Task-batched forms of torch's layers: what a node of a traced graph does for T tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.models.functional import batch_norm, per_channel
from metarl.models.modules import composed, functions, parametric
from metarl.models.modules.noise import dropout
from metarl.models.modules.normalisation import moments
from metarl.models.modules.shapes import shifted
from metarl.models.modules.skeleton import by_batch
from metarl.models.modules.values import Folded, GraphRun, Layer, Value, folded

LayerForm = Callable[[GraphRun, Layer, Value], Value]
"""Maps the input of a layer to its output, for T tasks."""

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLING = {
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, nn.AvgPool1d: 1, nn.AvgPool2d: 2,
    nn.AvgPool3d: 3, nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3, nn.LPPool1d: 1,
    nn.LPPool2d: 2, nn.ZeroPad1d: 1, nn.ZeroPad2d: 2, nn.ZeroPad3d: 3, nn.ConstantPad1d: 1,
    nn.ConstantPad2d: 2, nn.ConstantPad3d: 3, nn.ReflectionPad1d: 1, nn.ReflectionPad2d: 2,
    nn.ReflectionPad3d: 3, nn.ReplicationPad1d: 1, nn.ReplicationPad2d: 2, nn.ReplicationPad3d: 3,
    nn.CircularPad1d: 1, nn.CircularPad2d: 2, nn.CircularPad3d: 3, nn.PixelShuffle: 2,
    nn.PixelUnshuffle: 2, nn.UpsamplingNearest2d: 2, nn.UpsamplingBilinear2d: 2,
}  # fmt: skip
"""Layers that treat each image, or each of its channels, alone -> numbers of spatial dimensions."""
ALONG = {
    nn.Softmax: torch.softmax, nn.LogSoftmax: torch.log_softmax, nn.Softmin: F.softmin,
    nn.GLU: F.glu,
}  # fmt: skip
ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish,
    nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
    nn.Threshold,
)  # fmt: skip


def linear(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.Linear` of [T, *B, in]."""
    weight, bias = layer.tensor(run, "weight"), layer.tensor(run, "bias")
    assert weight is not None
    return parametric.linear(run, F.linear, value, weight, bias)


def convolution(run: GraphRun, layer: Layer, value: Value) -> Folded:
    """A convolution of [T, N, in, *S]."""
    return _shifted(filtered(run, layer, value), layer.tensor(run, "bias"))


def _shifted(hidden: Tensor, bias: Tensor | None) -> Folded:
    return Folded(hidden if bias is None else hidden + per_channel(bias.flatten(), hidden))


def filtered(run: GraphRun, layer: Layer, value: Value, sign: Tensor | None = None) -> Tensor:
    """Returns a convolution without its bias, [N, T * out, *S'].

    `sign` [T, out] multiplies the filters.
    """
    module, weight = layer.module, layer.tensor(run, "weight")
    assert weight is not None
    if sign is not None:
        weight = weight * sign.view(*sign.shape, *[1] * (weight.dim() - 2))
    padding = padding_of(module)
    return parametric.filtered(
        run, value, weight, module.groups, module.stride, padding, module.dilation
    )


def transposed_convolution(run: GraphRun, layer: Layer, value: Value) -> Folded:
    """A transposed convolution of [T, N, in, *S]."""
    module, weight = layer.module, layer.tensor(run, "weight")
    assert weight is not None
    hidden = parametric.transposed(
        run, value, weight, module.groups, module.stride, module.padding, module.dilation,
        module.output_padding,
    )  # fmt: skip
    return _shifted(hidden, layer.tensor(run, "bias"))


def padding_of(module: Any) -> tuple[int, ...]:
    """Returns the zeros on each side of each dimension, for "same" and "valid", too."""
    padding = module.padding
    if padding == "valid":
        return (0,) * len(module.kernel_size)
    if padding == "same":
        return tuple(
            d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True)
        )
    return padding


def has_form(module: Any) -> bool:
    """Returns whether the task-batched form of a layer's class covers the layer's options."""
    if any(getattr(module, hooks) for hooks in HOOKS):
        return False
    if isinstance(module, CONV):
        even = any(
            d * (k - 1) % 2 for k, d in zip(module.kernel_size, module.dilation, strict=True)
        )
        return module.padding_mode == "zeros" and not (module.padding == "same" and even)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    if "forward" in module.__dict__:
        return False
    if isinstance(module, INSTANCE_NORMS):
        return not module.track_running_stats
    return not getattr(module, "return_indices", False)


def batch_normalisation(run: GraphRun, layer: Layer, value: Value) -> Value:
    """A batch normalisation of [T, N, C, *S] or [T, N, C]."""
    return normalise(run, layer, folded(value))


def normalise(run: GraphRun, layer: Layer, hidden: Tensor, shift: Tensor | None = None) -> Folded:
    """Normalises [N, T * C, *S]; `shift` [T * C] is a bias of `hidden` not yet added to it."""
    mean, variance = moments_of(run, layer, hidden, None, shift)
    weight, bias = layer.tensor(run, "weight"), layer.tensor(run, "bias")
    weight, bias = _flat(weight, mean, 1), _flat(bias, mean, 0)
    return Folded(batch_norm(hidden, mean, variance, weight, bias, layer.module.eps))


def _flat(values: Tensor | None, like: Tensor, constant: float) -> Tensor:
    return torch.full_like(like, constant) if values is None else values.flatten()


def moments_of(
    run: GraphRun,
    layer: Layer,
    hidden: Tensor,
    sign: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the mean and variance by which to normalise `hidden`, each [T * C].

    Args:
        run: The run.
        layer: The batch normalisation.
        hidden: Shape [N, T * C, *S], without what follows.
        sign: Factor 1 or -1 [T, C] that the channels of `hidden` were multiplied by.
        shift: Constant [T * C] that belongs to `hidden`, sign included, and was not added.
    """
    if not by_batch(layer.module):
        mean, variance = (layer.tensor(run, f"running_{n}") for n in ("mean", "var"))
        assert mean is not None and variance is not None
    elif run.here.recorded is not None:
        mean, variance = run.here.recorded[layer.path]
    else:
        mean, variance = moments(hidden)
        shown = (mean if shift is None else mean + shift).detach().view(run.num_tasks, -1)
        shown = shown if sign is None else shown * sign
        run.here.moments.append((layer.path, shown, variance.view(run.num_tasks, -1)))
        return mean, variance
    mean = mean.flatten() if sign is None else (mean * sign).flatten()
    return (mean if shift is None else mean - shift), variance.flatten()


def layer_norm(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.LayerNorm` of [T, *B, *shape]."""
    weight, bias = layer.tensor(run, "weight"), layer.tensor(run, "bias")
    module = layer.module
    return parametric.layer_norm(
        run, F.layer_norm, value, module.normalized_shape, weight, bias, module.eps
    )


def rms_norm(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.RMSNorm` of [T, *B, *shape]."""
    shape, weight = layer.module.normalized_shape, layer.tensor(run, "weight")
    return parametric.rms_norm(run, F.rms_norm, value, shape, weight, layer.module.eps)


def group_norm(run: GraphRun, layer: Layer, value: Value) -> Folded:
    """`nn.GroupNorm` of [T, N, C, *S], or an instance normalisation."""
    module, hidden = layer.module, folded(value)
    per_task = hidden.shape[1] // run.num_tasks
    groups = run.num_tasks * (module.num_groups if isinstance(module, nn.GroupNorm) else per_task)
    weight, bias = layer.tensor(run, "weight"), layer.tensor(run, "bias")
    weight, bias = (None if w is None else w.flatten() for w in (weight, bias))
    return Folded(F.group_norm(hidden, groups, weight, bias, module.eps))


def embedding(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.Embedding` of indices [T, *]."""
    weight = layer.tensor(run, "weight")
    assert weight is not None
    rows = weight.shape[1]
    first = torch.arange(run.num_tasks, device=value.device) * rows
    index = composed.known_rows(value, rows) + first.view(-1, *[1] * (value.dim() - 1))
    return F.embedding(index, composed.fixed_row(weight, layer.module.padding_idx).flatten(0, 1))


def pooling(run: GraphRun, layer: Layer, value: Value) -> Value:
    """A pooling of [T, N, C, *S]: each channel of each image alone."""
    if isinstance(value, Folded):
        return Folded(layer.module(value.tensor))
    return layer.module(value.flatten(0, 1)).unflatten(0, value.shape[:2])


def elementwise(run: GraphRun, layer: Layer, value: Value) -> Value:
    """A layer that treats each number alone."""
    if isinstance(value, Folded):
        return Folded(layer.module(value.tensor))
    return layer.module(value)


def hardsigmoid(run: GraphRun, layer: Layer, value: Value) -> Value:
    """`nn.Hardsigmoid`, with a second derivative."""
    return functions.hardsigmoid(run, F.hardsigmoid, value)


def prelu(run: GraphRun, layer: Layer, value: Value) -> Value:
    """`nn.PReLU` with one slope, or one per channel."""
    slope = layer.tensor(run, "weight")
    assert slope is not None
    if isinstance(value, Folded):
        per_task = value.tensor.shape[1] // run.num_tasks
        slope = per_channel(slope.expand(-1, per_task).reshape(-1), value.tensor)
        return Folded(torch.where(value.tensor > 0, value.tensor, slope * value.tensor))
    slope = slope.view(run.num_tasks, 1, -1, *[1] * (value.dim() - 3))
    return torch.where(value > 0, value, slope * value)


def noise(run: GraphRun, layer: Layer, value: Value) -> Value:
    """`nn.Dropout`, and those of whole channels."""
    module = layer.module
    if not module.training or module.p == 0:
        return value
    call = run.here.next_dropout()
    if run.here.seeds is None:
        return value
    channels_only = not isinstance(module, nn.Dropout)
    return dropout(run.plain(value), run.here.seeds, call, module.p, channels_only, lead=1)


def flatten(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.Flatten` of [T, N, *]."""
    start, end = layer.module.start_dim, layer.module.end_dim
    return run.plain(value).flatten(shifted(start), shifted(end))


def unflatten(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.Unflatten` of [T, N, *]."""
    return run.plain(value).unflatten(shifted(layer.module.dim), layer.module.unflattened_size)


def along(run: GraphRun, layer: Layer, value: Value) -> Tensor:
    """`nn.Softmax`, `nn.LogSoftmax`, `nn.Softmin` and `nn.GLU` along a named dimension."""
    function = next(f for kind, f in ALONG.items() if isinstance(layer.module, kind))
    return function(run.plain(value), shifted(layer.module.dim))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
FORMS: dict[type[nn.Module], tuple[LayerForm, frozenset[int] | None]] = {
    nn.Linear: (linear, None),
    **{kind: (convolution, frozenset({3 + i})) for i, kind in enumerate(CONV)},
    **{kind: (transposed_convolution, frozenset({3 + i})) for i, kind in enumerate(TRANSPOSED)},
    nn.BatchNorm1d: (batch_normalisation, frozenset({2, 3})),
    nn.BatchNorm2d: (batch_normalisation, frozenset({4})),
    nn.BatchNorm3d: (batch_normalisation, frozenset({5})),
    nn.SyncBatchNorm: (batch_normalisation, frozenset({2, 3, 4, 5})),
    nn.LayerNorm: (layer_norm, None),
    nn.RMSNorm: (rms_norm, None),
    nn.PReLU: (prelu, frozenset({2, 3, 4, 5})),
    nn.GroupNorm: (group_norm, frozenset({2, 3, 4, 5})),
    **{kind: (group_norm, frozenset({3 + i})) for i, kind in enumerate(INSTANCE_NORMS)},
    nn.Embedding: (embedding, None),
    **{kind: (pooling, frozenset({2 + dims})) for kind, dims in POOLING.items()},
    nn.Upsample: (pooling, frozenset({3, 4, 5})),
    **dict.fromkeys(ELEMENTWISE, (elementwise, None)),
    nn.Hardsigmoid: (hardsigmoid, None),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), (noise, None)),
    nn.Flatten: (flatten, None),
    nn.Unflatten: (unflatten, None),
    **dict.fromkeys(ALONG, (along, None)),
}
"""Class of a layer -> its form, and the numbers of dimensions that one task's input may have; None
for any."""
