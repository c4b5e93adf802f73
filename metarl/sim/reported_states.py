"""Families whose environments compute the dynamics, rewards and ends themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.sim.family import TaskFamily, Tasks, WorldState

REPORTED = ("observation", "reward", "terminated", "truncated")
"""What every state holds; with metrics, "metrics" too."""


class ReportedFamily(TaskFamily):
    """A family whose states are what environments returned last.

    A `WorldState` holds "observation" [W, O] float32, flattened by `gymnasium.spaces.flatten`;
    "reward" [W] float32; "terminated" and "truncated" [W] bool; and, of a family with M metrics,
    "metrics" [W, M] float32, NaN where a step reported none.
    """

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        return state["observation"].clone()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """Returns the reward of the environment."""
        return after["reward"]

    def measure(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> dict[str, Tensor]:
        """Returns the numbers of `info` that `metrics` names."""
        if not self.metrics:
            return {}
        return dict(zip(self.metrics, after["metrics"].unbind(1), strict=True))

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns whether the environment has terminated the episode."""
        return state["terminated"]

    def truncated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns whether the environment has truncated the episode."""
        return state["truncated"]

    def first_state(self, observation: Tensor) -> WorldState:
        """Returns the state after a reset, for the observations [W, O] float32."""
        zero = observation.new_zeros(len(observation))
        ends = {"terminated": zero.bool(), "truncated": zero.bool()}
        state = {"observation": observation, "reward": zero, **ends}
        if self.metrics:
            state["metrics"] = zero.new_full((len(zero), len(self.metrics)), torch.nan)
        return state
