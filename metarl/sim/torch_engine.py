"""The torch engine: worlds whose dynamics are tensor functions, on CPU or GPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.episode import Act, Episode, afterwards
from metarl.sim.family import TorchFamily, WorldState
from metarl.sim.vector_env import TensorVectorEnv


class TorchVectorEnv(TensorVectorEnv):
    """W worlds of a `TorchFamily`; see `TensorVectorEnv`.

    Args:
        family: What the worlds are.
        num_envs: The number of worlds, W.
        **settings: As of `TensorVectorEnv`.
    """

    family: TorchFamily

    def __init__(self, family: TorchFamily, num_envs: int, **settings: Any) -> None:
        if not isinstance(family, TorchFamily):
            raise SettingsError(
                f"Expected a TorchFamily, got {type(family).__name__}: the torch engine needs "
                "dynamics as a tensor function, `step`."
            )
        super().__init__(family, num_envs, **settings)

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """See `TensorVectorEnv.start`."""
        fresh = self.family.reset(self._tasks, noise)
        return fresh if mask is None else self.merged(mask, fresh)

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """See `TensorVectorEnv.advance`."""
        return self.family.step(self._state, actions, self._tasks, noise)

    def episode(self, act: Act) -> Episode:
        """See `TensorVectorEnv.episode`.

        Step by step goes only what the next action needs; rewards and ends are judged afterwards,
        in a few operations for all steps. An observer wants to see each step.
        """
        if self.observer is not None:
            return super().episode(act)
        observation, _ = self.reset()
        states, observations, actions = [self._state], [observation], []
        prepared = None if self._noise is None else self._noise.step.unbind(1)
        for step in range(self.family.horizon):
            action, chosen = self._chosen(act(observation))
            noise = self._step_noise() if prepared is None else prepared[step]
            self._state = self.advance(chosen, noise)
            observation = self._look()
            states.append(self._state)
            observations.append(observation)
            actions.append(action)
        episode = afterwards(self.family, self._tasks, states, observations, actions)
        self._elapsed = self._elapsed + self.family.horizon
        self._over, self._seen = episode.terminated[:, -1], episode.observations[:, -1]
        self._watch.played(self._tasks, episode)
        return episode
