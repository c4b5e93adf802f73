"""Task-batched forms of functions that change shapes or types, or select."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.modules.values import Folded, GraphRun, NoForm, Value


def shifted(dim: Any) -> int:
    """Returns the dimension of a tensor of T tasks for that of one task's."""
    return dim + 1 if dim >= 0 else dim


def aligned(*values: Any) -> list[Any]:
    """Returns tensors [T, *] with as many dimensions each, so that those of a task broadcast.

    A tensor without dimensions of a task, [T], does not promote the type of the others.
    """
    most = max((v.dim() for v in values if isinstance(v, Tensor)), default=0)
    if most > 1 and any(isinstance(v, Tensor) and v.dim() == 1 for v in values):
        values = _unpromoted(values)
    return [
        v.view(v.shape[0], *[1] * (most - v.dim()), *v.shape[1:])
        if isinstance(v, Tensor) and v.dim() < most
        else v
        for v in values
    ]


def _unpromoted(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns values whose tensors [T] promote the others only as tensors [] of a task do."""
    wide = None
    for v in values:
        if isinstance(v, Tensor) and v.dim() > 1:
            wide = v.dtype if wide is None else torch.promote_types(wide, v.dtype)
    assert wide is not None
    result = []
    for v in values:
        if isinstance(v, Tensor) and v.dim() == 1:
            kept = torch.result_type(torch.empty(1, dtype=wide), torch.empty((), dtype=v.dtype))
            v = v if kept == torch.promote_types(wide, v.dtype) else v.to(kept)
        result.append(v)
    return tuple(result)


def concatenated(run: GraphRun, function: Any, tensors: Any, dim: int = 0) -> Value:
    """`torch.cat` and `torch.stack`."""
    if function is torch.stack:
        # dimension -1 of the result is the last, one more than that of a task's tensor
        return torch.stack([run.plain(v) for v in tensors], shifted(dim))
    if dim == 1 and all(isinstance(v, Folded) for v in tensors):
        parts = [v.tensor.unflatten(1, (run.num_tasks, -1)) for v in tensors]
        return Folded(torch.cat(parts, 2).flatten(1, 2))
    return torch.cat([run.plain(v) for v in tensors], shifted(dim))


def flattened(
    run: GraphRun, function: Any, value: Value, start_dim: int = 0, end_dim: int = -1
) -> Value:
    """`torch.flatten`."""
    return torch.flatten(run.plain(value), shifted(start_dim), shifted(end_dim))


def reshaped(run: GraphRun, function: Any, value: Value, *shape: Any) -> Value:
    """`view` and `reshape`: each task's tensor in a new shape."""
    if len(shape) == 1 and not isinstance(shape[0], int):
        shape = tuple(shape[0])
    if not all(isinstance(size, int) for size in shape):  # a view as another type
        raise NoForm
    return run.plain(value).reshape(run.num_tasks, *shape)


def permuted(run: GraphRun, function: Any, value: Value, *dims: Any) -> Value:
    """`permute`."""
    if len(dims) == 1 and not isinstance(dims[0], int):
        dims = tuple(dims[0])
    tensor = run.plain(value)
    count = tensor.dim() - 1
    return tensor.permute(0, *(1 + d % count for d in dims))


def transposed(run: GraphRun, function: Any, value: Value, a: int, b: int) -> Value:
    """`transpose`."""
    return run.plain(value).transpose(shifted(a), shifted(b))


def expanded(run: GraphRun, function: Any, value: Value, *sizes: Any) -> Value:
    """`expand` to more dimensions or sizes."""
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = tuple(sizes[0])
    tensor = run.plain(value)
    fill = len(sizes) - (tensor.dim() - 1)
    tensor = tensor.view(tensor.shape[0], *[1] * fill, *tensor.shape[1:])
    return tensor.expand(run.num_tasks, *sizes)


def item(run: GraphRun, function: Any, value: Value, index: Any) -> Value:
    """Indexing: of tensors by numbers, slices, None and an ellipsis."""
    value = run.plain(value)
    if not isinstance(value, Tensor):
        return value[index]
    index = index if isinstance(index, tuple) else (index,)
    if not all(i is None or i is Ellipsis or isinstance(i, int | slice) for i in index):
        raise NoForm
    return value[(slice(None), *index)]


def size(run: GraphRun, function: Any, value: Value, dim: int | None = None) -> Value:
    """`size()` of a task's tensor."""
    shape = run.plain(value).shape[1:]
    return shape if dim is None else shape[dim]


def attribute(run: GraphRun, function: Any, value: Value, name: str) -> Value:
    """Attributes of a task's tensor."""
    value = run.plain(value)
    if not isinstance(value, Tensor):
        return getattr(value, name)
    if name == "shape":
        return value.shape[1:]
    if name == "ndim":
        return value.ndim - 1
    if name in ("dtype", "device"):
        return getattr(value, name)
    if name == "mT" or (name == "T" and value.dim() == 3):
        return value.mT
    raise NoForm


def number_of_dimensions(run: GraphRun, function: Any, value: Value) -> int:
    """`dim()` of a task's tensor."""
    return run.plain(value).dim() - 1


def squeezed(run: GraphRun, function: Any, value: Value, dim: Any = None) -> Value:
    """`squeeze` of one dimension, or of all of a task's tensor."""
    tensor = run.plain(value)
    if dim is None:
        return tensor.squeeze([d for d in range(1, tensor.dim()) if tensor.shape[d] == 1])
    if not isinstance(dim, int):
        raise NoForm
    return tensor.squeeze(shifted(dim))


def expanded_as(run: GraphRun, function: Any, value: Value, other: Value) -> Value:
    """`expand_as`."""
    return expanded(run, function, value, *run.plain(other).shape[1:])


def reshaped_as(run: GraphRun, function: Any, value: Value, other: Value) -> Value:
    """`view_as`."""
    return run.plain(value).reshape(run.plain(other).shape)


def repeated(run: GraphRun, function: Any, value: Value, *sizes: Any) -> Value:
    """`repeat`: as many copies along each dimension."""
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = tuple(sizes[0])
    tensor = run.plain(value)
    fill = len(sizes) - (tensor.dim() - 1)
    return tensor.view(tensor.shape[0], *[1] * fill, *tensor.shape[1:]).repeat(1, *sizes)


def cast(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """`to`, `type_as`, `contiguous` and `clone`; `memory_format` is ignored."""
    kwargs = {name: v for name, v in kwargs.items() if name != "memory_format"}
    args = tuple(run.plain(v) for v in args)
    if isinstance(value, Folded):
        return Folded(function(value.tensor, *args, **kwargs))
    return function(value, *args, **kwargs)


def padded(
    run: GraphRun, function: Any, inputs: Value, pad: Any, mode: str = "constant",
    value: float | None = None,
) -> Value:  # fmt: skip
    """`F.pad` of [T, N, C, *S] along the positions."""
    tensor = inputs.tensor if isinstance(inputs, Folded) else inputs.flatten(0, 1)
    dims = tensor.dim()
    if dims < 3 or len(pad) > 2 * (dims - 2):
        raise NoForm
    result = F.pad(tensor, pad, mode, value)
    return Folded(result) if isinstance(inputs, Folded) else result.unflatten(0, inputs.shape[:2])
