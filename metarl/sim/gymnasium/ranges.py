"""Distributions of the parameters that differ between tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, TaskError, short_repr
from metarl.ranges import LARGEST_NUMBER
from metarl.tasks.base import SPLITS, Split
from metarl.tasks.disjoint_splits import split_uniform

LEAST_WIDTH = 1e-2  # relative; the cells of the splits must be wide compared to float32 rounding


class Range(ABC):
    """Interface of the distribution of one parameter.

    Attributes:
        continuous: Whether there are so many values that the splits can be disjoint.
    """

    continuous: bool

    @abstractmethod
    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Computes T values from two uniform numbers each.

        Args:
            first: Uniform numbers in [0, 1), [T] float32.
            second: Further uniform numbers in [0, 1), [T] float32.
            part: The split whose values are drawn; None draws from the whole range.

        Returns:
            The values, [T].
        """

    def of(self, part: Split) -> Range:
        """Returns the distribution of a split; by default all splits have the same."""
        return self

    def value(self, number: float) -> Any:
        """Converts a drawn value to the value that the environment gets; by default the same."""
        return number

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Encodes values [W] for an oracle policy: numbers in [-1, 1], [W, D] float32."""


@dataclass(frozen=True)
class Uniform(Range):
    """Uniform distribution U(low, high).

    Attributes:
        low: The lower bound.
        high: The upper bound.
    """

    low: float
    high: float
    continuous = True

    def __post_init__(self) -> None:
        """Checks the bounds; raises SettingsError."""
        _check_bounds(self, self.low, self.high)

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        return _between(self.low, self.high, first, second, part)

    def encode(self, values: Tensor) -> Tensor:
        """Scales the values linearly from [low, high] to [-1, 1], [W, 1]."""
        return _scale(values, self.low, self.high)

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        return f"U({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class LogUniform(Range):
    """Log-uniform distribution, exp(U(log low, log high)).

    Attributes:
        low: The lower bound, above 0.
        high: The upper bound.
    """

    low: float
    high: float
    continuous = True

    def __post_init__(self) -> None:
        """Checks the bounds; raises SettingsError."""
        check_numbers(self, self.low, self.high)
        if not self.low > 0:
            raise SettingsError(f"Expected bounds above 0 of {self}.")
        _check_bounds(self, self.low, self.high)

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        low, high = math.log(self.low), math.log(self.high)
        return _between(low, high, first, second, part).exp()

    def encode(self, values: Tensor) -> Tensor:
        """Scales the logarithms linearly from [log low, log high] to [-1, 1], [W, 1]."""
        return _scale(values.log(), math.log(self.low), math.log(self.high))

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        return f"exp U(log {self.low:g}, log {self.high:g})"


@dataclass(frozen=True)
class Integers(Range):
    """Whole numbers of `low` to `high`, such as seeds; each split has every third one.

    All numbers of a split are equally likely.

    Attributes:
        low: The smallest number.
        high: The largest number, below 2^24, at least 1000 above `low`.
    """

    low: int
    high: int
    continuous = True

    def __post_init__(self) -> None:
        """Checks the bounds; raises SettingsError."""
        check_numbers(self, self.low, self.high)
        whole = all(isinstance(n, Integral) for n in (self.low, self.high))
        if not whole or self.high - self.low < 1000 or max(abs(self.low), abs(self.high)) >= 2**24:
            raise SettingsError(
                "Expected whole numbers between -2^24 and 2^24, the upper one at least 1000 above "
                f"the lower one, got {self!r}; `Choice` is for a few values."
            )
        for name in ("low", "high"):  # numbers of NumPy become those of Python
            object.__setattr__(self, name, int(getattr(self, name)))

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Draws numbers, [T] int64."""
        count = self.high - self.low + 1
        if part is None:
            return self.low + (first.double() * count).long()
        # low + 3 k + index of the split
        return self.low + 3 * (first.double() * (count // 3)).long() + SPLITS.index(part)

    def value(self, number: float) -> int:
        return int(number)

    def encode(self, values: Tensor) -> Tensor:
        """Scales the numbers linearly from [low, high] to [-1, 1], [W, 1]."""
        return _scale(values.double(), self.low, self.high)

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        return f"a whole number of {self.low} to {self.high}"


class Choice(Range):
    """Uniform distribution over a few values of any type; a task holds the index, int64.

    Args:
        *values: The values, at least 2.

    Raises:
        SettingsError: There are fewer than 2 values.
    """

    continuous = False

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise SettingsError(
                "Expected at least 2 values to choose from, as Choice(1, 2, 5), got "
                f"{', '.join(map(short_repr, values)) or 'none'}."
            )
        self.values = values

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Draws indices, [T] int64; all splits have the same values."""
        return (first * len(self.values)).long()

    def of(self, part: Split) -> Range:
        """Returns the distribution of a split; by default all splits have the same."""
        return self

    def value(self, number: float) -> Any:
        """Returns the value at an index."""
        return self.values[int(number)]

    def encode(self, values: Tensor) -> Tensor:
        """Encodes the indices as one-hot vectors, [W, D] for D values.

        Raises:
            TaskError: A number is not an index.
        """
        wrong = (values < 0) | (values >= len(self.values))
        if values.is_floating_point() or wrong.any():
            raise TaskError(
                f"Expected whole numbers from 0 to {len(self.values) - 1}, the places of values in "
                f"{self}, got {values.tolist()[:6]}."
            )
        return torch.nn.functional.one_hot(values, len(self.values)).float()

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True)
class Ranges(Range):
    """Two distributions: one of training and validation tasks, one of test tasks.

    Attributes:
        train: The distribution of training and validation tasks.
        test: The distribution of test tasks, of the same kind; not `Choice`.
    """

    train: Range
    test: Range

    def __post_init__(self) -> None:
        """Checks the kinds; raises SettingsError."""
        if not isinstance(self.train, Range) or self._kind(self.train) != self._kind(self.test):
            raise SettingsError(
                "Expected two ranges of the same kind of numbers, as Ranges(Uniform(0.5, 1.5), "
                f"test=Uniform(1.5, 2)), got {self.train!r} and {self.test!r}."
            )

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the values are continuous."""
        return self.train.continuous

    @staticmethod
    def _kind(values: Any) -> Any:
        """Returns what both distributions must have in common: all but their bounds."""
        if not hasattr(values, "low") or isinstance(values, Ranges):
            return object()  # as no other
        return type(values), {n: v for n, v in vars(values).items() if n not in ("low", "high")}

    @property
    def apart(self) -> bool:
        """Whether no training task has a value of a test task."""
        train, test = vars(self.train), vars(self.test)
        if not self.continuous:  # both bounds are drawn
            return test["low"] > train["high"] or test["high"] < train["low"]
        return test["low"] >= train["high"] or test["high"] <= train["low"]

    def of(self, part: Split) -> Range:
        return self.test if part == "test" else self.train

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Draws values of a split; without one, those of training tasks."""
        return self.of(part or "train").draw(first, second, part)

    def value(self, number: float) -> Any:
        return self.train.value(number)

    def encode(self, values: Tensor) -> Tensor:
        """Encodes values as those of training; test tasks may leave [-1, 1]."""
        return self.train.encode(values)

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        return f"{self.train} in training, {self.test} in tests"


def splits_are_disjoint(ranges: Iterable[Range]) -> bool:
    """Whether no task is in two splits, if the first range of many values is cut among them.

    Args:
        ranges: The distributions of the parameters, in their order.
    """
    ranges = list(ranges)
    first = next((r for r in ranges if r.continuous), None)
    apart = any(r.apart for r in ranges if isinstance(r, Ranges))
    return first is not None and (apart or not isinstance(first, Ranges))


def _between(low: float, high: float, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
    """Returns uniform numbers in [low, high), of one split or of the whole range."""
    if part is None:
        return low + (high - low) * first
    return split_uniform(first, second, part, low, high)


def _scale(values: Tensor, low: float, high: float) -> Tensor:
    # x -> 2 (x - low) / (high - low) - 1, from [low, high] to [-1, 1]
    return (2 * (values - low) / (high - low) - 1).float().unsqueeze(1)


def check_numbers(values: Range, *bounds: Any) -> None:
    """Raises SettingsError unless all bounds of a distribution are numbers."""
    for bound in bounds:
        if not isinstance(bound, Real) or isinstance(bound, bool | np.bool_):
            raise SettingsError(
                f"Expected numbers as the bounds of {type(values).__name__}, got "
                f"{short_repr(bound)}. An array whose numbers vary needs a parameter for each of "
                "them; Choice draws among whole values of any kind."
            )


def _check_bounds(values: Range, low: float, high: float) -> None:
    check_numbers(values, low, high)
    is_wide = high - low > LEAST_WIDTH * max(abs(low), abs(high))
    is_small = max(abs(low), abs(high)) <= LARGEST_NUMBER  # not so of NaN and infinity
    if not (is_small and is_wide):
        raise SettingsError(
            f"Expected finite bounds of at most {LARGEST_NUMBER:.0e}, the upper one above the "
            f"lower one by {LEAST_WIDTH:.0%} or more, got {values}."
        )
