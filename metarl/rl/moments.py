"""Means and squared deviations of data that arrive in batches, merged without loss of digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.trees import map_tensors


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of K quantities, float64.

    Attributes:
        count: Number of values, [*].
        mean: Their means, [*, K].
        squares: Their sums of squared deviations from the mean, [*, K].
    """

    count: Tensor
    mean: Tensor
    squares: Tensor


def moments_of(values: Tensor, mask: Tensor) -> Moments:
    """Returns the moments of the values of each task.

    Args:
        values: Shape [T, N, H, K], float.
        mask: 1 for the steps that count, 0 for the rest, [T, N, H].

    Returns:
        Moments with the leading dimension T.
    """
    weights = mask.flatten(1).double().unsqueeze(-1)
    values = values.flatten(1, 2).double()
    count = weights.sum((1, 2))
    mean = (values * weights).sum(1) / count.clamp(min=1).unsqueeze(-1)
    squares = ((values - mean.unsqueeze(1)).square() * weights).sum(1)
    return Moments(count, mean, squares)


def merged(moments: Moments) -> Moments:
    """Returns the moments of the union of several batches (Chan et al. 1979).

    Args:
        moments: Those of the batches, which are the first dimension.

    Returns:
        Moments without that dimension.
    """
    count, mean, squares = moments
    weights = count.unsqueeze(-1)
    # n = sum_i n_i;  m = sum_i n_i m_i / n;  S = sum_i S_i + sum_i n_i (m_i - m)^2
    total = count.sum(0)
    centre = (mean * weights).sum(0) / total.clamp(min=1).unsqueeze(-1)
    spread = squares.sum(0) + (weights * (mean - centre).square()).sum(0)
    return Moments(total, centre, spread)


def merged_steps(parts: Sequence[dict[str, Moments] | None]) -> dict[str, Moments] | None:
    """Returns the moments [T] of several rollouts together; None if there are none."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    return {
        name: merged(map_tensors(lambda *m: torch.stack(m), *(part[name] for part in present)))
        for name in present[0]
    }
