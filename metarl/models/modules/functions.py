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

from metarl.models.modules import composed, parametric, shapes
from metarl.models.modules.shapes import aligned, shifted
from metarl.models.modules.values import Folded, GraphRun, NoForm, Value

Form = Callable[..., Value]
"""Called with the run, the function of the module, and its arguments."""


def unary(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """A function of each number alone, or of tensors that broadcast, such as bounds."""
    if any(isinstance(a, Tensor | Folded) for a in (*args, *kwargs.values())):
        return pointwise(run, function, value, *args, **kwargs)
    if isinstance(value, Folded):
        return Folded(function(value.tensor, *args, **kwargs))
    return function(value, *args, **kwargs)


def hardsigmoid(run: GraphRun, function: Any, value: Value, inplace: bool = False) -> Value:
    """`F.hardsigmoid`, with a second derivative."""
    return unary(run, composed.hardsigmoid, value)


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
    return function(tensor, dims, keepdim=keepdim, **kwargs)


def spread(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """`var` and `std`, unless an argument `unbiased` is given by position."""
    if len(args) > 1 or any(isinstance(a, bool) for a in args):
        raise NoForm
    return reduction(run, function, value, *args, **kwargs)


def along(
    run: GraphRun, function: Any, value: Value, dim: Any = None, *args: Any, **kwargs: Any
) -> Value:
    """A function along one dimension, its first argument after the tensor."""
    kwargs.pop("_stacklevel", None)
    if not isinstance(dim, int):
        raise NoForm
    return function(run.plain(value), shifted(dim), *args, **kwargs)


def along_first(
    run: GraphRun, function: Any, value: Value, dim: int = 0, *args: Any, **kwargs: Any
) -> Value:
    """A function along one dimension, the first by default."""
    return along(run, function, value, dim, *args, **kwargs)


def parts(
    run: GraphRun, function: Any, value: Value, sizes: Any, dim: int = 0, **kwargs: Any
) -> Value:
    """`chunk` and `split` along a dimension."""
    return function(run.plain(value), sizes, shifted(dim), **kwargs)


def extreme(run: GraphRun, function: Any, value: Value, *args: Any, **kwargs: Any) -> Value:
    """`max` and `min`: of two tensors, or along a dimension with its indices."""
    if args and isinstance(args[0], Tensor | Folded):
        return binary(run, function, value, *args, **kwargs)
    return along(run, function, value, *args, **kwargs)


def pointwise(run: GraphRun, function: Any, *args: Any, **kwargs: Any) -> Value:
    """A function of several values that broadcast."""
    values = aligned(*(run.plain(v) for v in (*args, *kwargs.values())))
    named = dict(zip(kwargs, values[len(args) :], strict=True))
    return function(*values[: len(args)], **named)


def normalized(
    run: GraphRun, function: Any, value: Value, p: float = 2.0, dim: Any = 1, eps: float = 1e-12,
    out: None = None,
) -> Value:  # fmt: skip
    """`F.normalize`."""
    return along(run, lambda x, d: function(x, p, d, eps), value, dim)


def product(run: GraphRun, function: Any, a: Value, b: Value) -> Value:
    """`@` of matrices and batches of matrices."""
    a, b = run.plain(a), run.plain(b)
    if min(a.dim(), b.dim()) < 3:  # a vector
        raise NoForm
    return torch.matmul(*aligned(a, b))


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
    F.softsign, F.hardtanh, F.hardswish, F.logsigmoid, F.tanhshrink, F.softshrink,
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
    **dict.fromkeys((torch.var, torch.std), spread),
    **dict.fromkeys(
        (torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, torch.logsumexp,
         torch.cumsum, torch.argmax, torch.argmin, torch.unsqueeze), along,
    ),
    **dict.fromkeys((torch.unbind,), along_first),
    **dict.fromkeys((torch.chunk, torch.split), parts),
    **dict.fromkeys((torch.max, torch.min), extreme),
    F.normalize: normalized,
    F.hardsigmoid: hardsigmoid,
    F.linear: parametric.linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), parametric.convolution),
    F.layer_norm: parametric.layer_norm,
    F.rms_norm: parametric.rms_norm,
    F.pad: shapes.padded,
    torch.squeeze: shapes.squeezed,
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), shapes.concatenated),
    **dict.fromkeys(
        (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d,
         F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.max_pool3d,
         F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d, F.interpolate), pooled,
    ),
    **dict.fromkeys((torch.where, torch.lerp, torch.addcmul, torch.addcdiv), pointwise),
    torch.masked_fill: pointwise,
    torch.flatten: shapes.flattened,
    torch.reshape: shapes.reshaped,
    torch.permute: shapes.permuted,
    torch.transpose: shapes.transposed,
    torch.matmul: product,
    torch.bmm: product,
    operator.matmul: product,
    operator.getitem: shapes.item,
    getattr: shapes.attribute,
    operator.floordiv: python,
    operator.mod: python,
}  # fmt: skip
ELEMENTWISE_METHODS = (
    "relu", "tanh", "sigmoid", "exp", "log", "log1p", "sqrt", "rsqrt", "abs", "neg", "square",
    "sin", "cos", "clamp", "float", "double", "half", "bfloat16", "long", "int", "bool", "detach",
    "erf", "sign", "reciprocal", "round", "floor",
)  # fmt: skip
METHODS: dict[str, Form] = {
    **dict.fromkeys(ELEMENTWISE_METHODS, unary),
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "minimum"), binary),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("var", "std"), spread),
    **dict.fromkeys(
        ("softmax", "log_softmax", "logsumexp", "unsqueeze", "cumsum", "argmax", "argmin"), along
    ),
    "unbind": along_first,
    **dict.fromkeys(("chunk", "split"), parts),
    **dict.fromkeys(("max", "min"), extreme),
    **dict.fromkeys(("lerp", "addcmul", "addcdiv", "masked_fill"), pointwise),
    **dict.fromkeys(("view", "reshape"), shapes.reshaped),
    **dict.fromkeys(("to", "type_as", "contiguous", "clone"), shapes.cast),
    "flatten": shapes.flattened,
    "permute": shapes.permuted,
    "transpose": shapes.transposed,
    "squeeze": shapes.squeezed,
    "expand": shapes.expanded,
    "expand_as": shapes.expanded_as,
    "view_as": shapes.reshaped_as,
    "repeat": shapes.repeated,
    "matmul": product,
    "size": shapes.size,
    "dim": shapes.number_of_dimensions,
}
IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, "relu_": "relu", "add_": "add", "mul_": "mul",
    "sub_": "sub", "div_": "div", "tanh_": "tanh", "sigmoid_": "sigmoid", "clamp_": "clamp",
    F.relu_: F.relu, torch.relu_: torch.relu, F.leaky_relu_: F.leaky_relu, F.elu_: F.elu,
}  # fmt: skip
"""Functions that change their first argument -> those that do not."""
