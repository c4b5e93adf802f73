"""RL^2: a recurrent policy that learns, over many trials, how to learn within one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarl.adaptation.learner import MetaLoss
from metarl.errors import SettingsError
from metarl.rl.experience import normalized
from metarl.rl.problem import ControlProblem
from metarl.rl.returns import discounted_returns, gae, sums_to_end
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import proximal
from metarl.rl.trials.play import Trials
from metarl.rl.trials.recurrent_policy import RecurrentPolicy, Remembered
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sim.family import ControlTasks, TaskFamily

UNUSED = ("bootstrap", "surrogate", "dice_lambda", "inner_kl", "exploration")


@dataclass(frozen=True)
class RL2Algorithm:
    """RL^2 (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763)."""

    meta_trains: ClassVar[bool] = True

    episodes: int = 1
    """Episodes of a training trial, at least 1; an evaluation of K steps plays K + 1."""
    units: int = 64
    """Width of the recurrent state."""
    embedding: int = 0
    """Width of a layer of rectified units before it; 0 leaves that out, as the paper does."""
    value_weight: float = 0.5
    """Weight of the value function's error in the loss, above 0."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy in the loss, at least 0."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        if min(self.episodes, self.units) < 1 or self.embedding < 0:
            raise SettingsError(
                "Expected at least 1 episode, 1 unit and an embedding of at least 0, got "
                f"episodes={self.episodes}, units={self.units} and embedding={self.embedding}."
            )
        if not self.value_weight > 0 or not self.entropy_weight >= 0:
            raise SettingsError(
                "Expected a `value_weight` above 0 and an `entropy_weight` of at least 0, got "
                f"{self.value_weight} and {self.entropy_weight}."
            )

    def build(self, problem: ControlProblem, /) -> RecurrentLearner:
        """Builds the recurrent policy and its learner; see `Algorithm.build`."""
        policy = RecurrentPolicy(
            *problem.spaces(), problem.generator,
            self.units, self.embedding, problem.hidden, problem.init_std,
        )  # fmt: skip
        return RecurrentLearner(
            policy, problem.family, self, problem.gradients,
            task_chunk_size=problem.task_chunk_size, observe_task=problem.observe_task,
        )  # fmt: skip


@dataclass(frozen=True)
class RecurrentInputs:
    """All that one meta-iteration computes on; every tensor has the tasks leading.

    Attributes:
        tasks: The tasks.
        trials: What was played; its record is `Remembered`.
        log_probs: Log-probability of each action under the policy that took it, [T, N, L].
        advantages: Advantage of each action, [T, N, L]; 0 beyond the end of a trial.
        targets: The discounted return from each step on, per step to come, [T, N, L].
        weights: Weight of each step in a mean over all steps of a task, [T, N, L]; sums to 1.
        units: Mean and spread of all targets together, [T, 2]: the same for every task.
    """

    tasks: ControlTasks
    trials: Trials
    log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    weights: Tensor
    units: Tensor


