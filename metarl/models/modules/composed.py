"""Functions of torch that have no second derivative, composed of functions that have one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """`torch.cdist`: distances [*, P, R] of vectors [*, P, M] and [*, R, M].

    The gradient of a distance of 0 is 0.
    """
    if p != 2:
        return torch.cdist(x1, x2, p, compute_mode)
    squares = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).square().sum(-1)
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag`: the sum, mean or maximum of the rows of each bag of indices, [N, L]."""
    if input.dim() != 2 or max_norm is not None or scale_grad_by_freq or sparse:
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse,
            per_sample_weights, include_last_offset, padding_idx,
        )  # fmt: skip
    padding = None if padding_idx is None else padding_idx % weight.shape[0]
    rows = F.embedding(input, weight)  # [N, L, D]
    real = torch.ones_like(input, dtype=torch.bool) if padding is None else input != padding
    real = real.unsqueeze(-1)
    if mode == "max":
        largest = rows.masked_fill(~real, -math.inf).amax(1)
        return torch.where(real.any(1), largest, 0.0)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    total = (rows * real).sum(1)
    return total if mode == "sum" else total / real.sum(1).clamp(min=1)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`F.hardsigmoid`: relu6(x + 3) / 6."""
    del inplace
    return F.relu6(input + 3.0) / 6.0
