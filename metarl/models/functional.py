"""Layers on the parameters of T tasks at once. Right to second order, unlike `vmap` of torch's."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Applies one affine map per task.

    Args:
        inputs: Shape [T, N, in].
        weight: Shape [T, out, in].
        bias: Shape [T, out].

    Returns:
        Shape [T, N, out].
    """
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)
