"""The baseline: each task learned alone by Stable-Baselines3's PPO, from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from metarl.errors import SettingsError
from metarl.rl.control_learner import ControlLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sb3.policies import global_seed
from metarl.sb3.ppo import PPOAlgorithm
from metarl.sb3.vec_env import SB3VecEnv
from metarl.sim.family import ControlTasks, TaskFamily, Tasks
from metarl.sim.make import make_vec
from metarl.trees import map_tensors, take_tasks, to_device


class PPOLearner(ControlLearner):
    """Learns each task alone, one after the other, by PPO from random parameters; no meta-training.

    An adaptation step is one update of PPO on as many rollouts as other learners take in one,
    `gradients.trajectories` episodes from their start, so curves of both stand against the same
    environment steps. The return after k steps is that of the rollouts that update k + 1 would
    learn from; as everywhere, they are drawn from the policy.

    Args:
        settings: See `PPOAlgorithm`.
        family: Where the tasks come from.
        gradients: How many rollouts a step takes, and the discount; nothing else of it.
        hidden: Widths of the hidden layers of the policy and of the value function.
        init_std: Initial standard deviation of continuous actions.
        observe_task: Tells the policy the task, behind the observation.

    Raises:
        SettingsError: A step has a single sample.
    """

    learns_in_evaluation = True

    def __init__(
        self,
        settings: PPOAlgorithm,
        family: TaskFamily,
        gradients: PolicyGradientSettings,
        hidden: tuple[int, ...] = (100, 100),
        init_std: float = 1.0,
        observe_task: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.family = family
        self.gradients = gradients
        self.hidden = hidden
        self.init_std = init_std
        self.observe_task = observe_task
        if self.adaptation_cost < 2:
            raise SettingsError("PPO needs at least 2 samples in a step: raise `trajectories`.")

    @property
    def adaptation_cost(self) -> int:
        """See `ControlLearner.adaptation_cost`."""
        return self.gradients.trajectories * self.family.horizon

    def collect(self, tasks: ControlTasks, generator: torch.Generator, iteration: int) -> NoReturn:
        """Refuses to train.

        Raises:
            SettingsError: Always.
        """
        del tasks, generator, iteration
        raise SettingsError("PPO learns each test task from scratch: set `iterations` to 0.")

    def forward(self, inputs: Any) -> NoReturn:
        """Refuses to train, as `collect`."""
        self.collect(inputs.tasks, torch.Generator(), 0)

    def returns(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[Tensor]:
        """Yields the returns of each task; learns all tasks before it yields the first."""
        del scales, trajectories
        seeds = torch.randint(
            2**31, (tasks.num_tasks,), generator=generator, device=generator.device
        )
        env = make_vec(
            self.family, self.gradients.trajectories, "cpu", autoreset="disabled",
            observe_task=self.observe_task,
        )  # fmt: skip
        values = to_device(tasks.values, torch.device("cpu"))
        rows = [
            self._learn(SB3VecEnv(env), take_tasks(values, t, t + 1), steps, seed)
            for t, seed in enumerate(seeds.tolist())
        ]
        env.close()
        yield from torch.stack(rows, 1).to(generator.device)

    def _learn(self, env: SB3VecEnv, task: Tasks, steps: int, seed: int) -> Tensor:
        """Learns one task; returns the mean return after 0..steps updates, [steps + 1]."""
        env.env.set_tasks(map_tensors(lambda t: t.repeat_interleave(env.num_envs, 0), task))
        env.seed(seed)
        with global_seed(seed):
            model = self._model(env)
            returns = _Returns(steps)
            # The rollouts after the last update are only looked at: `_Returns` ends it there.
            model.learn((steps + 1) * self.adaptation_cost, returns)
        return torch.tensor(returns.means)

    def _model(self, env: SB3VecEnv) -> PPO:
        settings, samples = self.settings, self.adaptation_cost
        widths = list(self.hidden)
        return PPO(
            "MlpPolicy",
            env,
            learning_rate=settings.learning_rate,
            n_steps=self.family.horizon,
            batch_size=max(
                (b for b in range(2, settings.batch_size + 1) if samples % b == 0), default=samples
            ),
            n_epochs=settings.epochs,
            gamma=self.gradients.discount,
            gae_lambda=settings.gae_lambda,
            clip_range=settings.clip,
            ent_coef=settings.entropy,
            policy_kwargs={
                "net_arch": {"pi": widths, "vf": widths},
                "log_std_init": math.log(self.init_std),
            },
            device="cpu",
        )


class _Returns(BaseCallback):
    """Starts all worlds anew for every rollout, and keeps the returns of these episodes.

    Without that, episodes that end early would begin in one rollout and end in the next.

    Args:
        steps: Updates, after which one more rollout is looked at.

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
        self._goes_on = starts.copy()
        self._sum = np.zeros(env.num_envs)
        self._left = self.model.n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def _on_step(self) -> bool:
        self._sum += self.locals["rewards"] * self._goes_on
        self._goes_on &= ~self.locals["dones"]
        self._left -= 1
        if self._left == 0:
            self.means.append(float(self._sum.mean()))
        return self._left > 0 or len(self.means) <= self._steps
