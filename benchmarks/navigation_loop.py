"""MAML-TRPO on 2D navigation as a Python loop over tasks, as in older libraries.

Follows the public documentation of learn2learn's `maml_trpo` example: an `nn.Module` is cloned and
adapted for each task; gymnasium's `SyncVectorEnv` steps the environments of one task; conjugate
gradients use the Hessian of the mean KL divergence, by double backward through the adaptation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from benchmarks import loops
from benchmarks.plain_navigation import PlainNavigation2D
from metarl.models import MLP
from metarl.rl.conjugate_gradient import conjugate_gradient
from metarl.rl.fisher import flatten, unflatten
from metarl.rl.policies import GaussianPolicy
from metarl.rl.settings import PolicyGradientSettings
from metarl.training.trust_region import TrustRegionSettings


class LoopPolicy(nn.Module):
    """An `nn.Module` with the sizes and weights of a `GaussianPolicy`."""

    def __init__(self, policy: GaussianPolicy) -> None:
        super().__init__()
        self.log_std = nn.Parameter(policy.log_std.detach().clone())
        assert isinstance(policy.network, MLP)
        self.network = loops.sequential(policy.network)
        self.least = math.log(policy.min_std)

    def forward(self, observations: Tensor) -> Independent:
        """Returns the distribution of actions [*, A] for observations [*, O]."""
        return _normal(self.network(observations), self.log_std.clamp(min=self.least))


class Episodes(NamedTuple):
    """N episodes of one task with up to H steps, and the quantities that policy gradients need.

    Attributes:
        observations: Observations, [N, H, O].
        actions: Actions, [N, H, A].
        rewards: Rewards, 0 after the end of the episode, [N, H].
        mask: 1 up to the end of the episode, 0 afterwards, [N, H].
        means: Means of the action distribution, [N, H, A].
        log_std: Logarithm of its standard deviation, [A].
        log_probs: Log-probabilities of the actions, [N, H].
        advantages: Normalised advantages, 0 after the end of the episode, [N, H].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    means: Tensor
    log_std: Tensor
    log_probs: Tensor
    advantages: Tensor

    def first(self, count: int) -> Episodes:
        """Returns the first `count` episodes."""
        parts = {n: v[:count] for n, v in self._asdict().items() if n != "log_std"}
        return self._replace(**parts)

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean of values [N, H] over all steps of the episodes."""
        return (values * self.mask).sum() / self.mask.sum()


@torch.no_grad()
def collect(envs: SyncVectorEnv, policy: nn.Module, horizon: int) -> Episodes:
    """Runs one episode in every environment; the advantages are 0."""
    observation, _ = envs.reset()
    rows: list[tuple[Tensor, ...]] = []
    alive = torch.ones(envs.num_envs)
    for _ in range(horizon):
        seen = torch.from_numpy(observation)
        density = policy(seen)
        action = density.sample()
        observation, reward, terminated, _, _ = envs.step(action.numpy())
        rewards = torch.from_numpy(reward).float() * alive
        rows.append((seen, action, rewards, alive, density.mean, density.log_prob(action)))
        alive = alive * ~torch.from_numpy(terminated)
    seen, actions, rewards, mask, means, log_probs = (
        torch.stack(r, 1) for r in zip(*rows, strict=True)
    )
    log_std = policy.log_std.detach()  # pyright: ignore[reportCallIssue, reportOptionalCall]
    advantages = torch.zeros_like(rewards)
    return Episodes(seen, actions, rewards, mask, means, log_std, log_probs, advantages)


def with_advantages(episodes: Episodes, settings: PolicyGradientSettings) -> Episodes:
    """Computes normalised GAE advantages with a linear baseline (Schulman et al. 2016)."""
    rewards, mask = episodes.rewards, episodes.mask
    discounts = torch.full_like(rewards, settings.discount)
    returns = _backwards(rewards, discounts)
    values = _baseline(episodes.observations, returns, mask)
    next_values = torch.cat((values[:, 1:] * mask[:, 1:], torch.zeros_like(values[:, :1])), 1)
    # delta_t = r_t + gamma * V(s_{t+1}) - V(s_t);  A_t = delta_t + gamma * lambda * A_{t+1}
    deltas = (rewards + settings.discount * next_values - values) * mask
    advantages = _backwards(deltas, discounts * settings.gae_lambda)
    centred = advantages - episodes.mean(advantages)
    deviation = episodes.mean(centred.square()).sqrt()
    return episodes._replace(advantages=centred / (deviation + 1e-8) * mask)


@dataclass
class NavigationLoop:
    """A meta-iteration of MAML-TRPO, task by task.

    Attributes:
        policy: The policy to train.
        gradients: Settings of the inner and outer surrogate.
        update: Settings of the trust region.
        inner_lr: Inner learning rate.
        steps: Number of adaptation steps.
        tasks: Tasks per meta-iteration.
        horizon: Steps per episode.
    """

    policy: LoopPolicy
    gradients: PolicyGradientSettings
    update: TrustRegionSettings
    inner_lr: float = 0.1
    steps: int = 1
    tasks: int = 20
    horizon: int = 100
    envs: SyncVectorEnv = field(init=False)

    def __post_init__(self) -> None:
        """Builds the environments, which all tasks share one after the other."""
        self.envs = vector_env(self.gradients.trajectories, self.horizon)
        self.params = list(self.policy.parameters())
        self.random = np.random.default_rng(0)

    def __call__(self) -> None:
        """Runs one meta-iteration."""
        goals = self.random.uniform(-0.5, 0.5, (self.tasks, 2)).astype(np.float32)
        self.improve([self.adapt_to(goal) for goal in goals])

    def adapt_to(self, goal: np.ndarray) -> list[Episodes]:
        """Adapts to a goal; returns the episodes before each step and after the last one."""
        self.envs.call("set_task", goal)
        learner, seen = loops.clone(self.policy), []
        for step in range(self.steps + 1):
            episodes = collect(self.envs, learner, self.horizon)
            seen.append(with_advantages(episodes, self.gradients))
            if step < self.steps:
                loops.adapt(learner, self._loss(learner, seen[-1]), self.inner_lr, False)
        return seen

    def improve(self, batch: list[list[Episodes]]) -> bool:
        """Takes a TRPO step on the episodes of all tasks; returns whether it was accepted."""
        loss, divergence = self.judge(batch)
        kept, few = self.update.fisher_trajectories, self.update.fisher_support
        if kept is not None:
            thinned = (
                [[e.first(few) for e in support] for *support, _ in batch]
                if few
                else [support for *support, _ in batch]
            )
            queries = [query.first(kept) for *_, query in batch]
            divergence = self.divergence([[*s, q] for s, q in zip(thinned, queries, strict=True)])
        slope = flatten(torch.autograd.grad(loss, self.params, retain_graph=True))
        product = self.hessian_product(divergence)
        direction = conjugate_gradient(product, slope, self.update.cg_iterations).solution
        curvature = direction @ product(direction)
        # -beta x with x = F^-1 g and beta = sqrt(2 delta / x^T F x)  (Schulman et al. 2015, app. C)
        step = -(2 * self.update.max_kl / curvature).sqrt() * direction
        return self._line_search(step, loss.detach(), batch)

    def judge(
        self, batch: list[list[Episodes]], second_order: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean loss and mean KL divergence of the adapted policies over the tasks."""
        losses, divergences = [], []
        for *support, query in batch:
            learner = self._adapted(support, second_order)
            old = _normal(query.means, query.log_std)
            losses.append(self._loss(learner, query))
            divergences.append(query.mean(kl_divergence(old, learner(query.observations))))
        return torch.stack(losses).mean(), torch.stack(divergences).mean()

    def divergence(self, batch: list[list[Episodes]]) -> Tensor:
        """Returns the mean KL divergence of the adapted policies from themselves.

        Its value and gradient are 0; its Hessian is the Fisher matrix.
        """
        divergences = []
        for *support, query in batch:
            density = self._adapted(support, True)(query.observations)
            old = Independent(Normal(density.mean.detach(), density.stddev.detach()), 1)
            divergences.append(query.mean(kl_divergence(old, density)))
        return torch.stack(divergences).mean()

    def hessian_product(self, divergence: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns the function v -> (H + damping * I) v, with H the Hessian of the divergence."""
        slope = flatten(torch.autograd.grad(divergence, self.params, create_graph=True))

        def product(vector: Tensor) -> Tensor:
            rows = torch.autograd.grad(slope @ vector, self.params, retain_graph=True)
            return flatten(rows) + self.update.damping * vector

        return product

    def _adapted(self, support: list[Episodes], second_order: bool) -> Any:
        learner = loops.clone(self.policy)
        for episodes in support:
            loops.adapt(learner, self._loss(learner, episodes), self.inner_lr, second_order)
        return learner

    def _loss(self, policy: Any, episodes: Episodes) -> Tensor:
        log_probs = policy(episodes.observations).log_prob(episodes.actions)
        # -E[pi(a|s) / pi_old(a|s) * A]
        return -episodes.mean((log_probs - episodes.log_probs).exp() * episodes.advantages)

    def _line_search(self, step: Tensor, loss: Tensor, batch: list[list[Episodes]]) -> bool:
        before = [p.detach().clone() for p in self.params]
        moves = unflatten(step, self.params)
        for tries in range(self.update.max_backtracks):
            share = self.update.backtrack_ratio**tries
            self._place([old + share * move for old, move in zip(before, moves, strict=True)])
            new_loss, divergence = self.judge(batch, second_order=False)
            if new_loss < loss and divergence <= self.update.max_kl:
                return True
        self._place(before)
        return False

    @torch.no_grad()
    def _place(self, values: list[Tensor]) -> None:
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)


def vector_env(count: int, horizon: int) -> SyncVectorEnv:
    """Returns `count` environments in gymnasium's `SyncVectorEnv`."""
    make = [lambda: PlainNavigation2D(horizon=horizon)] * count
    return SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)


