"""Sine regression of Finn et al. 2017, section 5.1 (arXiv:1703.03400)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import check_fields
from metarl.tasks.base import Examples, Split, TaskBatch, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform


@dataclass(frozen=True)
class Sine:
    """Tasks y = A sin(x - phi), A ~ U[0.1, 5], phi ~ U[0, pi], x ~ U[-5, 5].

    The phases of the splits are disjoint; each split covers the range to within 0.001 rad.

    Attributes:
        shots: Support points per task (K).
        queries: Query points per task.
        part: The split that tasks are sampled from.
    """

    shots: int = 10
    queries: int = 10
    part: Split = "train"

    samples_on_device = True
    amplitude = (0.1, 5.0)
    phase = (0.0, math.pi)
    inputs = (-5.0, 5.0)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self)
        if min(self.shots, self.queries) < 1:
            raise SettingsError(
                f"Expected at least 1 shot and 1 query, got {self.shots} and {self.queries}."
            )

    def split(self, name: Split) -> Sine:
        """Returns the distribution over the tasks of one split."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of tasks; inputs and targets are float32 [T, N, 1]."""
        check_sampling(num_tasks, generator)
        draws = torch.rand(
            num_tasks,
            3 + self.shots + self.queries,
            1,
            generator=generator,
            device=generator.device,
        )
        first, cell, inside, rest = draws.split((1, 1, 1, self.shots + self.queries), dim=1)
        amplitude, x = _scaled(first, self.amplitude), _scaled(rest, self.inputs)
        phase = split_uniform(cell, inside, self.part, *self.phase)
        y = self.values(amplitude, phase, x)
        sizes = (self.shots, self.queries)
        support, query = map(Examples, x.split(sizes, dim=1), y.split(sizes, dim=1))
        info = {"amplitude": amplitude.flatten(), "phase": phase.flatten()}
        return TaskBatch(support, query, info)

    @staticmethod
    def values(amplitude: Tensor, phase: Tensor, inputs: Tensor) -> Tensor:
        """Returns y = A sin(x - phi) of broadcastable tensors."""
        return amplitude * torch.sin(inputs - phase)


def _scaled(draws: Tensor, ends: tuple[float, float]) -> Tensor:
    """Maps draws of U[0, 1) to U[low, high) with `ends` (low, high)."""
    return (draws * (ends[1] - ends[0])).add_(ends[0])
