"""The interface of learners that train a policy with a memory by PPO on whole trials."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl import ranks
from metarl.adaptation.learner import MetaLoss
from metarl.errors import SettingsError
from metarl.rl.control_learner import nan_where_undefined
from metarl.rl.experience import normalized
from metarl.rl.moments import Moments
from metarl.rl.old_weights import adapt_old_weights
from metarl.rl.returns import discounted_returns, gae, sums_to_end
from metarl.rl.settings import PolicyGradientSettings, changed
from metarl.rl.surrogates import proximal
from metarl.rl.trials.play import Trials
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.rl.trials.trial_policy import Remembered, TrialPolicy
from metarl.rl.trials.trial_settings import TrialSettings
from metarl.rl.unit_checks import UnitMonitor
from metarl.rl.units import Units, starting_generator
from metarl.sim.family import ControlTasks, TaskFamily

UNUSED = ("bootstrap", "surrogate", "dice_lambda", "inner_kl", "exploration")


@dataclass(frozen=True)
class RecurrentInputs:
    """The inputs of one meta-iteration; the first dimension of every tensor is the tasks.

    Attributes:
        tasks: The tasks.
        trials: The trials; their record is `Remembered`.
        log_probs: Log-probability of each action under the policy that took it, [T, N, L].
        advantages: Advantage of each action, [T, N, L]; 0 after the end of a trial.
        targets: Targets of the value function, [T, N, L]: the discounted return of each step, or
            its lambda return, divided by the discounted number of steps to the end of the trial.
        weights: Weight of each step in a mean over all steps of a task, [T, N, L]; they sum to 1
            for each task.
        units: Mean and standard deviation of the targets of all tasks, [T, 2]; equal for all tasks.
        moments: What the policy's units merge, [T] each; None if they have no running statistics.
        unit_metrics: What training logs of the units, tag -> [T].
        more: What `read` needs besides, nested tensors [T, *], or None.
    """

    tasks: ControlTasks
    trials: Trials
    log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    weights: Tensor
    units: Tensor
    moments: dict[str, Moments] | None = None
    unit_metrics: dict[str, Tensor] = field(default_factory=dict)
    more: Any = None


class Reading(NamedTuple):
    """What a policy with a memory computes from stored trials.

    Attributes:
        features: The features of each step, [T, N, L, F].
        losses: What is added to PPO's loss of each task, [T]; None: nothing.
        metrics: What training logs of it, tag -> [T].
        carry: What `after_update` stores of it, nested tensors [T, *] by name.
    """

    features: Tensor
    losses: Tensor | None = None
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 - nothing writes into it
    carry: dict[str, Any] = {}  # noqa: RUF012


class ProximalLearner(TrialLearner):
    """Interface of learners that train a policy with a memory by PPO over whole trials.

    The objective is the expected discounted return of a trial, E[sum_{t < L} gamma^t r_t], where
    the sum runs over the steps of all E episodes (Duan et al. 2016, section 2.2). Returns and
    advantages do not stop at the ends of episodes, so early exploration is rewarded if it improves
    later episodes. `collect` plays the trials; `forward` runs the network over the stored
    sequences, so that several optimiser steps (`ProximalUpdate`) can use the same trials. The
    derivatives are those through whole trials (no truncated backpropagation).

    The value function predicts the mean reward per remaining step; the value of a state is this
    prediction times the discounted number of remaining steps. It is normalised by the mean and
    standard deviation of the last batch's targets, stored in `value_mean` and `value_std`, so that
    rewards can have any scale.

    Args:
        policy: The policy, built for the observations of the family.
        family: The family of the tasks.
        settings: The options of the algorithm.
        gradients: Trials per task (`trajectories`), discount, lambda of GAE and clip of PPO.
            `normalize_advantages` normalises over all tasks together, to mean 0 and deviation 1.
        task_chunk_size: Number of tasks whose trials are played at once. None: all.
        observe_task: Appends the task to the observations (the oracle).

    Raises:
        SettingsError: `gradients` has a setting that this learner does not use.
    """

    collects_own = True
    stores_in_buffers = True
    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self,
        policy: TrialPolicy,
        family: TaskFamily,
        settings: TrialSettings,
        gradients: PolicyGradientSettings | None = None,
        *,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        gradients = gradients or PolicyGradientSettings(trajectories=1, clip=0.2)
        _refuse_unused(gradients)
        super().__init__(family, gradients.trajectories, task_chunk_size, observe_task)
        self.policy = policy
        self.settings = settings
        self.gradients = gradients
        weight = next(policy.parameters())
        self.register_buffer("value_mean", weight.new_zeros(()))
        self.register_buffer("value_std", weight.new_ones(()))
        self._monitor = UnitMonitor(family.action_space, family.observation_space)
        self.register_load_state_dict_pre_hook(adapt_old_weights)

    @property
    def agent(self) -> TrialPolicy:
        return self.policy

    @property
    def units(self) -> Units | None:
        return self.policy.units

    def play(
        self, tasks: ControlTasks, episodes: int, generator: torch.Generator, *, own: bool = False
    ) -> Trials:
        """Plays trials; before, starts the running statistics of the units if there are none yet.

        They start from a trial of one episode on training tasks, whose steps count.

        Raises:
            SettingsError: A transformer was trained for shorter trials.
        """
        self.check_steps(episodes - 1)
        units = self.units
        if units is not None and not units.started:
            own_generator = starting_generator(generator)
            train = self.family.split("train").sample(tasks.num_tasks, own_generator)
            trials = super().play(train, 1, own_generator)
            units.update(_moments(units, trials))
            self.environment_steps += int(trials.mask.sum())
        return super().play(tasks, episodes, generator, own=own)

    def check_steps(self, steps: int) -> None:
        """Raises SettingsError if a transformer was trained for shorter trials."""
        if self.policy.attention is not None:
            self.policy.attention.check((steps + 1) * self.family.horizon)

    # What a learner defines

    @abstractmethod
    def read(self, inputs: RecurrentInputs) -> Reading:
        """Runs the policy's networks over stored trials, differentiably; pure, as `forward`."""

    def draw(self, trials: Trials, total: int, generator: torch.Generator) -> Any:
        """Draws what `read` needs besides, nested tensors [T, *]; None: nothing.

        Args:
            trials: The trials of this rank's tasks.
            total: Number of tasks of all ranks, whose random numbers are drawn.
            generator: The only source of randomness.
        """
        del trials, total, generator

    # Training

    @torch.no_grad()
    def collect(
        self, tasks: ControlTasks, generator: torch.Generator, iteration: int
    ) -> RecurrentInputs:
        """Plays trials and estimates their advantages with the current value function."""
        total = tasks.num_tasks
        trials = self.play(tasks, self.settings.episodes, generator, own=True)
        tasks = ranks.own(tasks, total)
        more = self.draw(trials, total, generator)
        own = self.units
        moments = None if own is None or not own.learns else _moments(own, trials)
        record: Remembered = trials.record._replace(observation=None)
        trials = trials._replace(
            record=record._replace(values=None, belief=None), next_observations=None
        )
        log_probs = record.behaviour.log_prob(trials.actions)
        steps_left = self._steps_left(trials)
        # with a shared network they were computed when it acted
        values = record.values if self.policy.critic is None else self.policy.critic(record.inputs)
        assert values is not None
        values = self._values(values) * steps_left
        advantages = self._advantages(trials, values)
        targets = self._returns(trials, values, advantages) / steps_left
        weights = trials.mask / trials.mask.sum((1, 2), keepdim=True)
        of_all = ranks.gather((targets, advantages, weights), total)
        units = _mean_and_spread(of_all[0], of_all[2]).expand(tasks.num_tasks, 2)
        if self.gradients.normalize_advantages:
            normal = ranks.own(_normalized_together(*of_all[1:]), total)
            advantages = normal * trials.mask
        return RecurrentInputs(
            tasks,
            trials,
            log_probs,
            advantages,
            targets,
            weights,
            units,
            moments,
            self._unit_metrics(trials, iteration),
            more,
        )

    def forward(self, inputs: RecurrentInputs) -> MetaLoss:
        """Returns PPO's loss: clipped surrogate, squared error of the values and entropy bonus."""
        record: Remembered = inputs.trials.record
        weights, trials = inputs.weights, inputs.trials
        features, further, logged, carried = self.read(inputs)
        distribution = self.policy.distribution(features)
        log_probs = distribution.log_prob(trials.actions)
        surrogate_inputs = (log_probs, inputs.log_probs, inputs.advantages, weights)
        values = self._values(self.policy.predicted(record.inputs, features))
        error = (values - inputs.targets) / inputs.units[:, 1].view(-1, 1, 1)
        value_loss = (self._penalty(error) * weights).sum((1, 2))
        entropy = (distribution.entropy() * weights).sum((1, 2))
        divergence = (record.behaviour.kl(distribution) * weights).sum((1, 2))
        # loss = -L^CLIP + c_1 L^VF - c_2 S  (Schulman et al. 2017, eq. 9)
        losses = (
            proximal(*surrogate_inputs, self.gradients.clip)
            + self.settings.value_weight * value_loss
            - self.settings.entropy_weight * entropy
        )
        if further is not None:
            losses = losses + further
        returns = trials.returns.mean(1)
        metrics = {f"train/return/step_{k}": returns[:, k] for k in {0, returns.shape[1] - 1}} | {
            **inputs.unit_metrics,
            **logged,
            "train/return/trial": returns.sum(1),
            "meta/kl": divergence.detach(),
            "meta/entropy": entropy.detach(),
            "meta/value_error": value_loss.detach(),
        }
        steps = trials.mask.sum((1, 2)).long()
        carry: dict[str, Any] = {"environment_steps": steps, "units": inputs.units, **carried}
        if inputs.moments is not None:
            carry["moments"] = inputs.moments
        return MetaLoss(losses, metrics, carry)

    def episode_returns(self, trials: Trials) -> Tensor:
        """Returns the mean return of each episode, [T, E]; NaN where a network diverged."""
        log_probs = trials.record.behaviour.log_prob(trials.actions)
        return nan_where_undefined(super().episode_returns(trials), log_probs)

    def after_update(self, carry: dict[str, Any]) -> None:
        """Counts the environment steps and stores the new normalisation of the values."""
        super().after_update(carry)
        mean, spread = carry["units"][0]
        self.value_mean.copy_(mean)
        self.value_std.copy_(spread)
        if self.units is not None and "moments" in carry:
            self.units.update(carry["moments"])

    # Parts

    def _unit_metrics(self, trials: Trials, iteration: int) -> dict[str, Tensor]:
        """Returns what training logs of the units; warns of unsuitable ones."""
        observations = trials.record.inputs[..., : self.policy.observation_size]
        return self._monitor.metrics(
            self.units, observations, trials.actions, trials.rewards, trials.mask, iteration
        )

    def _values(self, normal: Tensor) -> Tensor:
        """Returns the predicted mean reward per remaining step, for the normalised values."""
        return self.value_mean + self.value_std * normal

    def _penalty(self, errors: Tensor) -> Tensor:
        """Returns the loss of each error: e^2; or Huber's, which is 2 |e| - 1 where |e| > 1."""
        if self.settings.value_loss == "squared":
            return errors.square()
        return 2 * F.huber_loss(errors, torch.zeros_like(errors), reduction="none")

    def _returns(self, trials: Trials, values: Tensor, advantages: Tensor) -> Tensor:
        """Returns the targets of the values of all remaining steps, [T, N, L]."""
        if self.settings.value_targets == "lambda":
            return (values + advantages) * trials.mask  # G^lambda_t = V(s_t) + A_t
        return discounted_returns(trials.rewards, trials.mask, self.gradients.discount)

    def _steps_left(self, trials: Trials) -> Tensor:
        """Returns the discounted number of steps to the end of the trial, [L]."""
        # n_t = 1 + gamma n_{t+1}
        ones = torch.ones_like(trials.mask[0, 0])
        return sums_to_end(ones, self.gradients.discount)

    def _advantages(self, trials: Trials, values: Tensor) -> Tensor:
        """Returns GAE over the whole trial, [T, N, L]; only the end of the trial terminates it."""
        has_next = torch.zeros_like(trials.mask)
        has_next[..., :-1] = trials.mask[..., 1:]
        next_values = torch.cat((values[..., 1:], torch.zeros_like(values[..., :1])), 2)
        return gae(
            trials.rewards, values, next_values, has_next == 0, trials.mask,
            self.gradients.discount, self.gradients.gae_lambda,
        )  # fmt: skip


