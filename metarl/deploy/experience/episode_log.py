"""What a robot did, step by step, and the rollouts that a policy adapts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.robot.actor import Action
from metarl.models.base import Params
from metarl.rl.experience import Experience, estimate_advantages
from metarl.rl.policies import Policy
from metarl.rl.rollouts import Rollouts
from metarl.rl.settings import PolicyGradientSettings
from metarl.trees import map_tensors


@dataclass
class EpisodeLog:
    """An episode, or the part of one since the last adaptation.

    Attributes:
        observations: Observations before each step, [O] float32 each, the environment's units.
        actions: Actions in the policy's units.
        rewards: Rewards.
        sampled: Whether the policy sampled the action, and it was executed.
        versions: Which parameters acted.
        final: The observation after the last step; None before there is a step.
        terminated: Whether the episode terminated.
        ended: Whether it ended, by a termination or a time limit.
    """

    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    final: np.ndarray | None = None
    terminated: bool = False
    ended: bool = False

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.rewards)

    def add(
        self, observation: np.ndarray, action: Action, reward: float, sampled: bool, version: int
    ) -> None:
        """Adds a step."""
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(reward)
        self.sampled.append(sampled)
        self.versions.append(version)


def experience_of(
    logs: Sequence[EpisodeLog],
    policy: Policy,
    versions: Mapping[int, Params],
    settings: PolicyGradientSettings,
    weights: Tensor | None = None,
) -> Experience:
    """Returns what a policy adapts on; steps whose action was not sampled have the weight 0.

    Their rewards still count for the actions before them: whoever chose them is a part of the
    environment.

    Args:
        logs: Episodes of at least one step each.
        policy: The policy.
        versions: The parameters that acted, [1, *shape] per name.
        settings: Discount, lambda and normalisation of the advantages.
        weights: Weight of each episode, [N, 1], or of each step, [N, H]; None: all 1.
    """
    rollouts, sampled, numbers = _rollouts(logs, policy, versions)
    cut = torch.tensor([[not log.ended for log in logs]])
    experience = estimate_advantages(rollouts, settings, cut)
    shares = sampled if weights is None else sampled * weights.unsqueeze(0)
    log_probs = experience.log_probs
    for version in sorted(set(numbers.unique().tolist()) & versions.keys()):
        distribution = policy.distribution(versions[version], rollouts.observations)
        found = distribution.log_prob(rollouts.actions)
        log_probs = torch.where(numbers == version, found, log_probs)
    total = shares.sum((1, 2), keepdim=True)
    return experience._replace(log_probs=log_probs.detach(), weights=shares / total)


@torch.no_grad()
def log_probs_of(logs: Sequence[EpisodeLog], policy: Policy, params: Params) -> Tensor:
    """Returns the log-probability of each action under some parameters, [N, H]; 0 after the end.

    They are densities in the policy's units.

    Args:
        logs: Episodes of at least one step each.
        policy: The policy.
        params: The parameters, [1, *shape] per name.
    """
    rollouts, _, _ = _rollouts(logs, policy, {0: params})
    return (rollouts.behaviour.log_prob(rollouts.actions) * rollouts.mask)[0]


@torch.no_grad()
def log_probs_of_samples(
    logs: Sequence[EpisodeLog],
    policy: Policy,
    params: Params,
    bounds: tuple[Tensor, Tensor] | None,
    count: int,
) -> np.ndarray:
    """Returns the summed log-probabilities of actions that a policy samples in place of a log's.

    Args:
        logs: See `log_probs_of`.
        policy: See `log_probs_of`.
        params: See `log_probs_of`.
        bounds: Lowest and highest actions in the policy's units, to which the samples are clipped;
            None: they are not.
        count: Number of sums.
    """
    rollouts, _, _ = _rollouts(logs, policy, {0: params})
    acts, generator = rollouts.behaviour, torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        actions = acts.sample(policy.noise(rollouts.mask.shape, generator))
        actions = actions if bounds is None else actions.clamp(*bounds)
        found.append(float((acts.log_prob(actions) * rollouts.mask).double().sum()))
    return np.array(found)


@torch.no_grad()
def _rollouts(
    logs: Sequence[EpisodeLog], policy: Policy, versions: Mapping[int, Params]
) -> tuple[Rollouts, Tensor, Tensor]:
    """Returns rollouts [1, N, H], which actions count, [1, N, H], and who acted, [1, N, H]."""
    horizon = max(map(len, logs))

    def padded(rows: Sequence[np.ndarray], dtype: type = np.float32) -> Tensor:
        longest = [np.concatenate((r, np.repeat(r[-1:], horizon - len(r), 0))) for r in rows]
        return torch.from_numpy(np.stack(longest).astype(dtype)).unsqueeze(0)

    finals = [log.observations[-1] if log.final is None else log.final for log in logs]
    mask = torch.zeros(1, len(logs), horizon)
    for n, log in enumerate(logs):
        mask[0, n, : len(log)] = 1
    held = [
        np.concatenate((np.stack(log.observations), np.repeat(f[None], horizon - len(log), 0)))
        for log, f in zip(logs, finals, strict=True)
    ]
    seen = torch.from_numpy(np.stack(held)).unsqueeze(0)
    last = torch.from_numpy(np.stack(finals)).unsqueeze(0)
    if policy.units is not None:
        seen, last = policy.units.observe(seen), policy.units.observe(last)
    kind = np.int64 if policy.action_shape == () else np.float32
    actions = padded([np.asarray(log.actions, kind) for log in logs], kind)
    rewards = padded([np.asarray(log.rewards, np.float32) for log in logs]) * mask
    sampled = padded([np.asarray(log.sampled, np.float32) for log in logs]) * mask
    numbers = padded([np.asarray(log.versions, np.int64) for log in logs], np.int64)
    terminated = torch.zeros(1, len(logs), horizon, dtype=torch.bool)
    for n, log in enumerate(logs):
        terminated[0, n, len(log) - 1] = log.terminated
    newest = versions[max(versions)]
    behaviour = policy.distribution(newest, seen)
    behaviour = map_tensors(torch.Tensor.detach, behaviour)
    return Rollouts(seen, actions, rewards, mask, terminated, last, behaviour), sampled, numbers
