"""Tabular problems so small that every trajectory is enumerated: expectations without sampling.

On them a surrogate's derivatives can be held against the exact ones (docs/meta_gradients.md). The
policy is a softmax of a table: its parameters are {"logits": [T, S, A]}.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.inner_loop import SupportLoss, inner_loop
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.models.base import Params
from metarl.rl.returns import sums_to_end
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import DEFAULTS, SURROGATES

MOST_NUMBERS = 10_000_000
Estimate = Literal["returns", "advantages"]


class Trajectories(NamedTuple):
    """All N trajectories of H steps, as one policy sees them.

    Attributes:
        log_prob: Log-probability of each action, [T, N, H]; differentiable in the logits.
        returns: Discounted rewards from each step on, [T, N, H].
        advantages: The exact advantage of each action, [T, N, H].
        probabilities: Probability of each trajectory, [T, N].
    """

    log_prob: Tensor
    returns: Tensor
    advantages: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class TabularProblem:
    """T Markov decision problems of S states, A actions and H steps.

    Attributes:
        start: Probability of each first state, [T, S], float.
        transitions: Probability of each next state, [T, S, A, S].
        rewards: Reward of each action, [T, S, A].
        horizon: Steps of a trajectory, H.
        discount: Gamma, in (0, 1].

    Raises:
        SettingsError: There are too many trajectories to hold.
    """

    start: Tensor
    transitions: Tensor
    rewards: Tensor
    horizon: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Checks the size."""
        tasks, states, actions = self.rewards.shape
        if tasks * self.horizon * (states * actions) ** self.horizon > MOST_NUMBERS:
            raise SettingsError(
                f"{tasks} x ({states} states x {actions} actions)^{self.horizon} trajectories are "
                "too many to enumerate; use fewer states, actions or steps."
            )

    @staticmethod
    def random(
        generator: torch.Generator,
        num_tasks: int = 1,
        states: int = 3,
        actions: int = 2,
        horizon: int = 4,
        discount: float = 1.0,
    ) -> TabularProblem:
        """Draws problems in float64: softmax of normal numbers, normal rewards."""
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        return TabularProblem(
            torch.randn(num_tasks, states, **options).softmax(-1),
            torch.randn(num_tasks, states, actions, states, **options).softmax(-1),
            torch.randn(num_tasks, states, actions, **options),
            horizon,
            discount,
        )

    def expected_return(self, params: Params) -> Tensor:
        """Returns J [T], the expected discounted return, differentiable to every order."""
        _, first = self._values(params["logits"])[0]
        return (self.start * first).sum(-1)

    def trajectories(self, params: Params) -> Trajectories:
        """Enumerates all trajectories; only `log_prob` is differentiable."""
        states, actions = self._visits
        logits = params["logits"]
        log_prob = F.log_softmax(logits, -1)[:, states, actions]
        with torch.no_grad():
            gains = [q - v.unsqueeze(-1) for q, v in self._values(logits)]
            advantages = [gain[:, states[:, t], actions[:, t]] for t, gain in enumerate(gains)]
            returns = sums_to_end(self.rewards[:, states, actions], self.discount)
            moves = self.transitions[:, states[:, :-1], actions[:, :-1], states[:, 1:]]
            chances = self.start[:, states[:, 0]] * moves.prod(-1) * log_prob.exp().prod(-1)
        return Trajectories(log_prob, returns, torch.stack(advantages, -1), chances)

    def weights(self, probabilities: Tensor) -> Tensor:
        """Returns the weight of each step, [T, N, H]: its trajectory's [T, N], times gamma^t."""
        steps = torch.arange(self.horizon).to(probabilities)
        return probabilities.unsqueeze(-1) * self.discount**steps

    def support_loss(
        self,
        surrogate: str,
        settings: PolicyGradientSettings = DEFAULTS,
        *,
        estimate: Estimate = "returns",
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> SupportLoss:
        """Returns a surrogate's loss on the trajectories of the policy at hand.

        Args:
            surrogate: A name of `SURROGATES`.
            settings: Of the surrogate.
            estimate: What stands for an action's advantage: what followed it, or the exact one.
            samples: Number of trajectories drawn anew for each step. None: every trajectory
                counts by its probability, so that the loss is an expectation.
            generator: What draws them.
        """
        loss = SURROGATES.get(surrogate)

        def support_loss(params: Params, step: int) -> Tensor:
            del step
            seen = self.trajectories(params)
            shares = seen.probabilities
            if samples is not None:
                shares = _frequencies(shares, samples, generator)
            gains = seen.returns if estimate == "returns" else seen.advantages
            return loss(seen.log_prob, gains, self.weights(shares), settings)

        return support_loss

    def exact_loss(self, params: Params, step: int) -> Tensor:
        """The support loss that all surrogates stand for: -J, [T]."""
        del step
        return -self.expected_return(params)

    def _values(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns Q [T, S, A] and V [T, S] of every step, by backward induction."""
        policy = logits.softmax(-1)
        after = torch.zeros_like(self.start)
        values: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.horizon):
            q = self.rewards + self.discount * torch.einsum("tsan,tn->tsa", self.transitions, after)
            after = (policy * q).sum(-1)
            values.append((q, after))
        return values[::-1]

    @cached_property
    def _visits(self) -> tuple[Tensor, Tensor]:
        """States and actions of every trajectory, each [N, H]."""
        _, states, actions = self.rewards.shape
        pairs = torch.arange(states * actions, device=self.rewards.device)
        visits = torch.cartesian_prod(*[pairs] * self.horizon).view(-1, self.horizon)
        return visits // actions, visits % actions


def meta_gradient(
    problem: TabularProblem,
    support_loss: SupportLoss,
    params: Params,
    lr: float,
    steps: int = 1,
    *,
    first_order: bool = False,
) -> Tensor:
    """Differentiates J after gradient descent on a support loss by the parameters before it.

    Args:
        problem: T problems; the outer expectation is exact.
        support_loss: What the inner loop descends.
        params: Where to start, {"logits": [T, S, A]}.
        lr: Inner learning rate.
        steps: Number of inner steps.
        first_order: Takes the inner gradients as constants (FOMAML).

    Returns:
        Each task's gradient, [T, S, A].
    """
    start = {n: p.detach().requires_grad_() for n, p in params.items()}
    path = inner_loop(support_loss, GradientDescent(lr), start, steps, first_order=first_order)
    *_, last = path
    outer = problem.expected_return(last.params).sum()
    return torch.autograd.grad(outer, start["logits"])[0]


def hessian(support_loss: SupportLoss, params: Params) -> Tensor:
    """Returns the Hessian of each task's loss in its own logits, [T, S * A, S * A]."""
    start = {n: p.detach().requires_grad_() for n, p in params.items()}
    loss = support_loss(start, 0).sum()
    (slope,) = torch.autograd.grad(loss, start["logits"], create_graph=True)
    rows = [
        torch.autograd.grad(part, start["logits"], retain_graph=True)[0].flatten(1)
        for part in slope.flatten(1).sum(0)
    ]
    return torch.stack(rows, 1)


def relative_error(got: Tensor, exact: Tensor) -> Tensor:
    """Returns |got - exact| / |exact| of each task, [T], in Euclidean norm."""
    return (got - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def _frequencies(probabilities: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Returns how often each trajectory is among `samples` drawn ones, as shares, [T, N]."""
    drawn = torch.multinomial(probabilities, samples, replacement=True, generator=generator)
    counts = torch.zeros_like(probabilities)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=counts.dtype)) / samples
