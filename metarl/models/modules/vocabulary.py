"""The names that a stored module may use: layers and functions of torch that only compute.

A file names what it uses by these names. Nothing else is looked up, so a file cannot name code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

Function = Callable[..., Any]

_OPERATOR = """
add sub mul truediv floordiv mod pow matmul neg pos and_ or_ xor invert lt le gt ge eq ne getitem
"""
_TORCH = """
abs acos add addcdiv addcmul addmm all amax amin any arange argmax argmin asin atan atan2 baddbmm
bmm broadcast_to cat ceil celu chunk clamp clone concat concatenate cos cosh cross cumprod cumsum
diag_embed diagonal diff div dot einsum eq erf exp expm1 eye flatten flip floor floor_divide fmod
full full_like gather ge gt hstack hypot index_select isfinite isinf isnan kron layer_norm le lerp
linspace log log10 log1p log2 log_softmax logaddexp logical_and logical_not logical_or logical_xor
logsumexp lt masked_fill matmul max maximum mean meshgrid min minimum mm movedim mul multiply mv
narrow ne neg negative norm numel ones ones_like outer permute pow prod reciprocal relu remainder
repeat_interleave reshape roll round rsqrt scatter scatter_add select sigmoid sign sin sinc sinh
softmax sort split sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims tan
tanh tensordot tile topk transpose tril triu true_divide trunc unbind unflatten unsqueeze var
var_mean vstack where zeros zeros_like
"""
_FUNCTIONAL = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d affine_grid avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear celu
channel_shuffle conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
cosine_similarity dropout dropout1d dropout2d dropout3d elu embedding fold gelu glu grid_sample
group_norm hardshrink hardsigmoid hardswish hardtanh instance_norm interpolate layer_norm
leaky_relu linear local_response_norm log_softmax logsigmoid lp_pool1d lp_pool2d max_pool1d
max_pool2d max_pool3d mish multi_head_attention_forward normalize one_hot pad pairwise_distance
pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm scaled_dot_product_attention selu sigmoid
silu softmax softmin softplus softshrink softsign tanh tanhshrink threshold unfold
"""
_METHODS = """
bfloat16 bool contiguous detach dim double expand expand_as float half int long ndimension
new_full new_ones new_zeros repeat reshape_as size to type_as unfold view view_as
"""
METHODS = frozenset(
    (*(name for name in _TORCH.split() if hasattr(Tensor, name)), *_METHODS.split())
)
"""The methods of a tensor."""
ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT", "real", "imag"})
"""The attributes of a tensor."""
FUNCTIONS: dict[str, Function] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATOR.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _TORCH.split()},
    **{f"F.{name}": getattr(F, name) for name in _FUNCTIONAL.split()},
}
"""Name in a file -> function, without `getattr`, by which a file could reach all of Python."""
READ = "getattr"
"""The name in a file of a step that reads one of `ATTRIBUTES`."""
NAMES: dict[Function, str] = {
    **{function: name for name, function in FUNCTIONS.items()},
    getattr: READ,
}
"""Function -> its name in a file."""


def has_members(value: Any) -> bool:
    """Returns whether a stored module may call methods of a value and read its attributes."""
    return isinstance(value, Tensor | torch.Size | fx.Proxy)  # a tensor while it is traced again


def is_option(kind: type[nn.Module], name: str) -> bool:
    """Returns whether an attribute of a layer can be an option, and not a part of its code."""
    if not name.isidentifier() or name.startswith("__") or name in nn.Module().__dict__:
        return False
    return not hasattr(nn.Module, name) and not _is_code(getattr(kind, name, None))


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, property)


def layer_class(name: str) -> type[nn.Module] | None:
    """Returns the class of a layer in `torch.nn` by its name; None if there is none."""
    found = getattr(nn, name, None) if name.isidentifier() else None
    return found if found is not None and is_layer_class(found) else None


def is_layer_class(kind: Any) -> bool:
    """Returns whether a class is one of `torch.nn`'s layers, which a file may name."""
    return (
        isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.__module__.startswith("torch.nn.modules.")
        and getattr(nn, kind.__name__, None) is kind
        and not issubclass(kind, LazyModuleMixin)
    )