def _moments(units: Units, trials: Trials) -> dict[str, Moments]:
    return units.moments(trials.record.observation, trials.rewards, trials.mask)


def _refuse_unused(gradients: PolicyGradientSettings) -> None:
    """Raises SettingsError if a setting of an inner loop differs from its default."""
    if unused := changed(gradients, UNUSED):
        raise SettingsError(
            f"A recurrent policy adapts without a gradient: {', '.join(unused)} would change "
            "nothing. Leave it out."
        )


def _mean_and_spread(values: Tensor, weights: Tensor) -> Tensor:
    """Returns the mean and standard deviation over all tasks, [2].

    The standard deviation is at least a tenth of the absolute mean, so that normalised errors stay
    finite if all rewards are equal. The weights sum to 1 for each task.
    """
    mean = (values * weights).sum((1, 2)).mean()
    deviation = ((values - mean).square() * weights).sum((1, 2)).mean().sqrt()
    return torch.stack((mean, deviation.maximum(0.1 * mean.abs()) + 1e-8))


def _normalized_together(values: Tensor, weights: Tensor) -> Tensor:
    """Returns values [T, N, L] that are `normalized` over all tasks together."""
    one = (values.flatten(0, 1).unsqueeze(0), weights.flatten(0, 1).unsqueeze(0) / len(values))
    return normalized(*one).view_as(values)
