"""Latency and sensor noise as parameters that differ between tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.registry import check_choice
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.gymnasium.ranges import Range, Ranges, check_numbers
from metarl.sim.spaces import is_image, observation_leaves
from metarl.tasks.base import Split
from metarl.tasks.disjoint_splits import split_uniform

MOST_STEPS = 1000


@dataclass(frozen=True)
class Latency(Range):
    """A number of steps, `low` to `high`, each as probable, by which actions arrive late.

    Attributes:
        low: The fewest steps, at least 0.
        high: The most steps, at most 1000; None: always `low`.
    """

    low: int
    high: int | None = None
    continuous = False

    def __post_init__(self) -> None:
        """Checks the steps; raises SettingsError."""
        most = self.low if self.high is None else self.high
        check_numbers(self, self.low, most)
        whole = all(isinstance(n, Integral) for n in (self.low, most))
        if not whole or not 0 <= self.low <= most <= MOST_STEPS:
            raise SettingsError(
                f"Expected whole steps of latency, 0 <= low <= high <= {MOST_STEPS}, got {self!r}."
            )
        object.__setattr__(self, "low", int(self.low))
        object.__setattr__(self, "high", int(most))

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        """Draws steps, [T] int64; all splits have the same."""
        return self.low + (first * (self._most - self.low + 1)).long()

    def encode(self, values: Tensor) -> Tensor:
        """Scales the steps linearly from [low, high] to [-1, 1], [W, 1]."""
        width = max(1, self._most - self.low)
        return (2 * (values - self.low) / width - 1).float().unsqueeze(1)

    @property
    def _most(self) -> int:
        assert self.high is not None
        return self.high

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        steps = f"{self.low} to {self.high}" if self._most > self.low else f"{self.low}"
        return f"actions late by {steps} steps"


@dataclass(frozen=True)
class SensorNoise(Range):
    """A standard deviation of normal noise on observations, in their units, ~ U(low, high).

    It is added to numbers, not to images and discrete values.

    Attributes:
        low: The smallest deviation, at least 0.
        high: The largest; None: always `low`.
        entries: Which observations have the noise: indices into the flat vector, or names of parts
            of a Dict; several, or one. Empty: all.
    """

    low: float
    high: float | None = None
    entries: Sequence[int | str] | int | str = ()

    def __post_init__(self) -> None:
        """Checks the deviations; raises SettingsError."""
        most = self.low if self.high is None else self.high
        check_numbers(self, self.low, most)
        if not (0 <= self.low <= most and math.isfinite(most)):
            raise SettingsError(f"Expected deviations 0 <= low <= high, got {self!r}.")
        object.__setattr__(self, "high", most)
        object.__setattr__(self, "entries", _entries(self.entries))

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the deviation differs between tasks."""
        return self._most > self.low

    def draw(self, first: Tensor, second: Tensor, part: Split | None) -> Tensor:
        if part is None or not self.continuous:
            return self.low + (self._most - self.low) * first
        return split_uniform(first, second, part, self.low, self._most)

    def encode(self, values: Tensor) -> Tensor:
        """Scales the deviations linearly from [low, high] to [-1, 1], [W, 1]."""
        width = self._most - self.low if self.continuous else 1.0
        return (2 * (values - self.low) / width - 1).unsqueeze(1)

    @property
    def _most(self) -> float:
        assert self.high is not None
        return self.high

    def columns(self, space: spaces.Box) -> Tensor:
        """Returns which entries of flat observations have the noise, [O] bool.

        Raises:
            SettingsError: The observations have no such entry.
        """
        numbers = torch.zeros(space.shape[0], dtype=torch.bool)
        named: dict[str, slice] = {}
        for leaf in observation_leaves(space):
            where = named[leaf.name] = slice(leaf.start, leaf.stop)
            numbers[where] = isinstance(leaf.space, spaces.Box) and not is_image(leaf.space)
        entries = _entries(self.entries)
        chosen = torch.full_like(numbers, not entries)
        for entry in entries:
            if isinstance(entry, str):
                check_choice("part of the observation", entry, [n for n in named if n])
                chosen[named[entry]] = True
            elif not 0 <= entry < len(chosen):
                raise SettingsError(
                    f"Expected entries of the observation from 0 to {len(chosen) - 1}, got {entry}."
                )
            else:
                chosen[entry] = True
        if not bool((chosen & numbers).any()):
            what = f"entries {entries} of the observation" if entries else "observations"
            raise SettingsError(
                f"The {what} are no numbers: noise suits neither images nor discrete values."
            )
        return chosen & numbers

    def __str__(self) -> str:
        """Returns the notation of family cards."""
        where = f" on {', '.join(map(str, _entries(self.entries)))}" if self.entries else ""
        law = f"U({self.low:g}, {self.high:g})" if self.continuous else f"{self.low:g}"
        return f"sensor noise of {law}{where}"


def _entries(entries: Any) -> tuple[int | str, ...]:
    """Returns entries of the observation as a tuple.

    Raises:
        SettingsError: One is neither an index nor a name.
    """
    if isinstance(entries, str | Integral):
        entries = (entries,)
    given = tuple(entries) if isinstance(entries, Iterable) else (entries,)
    for entry in given:
        if not isinstance(entry, str | Integral) or isinstance(entry, bool):
            raise SettingsError(
                "Expected entries of the observation as indices into the flat vector, or names of "
                f"parts of a Dict, as entries=(0, 1), got {short_repr(entries)}."
            )
    return tuple(entry if isinstance(entry, str) else int(entry) for entry in given)


def disturbs(values: Any) -> bool:
    """Whether a parameter is one of this module, which the environment itself does not have."""
    return isinstance(_kind(values), Latency | SensorNoise)


class DisturbedFamily(TaskFamily):
    """A family with latencies and the noise of sensors among its parameters (a mixin).

    Attributes:
        parameters: Name -> what differs between tasks.
    """

    parameters: Mapping[str, Any]

    @property
    def longest_latency(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The most steps by which actions of any task are late."""
        return sum(
            max(r.high or 0 for r in _splits(values) if isinstance(r, Latency))
            for values in self.parameters.values()
            if isinstance(_kind(values), Latency)
        )

    @property
    def noisy_sensors(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a parameter is the noise of sensors."""
        return any(isinstance(_kind(values), SensorNoise) for values in self.parameters.values())

    @property
    def step_noise(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The numbers of the sensors."""
        return self.observation_space.shape[0] if self.noisy_sensors else 0

    def latency(self, tasks: Tasks) -> Tensor:
        """Returns how many steps late actions are, [W] int64: the sum of all latencies."""
        late = super().latency(tasks)
        for name, values in self.parameters.items():
            if isinstance(_kind(values), Latency):
                late = late + tasks[name]
        return late

    def sensor_deviation(self, tasks: Tasks) -> Tensor:
        """Returns the deviation of the noise on each observed number, [W, O] float32.

        Independent noises on the same entry add up: s^2 = s_1^2 + s_2^2.
        """
        power = super().sensor_deviation(tasks)
        for name, values in self.parameters.items():
            noise = _kind(values)
            if isinstance(noise, SensorNoise):
                columns = noise.columns(self.observation_space).to(power.device)
                power = power + (tasks[name].unsqueeze(1) * columns).square()
        return power.sqrt()


def _kind(values: Any) -> Any:
    """Returns the distribution of training tasks."""
    return values.train if isinstance(values, Ranges) else values


def _splits(values: Any) -> tuple[Any, ...]:
    return (values.train, values.test) if isinstance(values, Ranges) else (values,)
