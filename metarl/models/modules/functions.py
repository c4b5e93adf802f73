"""Task-batched forms of torch's functions: what a node of a traced graph does for T tasks at once.

For a tensor [N, *] of the module, the graph holds [T, N, *]. A function of a form here gives for
all tasks what it gives for each; every other function runs by `vmap`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.modules.layers import shifted
from metarl.models.modules.values import Folded, GraphRun, Value

Form = Callable[..., Value]
"""Called with the run, the function of the module, and its arguments."""


class NoForm(Exception):  # noqa: N818
    """A call has arguments for which there is no form: it runs by `vmap`."""


def unary(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """A function of each number alone; further arguments are no tensors."""
    if isinstance(value, Folded):
        return Folded(function(value.tensor, *args, **kwargs))
    return function(value, *args, **kwargs)


def binary(run: GraphRun, function: Any, a: Value, b: Value, *args: Any, **kwargs: Any) -> Value:
    """A function of pairs of numbers, broadcast as torch does."""
    if isinstance(a, Folded) and isinstance(b, Folded):
        if a.tensor.shape == b.tensor.shape:
            return Folded(function(a.tensor, b.tensor, *args, **kwargs))
    elif isinstance(a, Folded) and isinstance(b, int | float):
        return Folded(function(a.tensor, b, *args, **kwargs))
    elif isinstance(b, Folded) and isinstance(a, int | float):
        return Folded(function(a, b.tensor, *args, **kwargs))
    return function(*aligned(run.plain(a), run.plain(b)), *args, **kwargs)


def aligned(*values: Any) -> list[Any]:
    """Returns tensors [T, *] with as many dimensions each, so that those of a task broadcast."""
    most = max((v.dim() for v in values if isinstance(v, Tensor)), default=0)
    return [
        v.view(v.shape[0], *[1] * (most - v.dim()), *v.shape[1:])
        if isinstance(v, Tensor) and v.dim() < most
        else v
        for v in values
    ]


def where(run: GraphRun, function: Any, condition: Value, a: Value, b: Value) -> Value:
    """`torch.where` of three values that broadcast."""
    return function(*aligned(*(run.plain(v) for v in (condition, a, b))))


def reduction(
    run: GraphRun, function: Any, value: Value, dim: Any = None, keepdim: bool = False,
    **kwargs: Any,
) -> Value:  # fmt: skip
    """`mean`, `sum`, `amax` and `amin` along dimensions; of all numbers of a task without."""
    if isinstance(value, Folded) and not keepdim:
        spatial = list(range(2, value.tensor.dim()))
        dims = [] if dim is None or isinstance(dim, int) else list(dim)
        if spatial and sorted(d % value.tensor.dim() for d in dims) == spatial:
            return Folded(function(value.tensor, spatial, **kwargs))
    tensor = run.plain(value)
    if dim is None:
        dims: Any = list(range(1, tensor.dim()))
    else:
        dims = shifted(dim) if isinstance(dim, int) else [shifted(d) for d in dim]
    return function(tensor, dims, keepdim, **kwargs)


def along(run: GraphRun, function: Any, value: Value, dim: int, *args: Any, **kwargs: Any) -> Value:
    """A function along one dimension, its first argument after the tensor."""
    kwargs.pop("_stacklevel", None)
    if not isinstance(dim, int):
        raise NoForm
    return function(run.plain(value), shifted(dim), *args, **kwargs)


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


def product(run: GraphRun, function: Any, a: Value, b: Value) -> Value:
    """`@` of matrices and batches of matrices."""
    a, b = run.plain(a), run.plain(b)
    if min(a.dim(), b.dim()) < 3:  # a vector
        raise NoForm
    return torch.matmul(*aligned(a, b))


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
    raise NoForm


def number_of_dimensions(run: GraphRun, function: Any, value: Value) -> int:
    """`dim()` of a task's tensor."""
    return run.plain(value).dim() - 1


def python(run: GraphRun, function: Any, *args: Any, **kwargs: Any) -> Value:
    """Arithmetic of sizes."""
    if any(isinstance(a, Tensor | Folded) for a in args):
        raise NoForm
    return function(*args, **kwargs)


def pooled(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """A pooling over the positions of [N, C, *S]."""
    if kwargs.get("return_indices"):
        raise NoForm
    if isinstance(value, Folded):
        return Folded(function(value.tensor, *args, **kwargs))
    if value.dim() < 4:
        raise NoForm
    return function(value.flatten(0, 1), *args, **kwargs).unflatten(0, value.shape[:2])


UNARY = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus,
    F.softsign, F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, F.tanhshrink, F.softshrink,
    F.tanh, F.sigmoid, torch.relu, torch.tanh, torch.sigmoid, torch.exp, torch.log, torch.log1p,
    torch.sqrt, torch.rsqrt, torch.abs, torch.neg, torch.square, torch.sin, torch.cos, torch.clamp,
    torch.erf, torch.sign, torch.reciprocal, operator.neg, torch.logical_not,
)  # fmt: skip
BINARY = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, torch.add, torch.sub,
    torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum, operator.lt, operator.le,
    operator.gt, operator.ge, operator.eq, operator.ne, operator.and_, operator.or_,
)  # fmt: skip
FUNCTIONS: dict[Any, Form] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin), reduction),
    **dict.fromkeys((torch.softmax, torch.log_softmax, F.softmax, F.log_softmax), along),
    torch.unsqueeze: along,
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), concatenated),
    **dict.fromkeys(
        (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d,
         F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d), pooled,
    ),
    torch.where: where,
    torch.flatten: flattened,
    torch.reshape: reshaped,
    torch.permute: permuted,
    torch.transpose: transposed,
    torch.matmul: product,
    torch.bmm: product,
    operator.matmul: product,
    operator.getitem: item,
    getattr: attribute,
    operator.floordiv: python,
    operator.mod: python,
}  # fmt: skip
ELEMENTWISE_METHODS = (
    "relu", "tanh", "sigmoid", "exp", "log", "log1p", "sqrt", "rsqrt", "abs", "neg", "square",
    "sin", "cos", "clamp", "float", "double", "long", "int", "bool", "contiguous", "clone",
    "detach", "erf", "sign", "reciprocal",
)  # fmt: skip
METHODS: dict[str, Form] = {
    **dict.fromkeys(ELEMENTWISE_METHODS, unary),
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "minimum"), binary),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("softmax", "log_softmax", "unsqueeze"), along),
    **dict.fromkeys(("view", "reshape"), reshaped),
    "flatten": flattened,
    "permute": permuted,
    "transpose": transposed,
    "expand": expanded,
    "matmul": product,
    "size": size,
    "dim": number_of_dimensions,
}
IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, "relu_": "relu", "add_": "add", "mul_": "mul",
    "sub_": "sub", "div_": "div", "tanh_": "tanh", "sigmoid_": "sigmoid", "clamp_": "clamp",
    F.relu_: F.relu, torch.relu_: torch.relu, F.leaky_relu_: F.leaky_relu, F.elu_: F.elu,
}  # fmt: skip
"""Functions that change their first argument -> those that do not."""
