"""Families whose tasks are values of parameters, each drawn from a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.sim.disturbed_parameters import DisturbedFamily, disturbs
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.gymnasium.ranges import Choice, Range
from metarl.tasks.base import Split, check_sampling


class SampledFamily(DisturbedFamily):
    """A family of environments with parameters that are drawn for each task (a mixin).

    Attributes:
        parameters: Name -> distribution. The first one with continuous values has disjoint values
            in the splits. A `Latency` and a `SensorNoise` are those of MetaRL, of which the
            environment knows nothing.
        part: The split that tasks are drawn from.
    """

    parameters: Mapping[str, Range]
    part: Split

    @property
    def own(self) -> dict[str, Range]:
        """The parameters that the environment has: all but latencies and the noise of sensors."""
        return {name: r for name, r in self.parameters.items() if not disturbs(r)}

    @property
    def reset_noise(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One number for the seed, and those of the sensors."""
        return 1 + self.step_noise

    @property
    def world_settings(self) -> dict[str, Any]:
        """Adds the values that a task chooses from, of which it holds the index."""
        choices = {
            f"choices of {name!r}": values.values
            for name, values in self.own.items()
            if isinstance(values, Choice)
        }
        return {**super().world_settings, **choices}

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        check_sampling(num_tasks, generator)
        shape = (len(self.parameters), 2, num_tasks)
        split = self._split_parameter
        draws = torch.rand(shape, generator=generator, device=generator.device)
        return ControlTasks(
            {
                name: values.of(self.part).draw(
                    draw[0], draw[1], self.part if name == split else None
                )
                for (name, values), draw in zip(self.parameters.items(), draws, strict=True)
            }
        )

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the parameters, encoded by `Range.encode` and concatenated."""
        return torch.cat([r.encode(tasks[name]) for name, r in self.parameters.items()], 1)

    @property
    def _split_parameter(self) -> str | None:
        """The name of the parameter whose values are disjoint between the splits."""
        return next((name for name, r in self.parameters.items() if r.continuous), None)


def check_parameters(parameters: Any, title: str, alternative: str) -> None:
    """Checks the parameters of a family.

    Args:
        parameters: What is to be name -> `Range`.
        title: The name of the environment.
        alternative: A sentence about environments without parameters.

    Raises:
        SettingsError: There are none, or one has no name or no range.
    """
    if not isinstance(parameters, Mapping):
        raise SettingsError(
            f'Expected a dict of parameters of {title!r}, as {{"g": Uniform(5, 15)}}, got '
            f"{short_repr(parameters)}."
        )
    if not parameters:
        raise SettingsError(
            f"Expected parameters of {title!r} that tell tasks apart, as "
            f'{{"g": Uniform(5, 15)}}, got none. {alternative}'.rstrip()
        )
    for name, values in parameters.items():
        if not isinstance(name, str) or name.startswith("__"):
            raise SettingsError(
                f"Expected the name of a parameter of {title!r}, got {short_repr(name)}."
            )
        if not isinstance(values, Range):
            raise SettingsError(
                f"Expected the parameter {name!r} to be drawn from a Range such as "
                f"Uniform(0, 1), got {values!r}."
            )
