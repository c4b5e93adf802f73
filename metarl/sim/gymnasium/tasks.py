"""Tasks of any gymnasium environment: numbers of it that are drawn anew for each."""

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
    """An environment some of whose parameters differ between tasks; each is a task value [T].

    A parameter is an attribute of the environment below all wrappers, and is then set there before
    a reset; else it is a keyword argument that the environment is built with, and for another task
    it is built anew, which takes longer. What a constructor derives from an attribute does not
    change with it: derive it in `reset`, make it a property, or rename the attribute to have the
    environment built anew. The card says which parameter is which.

    Example:
        >>> family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15), "m": LogUniform(0.5, 2)})
        >>> check_family(family)

    The settings of `GymFamily` follow by name.

    Attributes:
        parameters: Name -> what its values are drawn from. The first one whose values are
            continuous has other values in each split.
    """

    parameters: Mapping[str, Range]

    def __post_init__(self) -> None:
        """Checks the parameters too; see `GymFamily`.

        Raises:
            SettingsError: There is no parameter, or the environment does not take one.
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
        """See `GymFamily.note`: the parameters."""
        return ",".join(self.parameters)

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The parameters that are attributes; the others are keyword arguments."""
        unwrapped = self.probe.unwrapped
        return frozenset(name for name in self.parameters if hasattr(unwrapped, name))

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        drawn = "; ".join(
            f"{name} ~ {values}, {self._kind(name)}" for name, values in self.parameters.items()
        )
        summary = f"{self.title} with other values of {', '.join(self.parameters)}"
        return self._card(summary, Fact("tasks", drawn), self._apart is not None)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`."""
        check_num_tasks(num_tasks)
        shape = (len(self.parameters), 2, num_tasks)
        draws = torch.rand(shape, generator=generator, device=generator.device)
        return ControlTasks(
            {
                name: values.draw(draw[0], draw[1], self.part if name == self._apart else None)
                for (name, values), draw in zip(self.parameters.items(), draws, strict=True)
            }
        )

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: where in their ranges the parameters are."""
        return torch.cat([r.told(tasks[name]) for name, r in self.parameters.items()], 1)

    def given(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """See `GymFamily.given`."""
        values = {name: r.value(task[name].item()) for name, r in self.parameters.items()}
        keywords = {n: v for n, v in values.items() if n not in self.attributes}
        if keywords:
            env = self.build(**keywords)
        for name in self.attributes:
            setattr(env.unwrapped, name, values[name])
        return env

    @property
    def _apart(self) -> str | None:
        """The parameter that has other values in each split."""
        return next((name for name, r in self.parameters.items() if r.continuous), None)

    def _kind(self, name: str) -> str:
        return "an attribute" if name in self.attributes else "a keyword argument: built anew"

    def _check_parameters(self) -> None:
        task = self.sample(1, torch.Generator()).values
        try:
            env = self.given(self.probe, {name: v[0].cpu().numpy() for name, v in task.items()})
        except (AttributeError, SettingsError) as error:
            names = {n for n in vars(self.probe.unwrapped) if not n.startswith("_")}
            builder = type(self.probe.unwrapped) if isinstance(self.env, str) else self.env
            names |= inspect.signature(builder).parameters.keys()
            near = "".join(did_you_mean(name, names) for name in self.parameters)
            raise SettingsError(
                f"{self.title!r} does not take the parameters {', '.join(self.parameters)}, as "
                f"attributes or keyword arguments: {error}.{near} "
                f"It has {', '.join(sorted(names))}."
            ) from error
        if env is not self.probe:
            env.close()
