"""Acts by a policy with a memory (RL^2, VariBAD) on one robot: acting is adapting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from metarl.deploy.robot.actor import Action, Actor, Belief
from metarl.rl.distributions import Gaussian
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.trial_policy import TrialPolicy


class RecurrentActor(Actor):
    """A policy with a memory in one trial, kept from episode to episode.

    Args:
        policy: The policy.
        size: Size of an observation, O.
        action_size: Size of an action, A; 0 for discrete ones.
        generator: Source of sampled actions.
    """

    def __init__(
        self, policy: TrialPolicy, size: int, action_size: int, generator: torch.Generator
    ) -> None:
        self.row = np.zeros(size, np.float32)
        self._observation = torch.from_numpy(self.row).unsqueeze(0)
        self._policy, self._generator = policy, generator
        self._action_size = action_size
        self._state = policy.begin({"world": torch.zeros(1)})
        self._before, self._asked = self._state, np.full(size, np.nan, np.float32)
        self._action = (
            torch.zeros(1, action_size) if action_size else torch.zeros(1, dtype=torch.int64)
        )
        self._belief: Gaussian | None = None
        self._reward, self._ended, self._begun = (torch.zeros(1) for _ in range(3))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Lets the observation of a copy share memory with its row."""
        vars(self).update(state)
        self._observation = torch.from_numpy(self.row).unsqueeze(0)

    @property
    def belief(self) -> Belief | None:
        if self._belief is None:
            return None
        mean, log_std = self._belief
        return Belief(mean[0].numpy().copy(), log_std[0].exp().numpy())

    @torch.no_grad()
    def act(self, explore: bool) -> tuple[Action, Action]:
        given = AgentInput(
            self._observation, self._action, self._reward, self._ended, self._begun
        )  # fmt: skip
        noise = self._policy.noise((1,), self._generator)
        if not np.array_equal(self.row, self._asked):  # else it is asked again: no other step
            self._before = self._state
            self._asked[:] = self.row
        step = self._policy.act(self._before, given, noise)
        self._state, self._belief = step.state, step.record.belief
        action = step.action if explore else step.record.behaviour.mode()
        if not self._action_size:
            return int(action), int(action)
        units = self._policy.units
        outer = action if units is None else units.act(action)
        return action[0].numpy().copy(), outer[0].numpy().copy()

    def observe(self, action: Action, reward: float, ended: bool) -> None:
        done: Any = torch.as_tensor(action)
        self._action = done.view(1) if not self._action_size else done.float().view(1, -1)
        self._reward = torch.full((1,), float(reward))
        self._ended = torch.full((1,), float(ended))
        self._begun = torch.ones(1)
        self._asked.fill(np.nan)

    def end(self) -> None:
        self._ended = self._begun
        self._asked.fill(np.nan)
