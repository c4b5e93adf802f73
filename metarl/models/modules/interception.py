"""Calls of torch that are replaced while a module runs for MetaRL: norms, attention, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from metarl.errors import SettingsError
from metarl.models.modules import composed, images, normalisation
from metarl.models.modules.attention import (
    functional_channel_dropout,
    functional_dropout,
    multi_head_attention,
    scaled_dot_product_attention,
)

Function = Callable[..., Any]

REPLACED: dict[Function, Function] = {
    F.batch_norm: normalisation.functional_batch_norm,
    F.layer_norm: normalisation.layer_norm,
    F.rms_norm: normalisation.rms_norm,
    F.group_norm: normalisation.group_norm,
    F.instance_norm: normalisation.instance_norm,
    torch._weight_norm: normalisation.weight_norm,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention,
    F.embedding_bag: composed.embedding_bag,
    torch.cdist: composed.cdist,
    F.hardsigmoid: composed.hardsigmoid,
    F.dropout: functional_dropout,
    F.dropout1d: functional_channel_dropout,
    F.dropout2d: functional_channel_dropout,
    F.dropout3d: functional_channel_dropout,
}
BATCHED: dict[Function, Function] = {
    **REPLACED,
    F.embedding: composed.embedding,
    F.linear: composed.linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), images.convolution),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), images.max_pool2d),
    F.adaptive_avg_pool2d: images.adaptive_avg_pool2d,
}
DROPOUTS: frozenset[Function] = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d})
RANDOM: frozenset[Function] = frozenset({
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like,
    torch.randint_like, torch.bernoulli, torch.normal, torch.multinomial, torch.poisson,
    torch.dropout, torch.feature_dropout, torch.alpha_dropout, F.alpha_dropout,
    F.feature_alpha_dropout, F.gumbel_softmax, torch.rrelu, F.rrelu,
    F.fractional_max_pool2d_with_indices, F.fractional_max_pool3d_with_indices,
    torch.Tensor.bernoulli,
    torch.Tensor.bernoulli_, torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.random_,
    torch.Tensor.exponential_, torch.Tensor.multinomial,
})  # fmt: skip

IN_TRAINING: dict[Function, tuple[int, str, bool]] = {
    torch.dropout: (2, "train", True),
    **dict.fromkeys((torch.feature_dropout, torch.alpha_dropout), (2, "train", True)),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), (2, "training", False)),
    **dict.fromkeys((torch.rrelu, F.rrelu), (3, "training", False)),
}
"""Functions that draw in training only -> place, name and default of the argument that says so."""


class Interception(TorchFunctionMode):
    """Replaces norms, attention and dropout, and refuses other random numbers.

    Args:
        batched: Whether the module runs by `vmap`; convolutions and max-pooling are replaced, too.

    Raises:
        SettingsError: In the block, if a module draws random numbers other than by dropout.
    """

    def __init__(self, batched: bool = False) -> None:
        super().__init__()
        self._replaced = BATCHED if batched else REPLACED

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls the replacement of `func`, or `func` itself."""
        del types
        kwargs = kwargs or {}
        if func in self._replaced:
            return self._replaced[func](*args, **kwargs)
        refuse_random(func, args, kwargs)
        return func(*args, **kwargs)


class RandomRefusal(TorchFunctionMode):
    """Refuses random numbers, which would differ in every call.

    Raises:
        SettingsError: In the block, if a module draws random numbers.
    """

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls `func`, unless it draws random numbers."""
        del types
        kwargs = kwargs or {}
        refuse_random(func, args, kwargs)
        return func(*args, **kwargs)


def refuse_random(func: Function, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises a SettingsError for a call that draws random numbers."""
    if func not in RANDOM:
        return
    if func in IN_TRAINING:
        place, name, default = IN_TRAINING[func]
        if not kwargs.get(name, args[place] if len(args) > place else default):
            return
    raise SettingsError(
        f"Expected a module without random numbers other than those of dropout, and it calls "
        f"`{getattr(func, '__name__', func)}`: an inner loop and its replay would see other "
        "numbers. Use nn.Dropout (any of 1d, 2d, 3d), or give the noise as an input."
    )
