"""What a number that tells tasks apart is drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.tasks.base import Split
from metarl.tasks.disjoint_splits import split_uniform

LEAST_WIDTH = 1e-2  # relative: cells of the splits must be wide beside float32's rounding


class Range(ABC):
    """Interface of what the value of a parameter is drawn from.

    Attributes:
        continuous: Whether splits can have values of their own.
    """

    continuous: bool

    @abstractmethod
    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Returns values [T] for two uniform draws in [0, 1) for each, [T].

        Args:
            first: The first draws.
            second: The second ones.
            part: The split that values must be one of's own; None: they need not be.
        """

    def value(self, number: float) -> Any:
        """Returns what an environment is given for a value that was drawn: the number itself."""
        return number

    @abstractmethod
    def told(self, values: Tensor) -> Tensor:
        """Returns what an oracle is told of values [W]: numbers in [-1, 1], [W, D] float32."""


@dataclass(frozen=True)
class Uniform(Range):
    """Numbers between two bounds, all as likely.

    Attributes:
        low: The lower bound.
        high: The upper one.
    """

    low: float
    high: float
    continuous = True

    def __post_init__(self) -> None:
        """Checks the bounds."""
        _check_bounds(self, self.low, self.high)

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """See `Range.draw`."""
        return _between(self.low, self.high, first, second, part)

    def told(self, values: Tensor) -> Tensor:
        """See `Range.told`: where in the range it is."""
        return _place(values, self.low, self.high)

    def __str__(self) -> str:
        """Returns it as cards have it."""
        return f"U({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class LogUniform(Range):
    """Numbers above 0 between two bounds, whose logarithms are all as likely.

    Attributes:
        low: The lower bound, above 0.
        high: The upper one.
    """

    low: float
    high: float
    continuous = True

    def __post_init__(self) -> None:
        """Checks the bounds."""
        if not self.low > 0:
            raise SettingsError(f"Expected bounds above 0 of {self}.")
        _check_bounds(self, self.low, self.high)

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """See `Range.draw`."""
        low, high = math.log(self.low), math.log(self.high)
        return _between(low, high, first, second, part).exp()

    def told(self, values: Tensor) -> Tensor:
        """See `Range.told`: where in the range its logarithm is."""
        return _place(values.log(), math.log(self.low), math.log(self.high))

    def __str__(self) -> str:
        """Returns it as cards have it."""
        return f"exp U(log {self.low:g}, log {self.high:g})"


class Choice(Range):
    """One of a few values of any kind, all as likely; a task holds its number, int64.

    Args:
        *values: The values, at least 2.
    """

    continuous = False

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise SettingsError(f"Expected at least 2 values to choose from, got {len(values)}.")
        self.values = values

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """See `Range.draw`; all splits have the same values."""
        return (first * len(self.values)).long()

    def value(self, number: float) -> Any:
        """See `Range.value`: the value of that number."""
        return self.values[int(number)]

    def told(self, values: Tensor) -> Tensor:
        """See `Range.told`: 1 at its number, 0 elsewhere."""
        return torch.nn.functional.one_hot(values, len(self.values)).float()

    def __str__(self) -> str:
        """Returns it as cards have it."""
        return f"one of {', '.join(map(repr, self.values))}"


def _between(low: float, high: float, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
    if part is None:
        return low + (high - low) * first
    return split_uniform(first, second, part, low, high)


def _place(values: Tensor, low: float, high: float) -> Tensor:
    return (2 * (values - low) / (high - low) - 1).unsqueeze(1)


def _check_bounds(values: Range, low: float, high: float) -> None:
    wide = high - low > LEAST_WIDTH * max(abs(low), abs(high))
    if not (math.isfinite(low) and math.isfinite(high) and wide):
        raise SettingsError(
            f"Expected finite bounds, the upper one above the lower one by {LEAST_WIDTH:.0%} or "
            f"more, got {values}."
        )
