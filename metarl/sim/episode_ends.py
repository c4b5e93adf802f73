"""Counts the steps of the episodes of W worlds and records how they ended."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from metarl.sim.episode import Episode
from metarl.sim.family import TaskFamily, Tasks, WorldState
from metarl.sim.results import world_values


class EpisodeEnds:
    """The step counts and ends of the episodes of W worlds, [W] each; never waits for the device.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        device: The device of the tensors.

    Attributes:
        elapsed: Number of steps of each episode, int64.
        terminated: Whether it has reached a terminal state, bool.
        truncated: Whether the family has cut it off before the horizon, bool.
    """

    def __init__(self, family: TaskFamily, num_envs: int, device: torch.device) -> None:
        self._horizon = family.horizon
        self._terminates, self._truncates = family.may_terminate, family.may_truncate
        self._most_steps = 0  # an upper bound of `elapsed` on the host
        self.elapsed = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.terminated = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.truncated = torch.zeros_like(self.terminated)

    def begin(self, mask: Tensor | None) -> None:
        """Starts new episodes in the worlds of the mask, [W] bool; None for all."""
        if mask is None:
            self._most_steps = 0
            self.elapsed = torch.zeros_like(self.elapsed)
            self.terminated = torch.zeros_like(self.terminated)
            self.truncated = self.terminated
        else:
            self.elapsed = self.elapsed.masked_fill(mask, 0)
            self.terminated = self.terminated & ~mask
            if self._truncates:
                self.truncated = self.truncated & ~mask

    def frozen(self) -> Tensor | None:
        """Returns the worlds whose episode has ended, [W] bool; None if there can be none."""
        ends = [self.terminated] if self._terminates else []
        if self._truncates:
            ends.append(self.truncated)
        if self._most_steps >= self._horizon:
            ends.append(self.elapsed >= self._horizon)
        return reduce(torch.logical_or, ends) if ends else None

    def add_step(
        self, family: TaskFamily, after: WorldState, tasks: Tasks, frozen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Counts one step of all worlds.

        Args:
            family: The family of the worlds.
            after: The state after the step.
            tasks: The task of each world.
            frozen: What `frozen` returned before the step; None if no world stays as it ended.

        Returns:
            Whether each world has terminated, and whether it has been truncated, [W] bool.
        """
        worlds = len(self.elapsed)
        terminated = world_values("terminated", family.terminated(after, tasks), worlds, True)
        if frozen is not None:
            fresh = terminated if frozen is self.terminated else terminated & ~frozen
            terminated = self.terminated | fresh
            self.terminated = terminated
        self.elapsed = self.elapsed + 1
        self._most_steps += 1
        truncated = self.elapsed >= self._horizon
        if self._truncates:
            cut = world_values("truncated", family.truncated(after, tasks), worlds, True)
            self.truncated = cut if frozen is None else self.truncated | (cut & ~frozen)
            truncated = truncated | self.truncated
        return terminated, truncated

    def add_episode(self, episode: Episode) -> None:
        """Records one whole episode in each world."""
        steps = episode.rewards.shape[1]
        self.elapsed, self._most_steps = self.elapsed + steps, steps
        self.terminated = episode.terminated[:, -1]
        if episode.truncated is not None:
            self.truncated = episode.truncated[:, -1]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all values."""
        return {"elapsed": self.elapsed, "over": self.terminated, "cut": self.truncated}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; synchronises with the device."""
        device = self.elapsed.device
        self.elapsed = values["elapsed"].to(device, copy=True)
        self._most_steps = int(self.elapsed.max())
        self.terminated = values["over"].to(device, copy=True)
        cut = values.get("cut", torch.zeros_like(self.terminated))  # not in states of MetaRL 0.1
        self.truncated = cut.to(device, copy=True)
