"""Robots whose masses, inertias, friction and damping differ between tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import is_number
from metarl.sim import Card, ControlTasks, Fact, Tasks, WorldState
from metarl.tasks.base import Split, check_sampling
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs.hopper import HOPPER
from metarl_envs.locomotion import Locomotion
from metarl_envs.walker2d import WALKER2D

PAPER = "Rothfuss et al. 2019 (ProMP), arXiv:1810.06784; github.com/dennisl88/rand_param_envs"
# Field of the MuJoCo model -> base b of its factor b^u.
BASES = {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}


@dataclass(frozen=True)
class RandomParameters(Locomotion):
    """Base class of families whose tasks scale every entry of four fields of the model.

    Each factor is 1.5^u, or 1.3^u for damping, with its own u ~ U(-spread, spread). Tasks hold the
    factors, float32: "body_mass" [T, bodies], "body_inertia" [T, bodies, 3], "geom_friction"
    [T, geoms, 3] and "dof_damping" [T, nv].

    Attributes:
        spread: The greatest exponent, in (0, 10].
        horizon: Steps per episode.
        integrator: MuJoCo's integrator; see `MujocoFamily`.
        part: The split that factors are sampled from.
    """

    spread: float = 3.0
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    def __post_init__(self) -> None:
        """Checks the settings."""
        if is_number(self.spread) and not 0 < self.spread <= 10:
            raise SettingsError(f"Expected a spread above 0, at most 10, got {self.spread}.")
        super().__post_init__()

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples the factors; splits have disjoint factors on the torso's mass."""
        check_sampling(num_tasks, generator)
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        tasks = {}
        for field, base in BASES.items():
            shape = self.default(field, torch.empty(0)).shape
            # factor = base^u, u ~ U(-spread, spread)
            exponents = self.spread * (2 * torch.rand(num_tasks, *shape, **options) - 1)
            tasks[field] = base**exponents
        cell, inside = torch.rand(2, num_tasks, **options)
        torso = split_uniform(cell, inside, self.part, -self.spread, self.spread)
        tasks["body_mass"][:, 1] = BASES["body_mass"] ** torso
        return ControlTasks(tasks)

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """Returns the factors times the values of the original model."""
        return {field: self.default(field, factor) * factor for field, factor in tasks.items()}

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """Returns the forward velocity, [W] float64 in m/s."""
        return self.velocity(before, after)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the logarithms of all factors, [W, D]."""
        return torch.cat([tasks[field].log().flatten(1) for field in BASES], 1)

    def card(self) -> Card:
        u = f"u ~ U(-{self.spread:g}, {self.spread:g})"
        tasks = f"{u} for each entry; mass, inertia, friction x 1.5^u, damping x 1.3^u"
        return self._card(
            f"{self.robot.name} runs forwards; it does not observe the parameters of its body",
            Fact("tasks", tasks),
            "v",
            True,
        )


@dataclass(frozen=True)
class Walker2dRandomParameters(RandomParameters):
    """Walkers with random parameters (Rothfuss et al. 2019, ProMP, arXiv:1810.06784)."""

    name = "Walker2dRandomParameters-v1"
    robot = WALKER2D
    alive = 1.0
    control_cost = 1e-3
    paper = PAPER


@dataclass(frozen=True)
class HopperRandomParameters(RandomParameters):
    """Hoppers with random parameters (Rothfuss et al. 2019, ProMP, arXiv:1810.06784)."""

    name = "HopperRandomParameters-v1"
    robot = HOPPER
    alive = 1.0
    control_cost = 1e-3
    paper = PAPER
