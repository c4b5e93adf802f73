"""The baseline: each task learned alone, from scratch, by the PPO of Stable-Baselines3.

Stable-Baselines3 is imported when a task is learned.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import FRACTION, check_fields
from metarl.rl.control_learner import ControlLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings, changed
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.sim.make import make_vec
from metarl.trees import take_tasks, to_device

GRADIENTS = tuple(
    f.name for f in fields(PolicyGradientSettings) if f.name not in ("trajectories", "discount")
)
"""Settings of gradients that Stable-Baselines3 replaces by its own."""
LAYERS = ("activation", "layer_norm", "cnn")
"""Settings of a policy's layers, which Stable-Baselines3 builds by its own rules."""


@dataclass(frozen=True)
class PPOAlgorithm:
    """Stable-Baselines3's PPO on each test task alone; the defaults are its own."""

    learning_rate: float = 3e-4
    """Rate of Adam, above 0."""
    epochs: int = 10
    """Passes over the rollouts of a step, at least 1."""
    batch_size: int = 64
    """Bound on the samples of a minibatch, at least 2: the largest divisor of a step's samples up
    to it is taken."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""
    clip: float = 0.2
    """The ratio is clipped to 1 +- this, above 0."""
    entropy: float = 0.0
    """Weight of the policy's entropy in the objective."""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            SettingsError: An option is out of its range.
        """
        check_fields(self, gae_lambda=FRACTION)
        if min(self.epochs, self.batch_size - 1) < 1 or min(self.learning_rate, self.clip) <= 0:
            raise SettingsError(
                "Expected at least 1 epoch, a `batch_size` of at least 2, and a `learning_rate` "
                f"and a `clip` above 0, got {self}."
            )

    def build(self, problem: ControlProblem, /) -> PPOLearner:
        """Builds the learner; see `ControlAlgorithm.build`.

        Raises:
            SettingsError: A network of the user's is to replace the policy's layers.
        """
        _check_layers(problem.policy)
        return PPOLearner(
            self, problem.family, problem.gradients,
            problem.hidden, problem.init_std, problem.observe_task, *problem.units(),
        )  # fmt: skip


class PPOLearner(ControlLearner):
    """Learns each task alone, one after the other, by PPO from random parameters.

    An adaptation step is one update of PPO on as many rollouts as other learners use in a step,
    `gradients.trajectories` whole episodes, so that both can be compared by environment steps. The
    return after k steps is that of the rollouts from which update k + 1 would learn; their actions
    are sampled from the policy, as in every evaluation. An environment that exists once plays them
    one after another; where episodes end early, it plays more of them, in as many steps.

    Args:
        settings: See `PPOAlgorithm`.
        family: The family of the tasks.
        gradients: Rollouts per step and discount; others are not used, which is warned of.
        hidden: Widths of the hidden layers of the policy and of the value function.
        init_std: Initial standard deviation of continuous actions, in PPO's units.
        observe_task: Appends the task vector to the observations.
        scale_actions: Whether PPO acts in -1..1, mapped to the bounds of the actions.
        normalize_observations: Whether `VecNormalize` scales observations and rewards.

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
        scale_actions: bool = False,
        normalize_observations: bool = False,
    ) -> None:
        super().__init__()
        self.units = {"scale_actions": scale_actions, "normalize": normalize_observations}
        self.settings = settings
        self.family = family
        self.gradients = gradients
        self.hidden = hidden
        self.init_std = init_std
        self.observe_task = observe_task
        _warn_unused("gradients", changed(gradients, GRADIENTS))
        if self.adaptation_cost < 2:
            raise SettingsError("PPO needs at least 2 samples in a step: raise `trajectories`.")

    @property
    def adaptation_cost(self) -> int:
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

    def measures(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the returns and metrics of each task; learns all before it yields the first."""
        del scales, trajectories
        from metarl.sb3.baseline import learn_task

        seeds = torch.randint(
            2**31, (tasks.num_tasks,), generator=generator, device=generator.device
        )
        # An environment that exists once plays the episodes of a step one after another, and so
        # does a simulator, whose worlds are reset together.
        trajectories = self.gradients.trajectories
        count = trajectories if self.family.worlds is None else 1
        env = make_vec(
            self.family, count, "cpu", autoreset="disabled", observe_task=self.observe_task
        )
        values = to_device(tasks.values, torch.device("cpu"))
        rows = [
            learn_task(
                env,
                take_tasks(values, t, t + 1),
                steps,
                seed,
                episodes=trajectories // count,
                **self.units,
                **self._ppo_settings(),
            )
            for t, seed in enumerate(seeds.tolist())
        ]
        env.close()
        for k in range(steps + 1):
            yield {
                name: torch.stack([row[name][k] for row in rows]).to(generator.device)
                for name in rows[0]
            }

    def _ppo_settings(self) -> dict[str, Any]:
        """Returns the arguments of `stable_baselines3.PPO`."""
        settings, samples, widths = self.settings, self.adaptation_cost, list(self.hidden)
        divisors = (b for b in range(2, settings.batch_size + 1) if samples % b == 0)
        return {
            "learning_rate": settings.learning_rate,
            "batch_size": max(divisors, default=samples),
            "n_epochs": settings.epochs,
            "gamma": self.gradients.discount,
            "gae_lambda": settings.gae_lambda,
            "clip_range": settings.clip,
            "ent_coef": settings.entropy,
            "policy_kwargs": {
                "net_arch": {"pi": widths, "vf": widths},
                "log_std_init": math.log(self.init_std),
            },
        }


def _check_layers(policy: PolicySettings) -> None:
    """Warns of layers that are not used.

    Raises:
        SettingsError: A network of the user's is to replace the policy's layers.
    """
    if policy.network is not None:
        raise SettingsError(
            "PPO of Stable-Baselines3 builds its own layers: leave out --policy.network, got "
            f"{policy.network}."
        )
    _warn_unused("policy", changed(policy, LAYERS))


def _warn_unused(group: str, settings: list[str]) -> None:
    if settings:
        warnings.warn(
            f"PPO of Stable-Baselines3 does not use {', '.join(settings)} of `{group}`: its "
            "options are those of `learner` (--learner.*), and its layers have tanh units.",
            stacklevel=3,
        )