class RecurrentLearner(TrialLearner):
    """Trains a recurrent policy by PPO over whole trials (Duan et al. 2016; Wang et al. 2016).

    The return that it maximises is that of the trial: rewards are discounted and advantages
    estimated across the ends of episodes, so exploring early pays where it helps later. `collect`
    plays; `forward` runs the network over the stored sequences again, so several optimiser steps
    (`ProximalUpdate`) use one set of trials, with derivatives through all of each.

    A linear function of the policy's own state tells what a step to come is worth on average; a
    state's value is that times the steps that are left. It is learned in units of the last batch's
    targets, which `value_mean` and `value_std` keep: rewards of any size do.

    Args:
        policy: The policy, for the observations that the family shows.
        family: Where the tasks come from.
        settings: See `RL2Algorithm`.
        gradients: Trials per task (`trajectories`), discount, GAE's lambda and PPO's clip; with
            `normalize_advantages` those of all tasks together have mean 0 and deviation 1.
        task_chunk_size: Tasks whose trials are played at once. None: all.
        observe_task: Tells the policy the task (the oracle).

    Raises:
        SettingsError: A setting of the gradients is asked for that would change nothing.
    """

    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self,
        policy: RecurrentPolicy,
        family: TaskFamily,
        settings: RL2Algorithm | None = None,
        gradients: PolicyGradientSettings | None = None,
        *,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        gradients = gradients or PolicyGradientSettings(trajectories=1, clip=0.2)
        _refuse_unused(gradients)
        super().__init__(family, gradients.trajectories, task_chunk_size, observe_task)
        self.policy = policy
        self.settings = settings or RL2Algorithm()
        self.gradients = gradients
        weight = policy.value.weight
        self.register_buffer("value_mean", weight.new_zeros(()))
        self.register_buffer("value_std", weight.new_ones(()))

    @property
    def agent(self) -> RecurrentPolicy:
        """See `TrialLearner.agent`."""
        return self.policy

    @torch.no_grad()
    def collect(
        self, tasks: ControlTasks, generator: torch.Generator, iteration: int
    ) -> RecurrentInputs:
        """See `Learner.collect`: plays trials and estimates advantages with the values then."""
        del iteration
        trials = self.play(tasks, self.settings.episodes, generator)
        seen: Remembered = trials.record
        log_probs = seen.behaviour.log_prob(trials.actions)
        steps_left = self._steps_left(trials)
        values = self._values(self.policy.unroll(seen.inputs)) * steps_left
        advantages = self._advantages(trials, values)
        returns = discounted_returns(trials.rewards, trials.mask, self.gradients.discount)
        targets = returns / steps_left
        weights = trials.mask / trials.mask.sum((1, 2), keepdim=True)
        units = _mean_and_spread(targets, weights).expand(tasks.num_tasks, 2)
        if self.gradients.normalize_advantages:
            advantages = _normalized_together(advantages, weights) * trials.mask
        return RecurrentInputs(tasks, trials, log_probs, advantages, targets, weights, units)

    def forward(self, inputs: RecurrentInputs) -> MetaLoss:
        """See `Learner.forward`: PPO's clipped gain, less entropy, and the error of the values."""
        seen: Remembered = inputs.trials.record
        weights, played = inputs.weights, inputs.trials
        states = self.policy.unroll(seen.inputs)
        distribution = self.policy.distribution(states)
        log_probs = distribution.log_prob(played.actions)
        numbers = (log_probs, inputs.log_probs, inputs.advantages, weights)
        error = (self._values(states) - inputs.targets) / inputs.units[:, 1].view(-1, 1, 1)
        value_loss = (error.square() * weights).sum((1, 2))
        entropy = (distribution.entropy() * weights).sum((1, 2))
        divergence = (seen.behaviour.kl(distribution) * weights).sum((1, 2))
        losses = (
            proximal(*numbers, self.gradients.clip)
            + self.settings.value_weight * value_loss
            - self.settings.entropy_weight * entropy
        )
        returns = played.returns.mean(1)
        metrics = {f"train/return/step_{k}": returns[:, k] for k in {0, returns.shape[1] - 1}} | {
            "train/return/trial": returns.sum(1),
            "meta/kl": divergence.detach(),
            "meta/entropy": entropy.detach(),
            "meta/value_error": value_loss.detach(),
        }
        steps = played.mask.sum((1, 2)).long()
        carry = {"environment_steps": steps, "units": inputs.units}
        return MetaLoss(losses, metrics, carry)

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; takes up the units of the values too."""
        super().after_update(carry)
        mean, spread = carry["units"][0]
        self.value_mean.copy_(mean)
        self.value_std.copy_(spread)

    # Parts

    def _values(self, states: Tensor) -> Tensor:
        """Returns what each step to come is worth on average, [T, N, L]."""
        return self.value_mean + self.value_std * self.policy.values(states)

    def _steps_left(self, trials: Trials) -> Tensor:
        """Returns how many steps are to come, a later one counting by its discount, [L]."""
        ones = torch.ones_like(trials.mask[0, 0])
        return sums_to_end(ones, self.gradients.discount)

    def _advantages(self, trials: Trials, values: Tensor) -> Tensor:
        """GAE over the trial, whose end is the end of all reward."""
        goes_on = torch.zeros_like(trials.mask)
        goes_on[..., :-1] = trials.mask[..., 1:]
        next_values = torch.cat((values[..., 1:], torch.zeros_like(values[..., :1])), 2)
        return gae(
            trials.rewards, values, next_values, goes_on == 0, trials.mask,
            self.gradients.discount, self.gradients.gae_lambda,
        )  # fmt: skip


def _refuse_unused(gradients: PolicyGradientSettings) -> None:
    usual = PolicyGradientSettings()
    for name in UNUSED:
        if getattr(gradients, name) != getattr(usual, name):
            raise SettingsError(
                f"A recurrent policy adapts without a gradient: {name}="
                f"{getattr(gradients, name)!r} would change nothing. Leave it out."
            )


def _mean_and_spread(values: Tensor, weights: Tensor) -> Tensor:
    """Returns mean and standard deviation over all tasks, [2]; weights sum to 1 for each task.

    The deviation is at least a tenth of the mean: rewards that never change leave finite errors.
    """
    mean = (values * weights).sum((1, 2)).mean()
    deviation = ((values - mean).square() * weights).sum((1, 2)).mean().sqrt()
    return torch.stack((mean, deviation.maximum(0.1 * mean.abs()) + 1e-8))


def _normalized_together(values: Tensor, weights: Tensor) -> Tensor:
    """Returns `normalized` values [T, N, L], all tasks taken as one."""
    one = (values.flatten(0, 1).unsqueeze(0), weights.flatten(0, 1).unsqueeze(0) / len(values))
    return normalized(*one).view_as(values)
