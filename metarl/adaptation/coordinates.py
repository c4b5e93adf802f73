"""Parts of coordinate-wise update rules: parameters packed into rows, and an LSTM cell."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Params, task_rows
from metarl.models.functional import lstm_step
from metarl.ranges import ANY_INT, check_int

R = TypeVar("R", bound=nn.Module)


def pack(params: Params, dtype: torch.dtype | None = None) -> Tensor:
    """Returns all parameters of each task in one row, [T, P].

    Args:
        params: The parameters, [T, *shape] per name.
        dtype: Type of the row; None: the widest of the parameters' types.
    """
    return torch.cat([task_rows(p) for p in params.values()], dim=1).to(dtype)


def unpack(row: Tensor, like: Params) -> Params:
    """Cuts rows [T, P] into parameters of the names, shapes and types of `like`."""
    sizes = [p[0].numel() for p in like.values()]
    parts = row.split(sizes, dim=1)
    return {
        n: part.to(p.dtype).view_as(p) for (n, p), part in zip(like.items(), parts, strict=True)
    }


def log_sign(x: Tensor, p: float = 10.0) -> Tensor:
    """Scales numbers of any magnitude to inputs for a network (Andrychowicz et al. 2016, app. A).

    (log|x| / p, sign x) where |x| >= e^-p, and (-1, e^p x) where it is smaller.

    Args:
        x: Any shape.
        p: Magnitudes below e^-p count as small.

    Returns:
        Shape [*x.shape, 2].
    """
    size = x.abs()
    large = size >= math.exp(-p)
    logarithm = torch.where(large, size.clamp(min=math.exp(-p)).log() / p, -torch.ones_like(x))
    sign = torch.where(large, x.sign(), math.exp(p) * x)
    return torch.stack((logarithm, sign), dim=-1)


class LSTMCell(nn.Module):
    """One LSTM layer, one step; torch's weight layout (gates input, forget, cell, output).

    Args:
        inputs: Number of inputs.
        units: Number of hidden units.
        draw: Gives initial weights of a shape.
    """

    def __init__(self, inputs: int, units: int, draw: Callable[[tuple[int, ...]], Tensor]) -> None:
        super().__init__()
        self.units = units
        self.weight_ih = nn.Parameter(draw((4 * units, inputs)))
        self.weight_hh = nn.Parameter(draw((4 * units, units)))
        self.bias = nn.Parameter(draw((4 * units,)))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Takes one step; x [N, inputs], hidden and cell [N, units]. Returns the new pair."""
        gates = torch.addmm(self.bias, x, self.weight_ih.mT)
        return lstm_step(torch.addmm(gates, hidden, self.weight_hh.mT), cell)


def check_units(units: int) -> int:
    """Returns `units` if a layer can have so many.

    Raises:
        SettingsError: It is below 1.
    """
    if check_int("units", units, ANY_INT) < 1:
        raise SettingsError(f"Expected at least 1 unit in the rule's layers, got {units}.")
    return units


def uniform(
    generator: torch.Generator, low: float, high: float
) -> Callable[[tuple[int, ...]], Tensor]:
    """Returns a function that draws tensors from U[low, high)."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)

    return draw


def in_type_of(network: nn.Module, rule: R) -> R:
    """Returns a rule with weights of the widest type of the network's parameters, for `pack`."""
    kinds = [p.dtype for p in network.parameters() if p.is_floating_point()]
    return rule.to(functools.reduce(torch.promote_types, kinds or [torch.get_default_dtype()]))
