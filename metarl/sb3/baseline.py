"""Learning one task from scratch by the PPO of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from metarl.sb3.vec_env import SB3VecEnv
from metarl.sim.family import Tasks
from metarl.sim.global_seed import global_seed
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import map_tensors


def learn_task(
    worlds: TensorVectorEnv,
    task: Tasks,
    steps: int,
    seed: int,
    *,
    scale_actions: bool = False,
    normalize: bool = False,
    **settings: Any,
) -> Tensor:
    """Learns one task by PPO; returns the mean return after 0, 1, ..., `steps` updates.

    Args:
        worlds: Worlds that do not reset themselves; a rollout is one episode in each.
        task: The task, [1, *] per name.
        steps: Updates of PPO.
        seed: Seed of the weights, the environment and the minibatches.
        scale_actions: Whether PPO acts in -1..1, mapped to the bounds of the actions.
        normalize: Whether Stable-Baselines3's `VecNormalize` scales observations and rewards.
        **settings: Arguments of `stable_baselines3.PPO`.

    Returns:
        Shape [steps + 1], float32. The return after k updates is that of the rollouts of update
        k + 1.
    """
    env: VecEnv = SB3VecEnv(worlds, scale_actions=scale_actions)
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    worlds.set_tasks(map_tensors(lambda t: t.repeat_interleave(env.num_envs, 0), task))
    env.seed(seed)
    horizon = worlds.family.horizon
    with global_seed(seed):
        model = PPO("MlpPolicy", env, n_steps=horizon, device="cpu", **settings)
        returns = _Returns(steps)
        # `_Returns` stops the last rollout before its update.
        model.learn((steps + 1) * env.num_envs * horizon, returns)
    return torch.tensor(returns.means)


class _Returns(BaseCallback):
    """Resets all worlds before every rollout and stores the mean return of its episodes.

    Without the reset, episodes that end early would begin in one rollout and end in the next.

    Args:
        steps: Number of updates; learning stops after one more rollout.

    Attributes:
        means: Mean return of the episodes of each rollout.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.means: list[float] = []
        self._steps = steps

    def _on_rollout_start(self) -> None:
        env = self.training_env
        self.model._last_obs = env.reset()  # pyright: ignore[reportAttributeAccessIssue]
        starts = np.ones(env.num_envs, bool)
        self.model._last_episode_starts = starts  # pyright: ignore[reportAttributeAccessIssue]
        self._alive = starts.copy()
        self._sum = np.zeros(env.num_envs)
        self._steps_left = self.model.n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def _on_step(self) -> bool:
        env, rewards = self.training_env, self.locals["rewards"]
        if isinstance(env, VecNormalize):
            rewards = env.get_original_reward()
        self._sum += rewards * self._alive
        self._alive &= ~self.locals["dones"]
        self._steps_left -= 1
        if self._steps_left == 0:
            self.means.append(float(self._sum.mean()))
        return self._steps_left > 0 or len(self.means) <= self._steps
