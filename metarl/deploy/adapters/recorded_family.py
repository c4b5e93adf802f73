"""The tasks that a run was trained on, as far as its description holds them: without worlds."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.card import Card
from metarl.sim.family import ActionSpace, ControlTasks, TaskFamily, Tasks, WorldState
from metarl.tasks.base import Split


class RecordedFamily(TaskFamily):
    """Name, spaces, horizon and rate of a family whose code is not needed to adapt.

    Args:
        name: Name of the family.
        horizon: Steps of an episode.
        observation: Observation space of one world.
        action: Action space of one world.
        seconds: Time of a step in seconds; None if the family does not define it.
        published_units: See `TaskFamily`.
    """

    engine = "recorded"

    def __init__(
        self,
        name: str,
        horizon: int,
        observation: spaces.Box,
        action: ActionSpace,
        seconds: float | None = None,
        published_units: bool = False,
    ) -> None:
        self.name = name
        self.horizon = horizon
        self.published_units = published_units
        self._observation, self._action, self._seconds = observation, action, seconds

    @property
    def observation_space(self) -> spaces.Box:
        return self._observation

    @property
    def action_space(self) -> ActionSpace:
        return self._action

    @property
    def step_seconds(self) -> float | None:
        return self._seconds

    def card(self) -> Card:
        return self._refuse()

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        return self._refuse()

    def split(self, name: Split) -> TaskFamily:
        return self._refuse()

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        return self._refuse()

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        return self._refuse()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        return self._refuse()

    def task_vector(self, tasks: Tasks) -> Tensor:
        return self._refuse()

    def _refuse(self) -> Any:
        self._raise()

    def _raise(self) -> NoReturn:
        raise SettingsError(
            f"The run describes the spaces of {self.name}, not its worlds: an adapter acts in an "
            "environment of yours. `metarl evaluate RUN` opens the family itself."
        )
