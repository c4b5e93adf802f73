"""Functions of torch without a second derivative, or not right under `vmap`, composed of others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

NO_ROW = -(2**62)
"""An index that no table has, also after those of many tasks were joined to one."""


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


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding`, whose rule for `vmap` gives the padding of all tasks but the first a gradient.

    That rule joins the tables of all tasks, and so reads the row of another task for an index that
    is too large.
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        return F.embedding(
            input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    weight = fixed_row(weight, padding_idx)
    return F.embedding(known_rows(input, weight.shape[0]), weight)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, which under `vmap` reads sizes that a capture for any number does not have."""
    if bias is None or weight.dim() != 2 or get_proxy_mode() is None:
        return F.linear(input, weight, bias)
    return input @ weight.mT + bias


def known_rows(index: Tensor, rows: int) -> Tensor:
    """Returns indices with `NO_ROW`, which torch refuses, for those that are not below `rows`."""
    index = index.long()
    return torch.where((index >= 0) & (index < rows), index, NO_ROW)


def fixed_row(weight: Tensor, row: int | None) -> Tensor:
    """Returns a weight [*, rows, D] of which a row has no gradient; None: the weight itself."""
    if row is None:
        return weight
    rows = weight.shape[-2]
    moves = torch.arange(rows, device=weight.device) != row % rows
    return torch.where(moves.unsqueeze(1), weight, weight.detach())


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
    rows = F.embedding(known_rows(input, weight.shape[0]), weight)  # [N, L, D]
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
