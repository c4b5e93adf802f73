"""What a module does while it runs, seen by torch's modes: sizes, types, stopped gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from metarl.models.modules.attention import scaled_dot_product_attention
from metarl.models.modules.interception import DROPOUTS, refuse_random

RATES = {
    **dict.fromkeys(DROPOUTS, (1, "p", 0.5)),
    F.scaled_dot_product_attention: (4, "dropout_p", 0.0),
    F.multi_head_attention_forward: (10, "dropout_p", 0.0),
}
"""Functions with dropout -> place, name and default of its probability."""
STOPS = frozenset({Tensor.detach, Tensor.detach_, Tensor.data.__get__})  # pyright: ignore[reportAttributeAccessIssue]


class PlainRun(TorchFunctionMode):
    """Leaves dropout out, and refuses random numbers.

    Attributes:
        drops: Whether a dropout that is left out would have dropped anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drops = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, unless it is a dropout."""
        del types
        kwargs = kwargs or {}
        if func in RATES:
            values = dict(enumerate(args)) | kwargs
            place, name, default = RATES[func]
            rate = values.get(name, values.get(place, default))
            is_active = kwargs.get("training", values.get(2, True) if func in DROPOUTS else True)
            self.drops |= bool(is_active) and rate > 0
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        refuse_random(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            kwargs = {**kwargs, "training": False}
        if func is F.scaled_dot_product_attention:
            return scaled_dot_product_attention(*args, **kwargs)  # without a pass: no dropout
        return func(*args, **kwargs)


class Watch(TorchFunctionMode):
    """Notes what a graph of `torch.fx`, or finite differences, would not see.

    Attributes:
        detaches: Whether the module detaches a tensor, or has an embedding whose padding is fixed.
        disables: Whether it computes under `torch.no_grad`.
        casts: Whether it computes under `torch.autocast`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detaches = self.disables = self.casts = False
        self._outside = _autocast()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks at `func`, and calls it."""
        del types
        if torch.is_grad_enabled():  # it is not in the forward of an autograd.Function
            self.disables |= func is torch._C._set_grad_enabled and args == (False,)
            self.detaches |= func in STOPS or _fixes_padding(func, args, kwargs or {})
        self.casts |= _autocast() != self._outside
        return func(*args, **(kwargs or {}))

    @property
    def contexts(self) -> str:
        """The contexts that a graph leaves out, in words."""
        used = {"torch.no_grad": self.disables, "torch.autocast": self.casts}
        return " and ".join(name for name, is_used in used.items() if is_used)


class Activations(TorchDispatchMode):
    """Notes the size of the largest tensor that is computed, and the coarsest type.

    Args:
        given: The given tensors: parameters and buffers. Views of them do not count.

    Attributes:
        numbers: Numbers of the largest tensor.
        rounding: The largest relative rounding error of a floating-point type.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self._given = {_storage(t) for t in given}
        self.numbers = 0
        self.rounding = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func` and looks at its results."""
        del types
        results = func(*args, **(kwargs or {}))
        for tensor in tensors_of(results):
            if tensor.is_floating_point():
                self.rounding = max(self.rounding, torch.finfo(tensor.dtype).eps)
            if _storage(tensor) not in self._given:
                self.numbers = max(self.numbers, tensor.numel())
        return results


def _fixes_padding(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Returns whether a call is an embedding with a `padding_idx`: this row has no gradient."""
    if func is not F.embedding:
        return False
    return kwargs.get("padding_idx", args[2] if len(args) > 2 else None) is not None


def tensors_of(outputs: Any) -> list[Tensor]:
    """Returns the tensors of nested outputs."""
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Returns where the numbers are; 0 for tensors that are not dense."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