def _normal(mean: Tensor, log_std: Tensor) -> Independent:
    return Independent(Normal(mean, log_std.exp()), 1)


def _backwards(values: Tensor, factors: Tensor) -> Tensor:
    """Computes the discounted sums S_t = values_t + factors_t * S_{t+1}, [N, H]."""
    rows, total = [], torch.zeros_like(values[:, 0])
    for step in reversed(range(values.shape[1])):
        total = values[:, step] + factors[:, step] * total
        rows.append(total)
    return torch.stack(rows[::-1], 1)


def _baseline(observations: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Fits returns [N, H] by least squares on rllab's features; returns the predicted values."""
    seen = observations.double().clamp(-10, 10)
    time = (torch.arange(seen.shape[1]) / 100).double().view(1, -1, 1).expand(len(seen), -1, -1)
    parts = (seen, seen**2, time, time**2, time**3, torch.ones_like(time))
    features = torch.cat(parts, 2)
    valid = (features * mask.unsqueeze(2)).flatten(0, 1)
    gram = valid.T @ valid + 1e-5 * torch.eye(valid.shape[1], dtype=valid.dtype)
    moments = valid.T @ returns.double().flatten().unsqueeze(1)
    weights = torch.linalg.lstsq(gram, moments).solution
    return (features @ weights).squeeze(2).to(returns.dtype)
