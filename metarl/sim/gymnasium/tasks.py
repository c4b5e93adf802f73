"""Families of gymnasium environments whose parameters differ between tasks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import gymnasium
import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.registry import did_you_mean
from metarl.sim.card import Card, Fact
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.sim.gymnasium.ranges import Range
from metarl.tasks.base import check_num_tasks


@dataclass(frozen=True)
class GymTasks(GymFamily):
    """Family of a gymnasium environment with parameters that are drawn for each task.

    Each parameter is a task value [T]. If the unwrapped environment has an attribute with the name
    of the parameter, this attribute is set before a reset. Otherwise the parameter is a keyword
    argument for building the environment, and every new task builds a new environment, which is
    slower. The card says which of the two holds for each parameter.

    Setting an attribute does not update what the constructor computed from it. In such a case
    compute the derived value in `reset`, make it a property, or rename the attribute so that the
    environment is rebuilt.

    Example:
        >>> family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15), "m": LogUniform(0.5, 2)})
        >>> check_family(family)

    The attributes of `GymFamily` are further keyword arguments.

    Attributes:
        parameters: Name -> distribution. The first parameter with a continuous distribution has
            disjoint values in the splits.
    """

    parameters: Mapping[str, Range]

    def __post_init__(self) -> None:
        """Checks the parameters in addition to the settings of `GymFamily`.

        Raises:
            SettingsError: There is no parameter, or the environment does not have one of them.
        """
        if not self.parameters:
            raise SettingsError(
                f"Expected parameters of {self.title!r} that tell tasks apart, as "
                '{"g": Uniform(5, 15)}, got none. One that samples tasks itself suits GymTaskPool.'
            )
        for name, values in self.parameters.items():
            if not isinstance(values, Range):
                raise SettingsError(
                    f"Expected the parameter {name!r} to be drawn from a Range such as "
                    f"Uniform(0, 1), got {values!r}."
                )
        super().__post_init__()
        self._check_parameters()

    @property
    def note(self) -> str:
        """The names of the parameters."""
        return ",".join(self.parameters)

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The names of the parameters that are attributes; the others are keyword arguments."""
        unwrapped = self.probe.unwrapped
        return frozenset(name for name in self.parameters if hasattr(unwrapped, name))

    def card(self) -> Card:
        laws = "; ".join(
            f"{name} ~ {values}, {self._kind(name)}" for name, values in self.parameters.items()
        )
        summary = f"{self.title} with other values of {', '.join(self.parameters)}"
        return self._make_card(summary, Fact("tasks", laws), self._split_parameter is not None)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        check_num_tasks(num_tasks)
        shape = (len(self.parameters), 2, num_tasks)
        split = self._split_parameter
        draws = torch.rand(shape, generator=generator, device=generator.device)
        return ControlTasks(
            {
                name: values.draw(draw[0], draw[1], self.part if name == split else None)
                for (name, values), draw in zip(self.parameters.items(), draws, strict=True)
            }
        )

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the parameters, encoded by `Range.encode` and concatenated."""
        return torch.cat([r.encode(tasks[name]) for name, r in self.parameters.items()], 1)

    def apply_task(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Sets attributes, and builds a new environment if there are keyword arguments."""
        values = {name: r.value(task[name].item()) for name, r in self.parameters.items()}
        keywords = {n: v for n, v in values.items() if n not in self.attributes}
        if keywords:
            env = self.build(**keywords)
        for name in self.attributes:
            setattr(env.unwrapped, name, values[name])
        return env

    @property
    def _split_parameter(self) -> str | None:
        """The name of the parameter whose values are disjoint between the splits."""
        return next((name for name, r in self.parameters.items() if r.continuous), None)

    def _kind(self, name: str) -> str:
        return (
            "an attribute"
            if name in self.attributes
            else "a keyword argument: the environment is built again"
        )

    def _check_parameters(self) -> None:
        """Sets a task; raises SettingsError if the environment does not take the parameters."""
        task = self.sample(1, torch.Generator()).values
        try:
            env = self.apply_task(
                self.probe, {name: v[0].cpu().numpy() for name, v in task.items()}
            )
        except (AttributeError, SettingsError) as error:
            names = {n for n in vars(self.probe.unwrapped) if not n.startswith("_")}
            builder = type(self.probe.unwrapped) if isinstance(self.env, str) else self.env
            names |= inspect.signature(builder).parameters.keys()
            hints = "".join(did_you_mean(name, names) for name in self.parameters)
            raise SettingsError(
                f"{self.title!r} does not take the parameters {', '.join(self.parameters)}, as "
                f"attributes or keyword arguments: {error}.{hints} "
                f"It has {', '.join(sorted(names))}."
            ) from error
        if env is not self.probe:
            env.close()
