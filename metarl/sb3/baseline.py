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
    episodes: int = 1,
    **settings: Any,
) -> dict[str, Tensor]:
    """Learns one task by PPO; returns its measures after 0, 1, ..., `steps` updates.

    Args:
        worlds: Worlds that do not reset themselves.
        task: The task, [1, *] per name.
        steps: Updates of PPO.
        seed: Seed of the weights, the environment and the minibatches.
        scale_actions: Whether PPO acts in -1..1, mapped to the bounds of the actions.
        normalize: Whether Stable-Baselines3's `VecNormalize` scales observations and rewards.
        episodes: A rollout has as many steps in each world as this number of whole episodes. With
            1, the first episode of each world is measured, otherwise all that end.
        **settings: Arguments of `stable_baselines3.PPO`.

    Returns:
        The mean "return" and the family's metrics, [steps + 1] float32 each. Those after k updates
        are of the rollouts of update k + 1.
    """
    env: VecEnv = SB3VecEnv(worlds, scale_actions=scale_actions)
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    worlds.set_tasks(map_tensors(lambda t: t.repeat_interleave(env.num_envs, 0), task))
    env.seed(seed)
    length = worlds.family.horizon * episodes
    with global_seed(seed):
        model = PPO("MlpPolicy", env, n_steps=length, device="cpu", **settings)
        measures = _Measures(steps, every=episodes > 1)
        # `_Measures` stops the last rollout before its update.
        model.learn((steps + 1) * env.num_envs * length, measures)
    return {name: torch.tensor([m[name] for m in measures.means]) for name in measures.means[0]}


class _Measures(BaseCallback):
    """Resets all worlds before every rollout and stores the mean measures of its episodes.

    Without the reset, episodes that end early would begin in one rollout and end in the next.

    Args:
        steps: Number of updates; learning stops after one more rollout.
        every: Whether all episodes that end in a rollout are measured, or the first of each world.

    Attributes:
        means: Means over the episodes of each rollout: the "return", and the family's metrics.
    """

    def __init__(self, steps: int, every: bool) -> None:
        super().__init__()
        self.means: list[dict[str, float]] = []
        self._steps = steps
        self._every = every

    def _on_rollout_start(self) -> None:
        env = self.training_env
        self.model._last_obs = env.reset()  # pyright: ignore[reportAttributeAccessIssue]
        starts = np.ones(env.num_envs, bool)
        self.model._last_episode_starts = starts  # pyright: ignore[reportAttributeAccessIssue]
        self._alive = starts.copy()
        self._sum = np.zeros(env.num_envs)
        self._ended: list[dict[str, float]] = []
        self._steps_left = self.model.n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def _on_step(self) -> bool:
        env, rewards = self.training_env, self.locals["rewards"]
        if isinstance(env, VecNormalize):
            rewards = env.get_original_reward()
        self._sum += rewards * self._alive
        ended = self.locals["dones"] & self._alive
        for world in ended.nonzero()[0]:
            metrics = self.locals["infos"][world]["metrics"]
            self._ended.append({"return": float(self._sum[world]), **metrics})
        if self._every:
            self._sum[ended] = 0
        else:
            self._alive &= ~ended
        self._steps_left -= 1
        if self._steps_left == 0:
            names = self._ended[0]
            self.means.append({n: float(np.mean([e[n] for e in self._ended])) for n in names})
        return self._steps_left > 0 or len(self.means) <= self._steps
