"""Exact expectations and meta-gradients of small tabular problems, by enumeration of trajectories.

They are the reference for the derivatives of the surrogates (docs/meta_gradients.md). The policy is
a softmax of a table of logits: its parameters are {"logits": [T, S, A]}.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.inner_loop import SupportLoss, inner_loop
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Params
from metarl.ranges import COUNT, Range, check_fields, check_int
from metarl.registry import check_choice
from metarl.rl.returns import sums_to_end
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import DEFAULTS, SURROGATES

MOST_NUMBERS = 10_000_000
Estimate = Literal["returns", "advantages"]


class Trajectories(NamedTuple):
    """All N trajectories of H steps, and their probabilities under one policy.

    Attributes:
        log_prob: Log-probability of each action, [T, N, H]; differentiable in the logits.
        returns: Discounted return of each step, [T, N, H].
        advantages: Exact advantage of each action, [T, N, H].
        probabilities: Probability of each trajectory, [T, N].
    """

    log_prob: Tensor
    returns: Tensor
    advantages: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class TabularProblem:
    """T Markov decision processes with S states, A actions and H steps.

    Attributes:
        start: Probability of each initial state, p(s_0), [T, S], float.
        transitions: Probability of each next state, P(s' | s, a), [T, S, A, S].
        rewards: Reward of each action, r(s, a), [T, S, A].
        horizon: Number of steps of a trajectory, H.
        discount: Gamma, in (0, 1].

    Raises:
        ShapeError: The tensors do not belong together, or are of several types.
        SettingsError: The trajectories are too many to enumerate, probabilities do not sum to 1, or
            the horizon or the discount is out of range.
    """

    start: Tensor
    transitions: Tensor
    rewards: Tensor
    horizon: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Checks shapes, probabilities and the number of trajectories."""
        check_fields(self, horizon=COUNT, discount=Range(0, 1, includes_low=False))
        self._check_tensors()
        tasks, states, actions = self.rewards.shape
        if tasks * self.horizon * (states * actions) ** self.horizon > MOST_NUMBERS:
            raise SettingsError(
                f"{tasks} x ({states} states x {actions} actions)^{self.horizon} trajectories are "
                "too many to enumerate; use fewer states, actions or steps."
            )

    def _check_tensors(self) -> None:
        tensors = {"start": self.start, "transitions": self.transitions, "rewards": self.rewards}
        given = ", ".join(f"{n} {list(t.shape)} {t.dtype}" for n, t in tensors.items())
        shape = tuple(self.rewards.shape)
        right = len(shape) == 3 and [tuple(t.shape) for t in tensors.values()] == [
            shape[:2], (*shape, shape[1]), shape
        ]  # fmt: skip
        types = {t.dtype for t in tensors.values()}
        if not right or len(types) > 1 or not self.start.is_floating_point():
            raise ShapeError(
                "Expected start [T, S], transitions [T, S, A, S] and rewards [T, S, A] of one type "
                f"of floats, got {given}. A single problem has T = 1."
            )
        for name in ("start", "transitions"):
            sums = tensors[name].sum(-1)
            if not bool((tensors[name] >= 0).all()) or not bool(((sums - 1).abs() < 1e-4).all()):
                raise SettingsError(
                    f"Expected probabilities `{name}`, which are at least 0 and sum to 1 over the "
                    f"last dimension, got sums of {float(sums.min()):.4g} to "
                    f"{float(sums.max()):.4g} and a lowest number of "
                    f"{float(tensors[name].min()):.4g}."
                )

    def _check_logits(self, logits: Tensor) -> None:
        shape = self.rewards.shape
        fits = logits.shape[1:] == shape[1:] and shape[0] in (1, len(logits))
        if not fits or logits.dtype != self.rewards.dtype:
            raise ShapeError(
                f"Expected logits {list(shape)} in {self.rewards.dtype}, as the rewards, got "
                f"{list(logits.shape)} in {logits.dtype}. A problem with T = 1 takes any number of "
                "policies."
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
        """Draws random problems, in float64.

        Probabilities are the softmax of standard normal numbers, rewards are standard normal.
        """
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        return TabularProblem(
            torch.randn(num_tasks, states, **options).softmax(-1),
            torch.randn(num_tasks, states, actions, states, **options).softmax(-1),
            torch.randn(num_tasks, states, actions, **options),
            horizon,
            discount,
        )

    def expected_return(self, params: Params) -> Tensor:
        """Returns the expected discounted return J of each task, [T].

        It can be differentiated any number of times.
        """
        # J = sum_s p(s_0 = s) V_0(s)
        _, first_values = self._values(params["logits"])[0]
        return (self.start * first_values).sum(-1)

    def trajectories(self, params: Params) -> Trajectories:
        """Enumerates all N = (S * A)^H trajectories; only `log_prob` is differentiable."""
        states, actions = self._visits
        logits = params["logits"]
        self._check_logits(logits)
        log_prob = F.log_softmax(logits, -1)[:, states, actions]
        with torch.no_grad():
            # A_t(s, a) = Q_t(s, a) - V_t(s);  G_t = r_t + gamma G_{t+1}
            tables = [q - v.unsqueeze(-1) for q, v in self._values(logits)]
            advantages = [table[:, states[:, t], actions[:, t]] for t, table in enumerate(tables)]
            returns = sums_to_end(self.rewards[:, states, actions], self.discount)
            # p(tau) = p(s_0) prod_t P(s_{t+1} | s_t, a_t) prod_t pi(a_t | s_t)
            moves = self.transitions[:, states[:, :-1], actions[:, :-1], states[:, 1:]]
            probabilities = self.start[:, states[:, 0]] * moves.prod(-1) * log_prob.exp().prod(-1)
        return Trajectories(log_prob, returns, torch.stack(advantages, -1), probabilities)

    def weights(self, probabilities: Tensor) -> Tensor:
        """Returns the weight of each step, p(tau) gamma^t.

        Args:
            probabilities: Probability of each trajectory, p(tau), [T, N].

        Returns:
            Shape [T, N, H].
        """
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
        """Returns the surrogate loss on trajectories of the current policy.

        Args:
            surrogate: A name in `SURROGATES`.
            settings: Settings of the surrogate.
            estimate: The advantages to use: the discounted return of each step, or the exact
                advantage.
            samples: Number of trajectories to sample, again for each adaptation step. None weights
                every trajectory by its probability, so that the loss is an expectation.
            generator: Random generator of the samples; needed for `samples`.

        Returns:
            A support loss for `inner_loop`.

        Raises:
            SettingsError: Samples are asked for without a generator, or fewer than one.
        """
        loss = SURROGATES.get(surrogate)
        check_choice("estimate", estimate, get_args(Estimate))
        if samples is not None:
            check_int("samples", samples)
            if generator is None:
                raise SettingsError(
                    "Expected a `generator` for `samples`, the only source of randomness: pass "
                    "torch.Generator().manual_seed(0)."
                )

        def support_loss(params: Params, step: int) -> Tensor:
            del step
            batch = self.trajectories(params)
            probabilities = batch.probabilities
            if samples is not None:
                probabilities = _frequencies(probabilities, samples, generator)
            advantages = batch.returns if estimate == "returns" else batch.advantages
            return loss(batch.log_prob, advantages, self.weights(probabilities), settings)

        return support_loss

    def exact_loss(self, params: Params, step: int) -> Tensor:
        """Returns the support loss that the surrogates estimate: -J, [T]."""
        del step
        return -self.expected_return(params)

    def _values(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns Q_t [T, S, A] and V_t [T, S] for t = 0..H-1, by backward induction."""
        self._check_logits(logits)
        policy = logits.softmax(-1)
        v = torch.zeros_like(self.start)
        values: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.horizon):
            # Q_t(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) V_{t+1}(s')
            q = self.rewards + self.discount * torch.einsum("tsan,tn->tsa", self.transitions, v)
            v = (policy * q).sum(-1)  # V_t(s) = sum_a pi(a | s) Q_t(s, a)
            values.append((q, v))
        return values[::-1]

    @cached_property
    def _visits(self) -> tuple[Tensor, Tensor]:
        """The states and the actions of every trajectory, each [N, H] int64."""
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
    """Returns d J(theta') / d theta, with theta' the result of gradient descent from theta.

    For one step this is (I - lr H) grad J(theta'), where H is the Hessian of the support loss.

    Args:
        problem: T problems; the outer expectation J is exact.
        support_loss: The loss of the inner loop.
        params: The initial parameters theta, {"logits": [T, S, A]}.
        lr: Inner learning rate.
        steps: Number of inner steps.
        first_order: Treats the inner gradients as constants (FOMAML).

    Returns:
        The gradient of each task, [T, S, A].
    """
    start = {n: p.detach().requires_grad_() for n, p in params.items()}
    path = inner_loop(support_loss, GradientDescent(lr), start, steps, first_order=first_order)
    *_, last = path
    outer = problem.expected_return(last.params).sum()
    return torch.autograd.grad(outer, start["logits"])[0]


def hessian(support_loss: SupportLoss, params: Params) -> Tensor:
    """Returns the Hessian of each task's loss with respect to its logits, [T, S * A, S * A]."""
    start = {n: p.detach().requires_grad_() for n, p in params.items()}
    loss = support_loss(start, 0).sum()
    (gradient,) = torch.autograd.grad(loss, start["logits"], create_graph=True)
    rows = [
        torch.autograd.grad(component, start["logits"], retain_graph=True)[0].flatten(1)
        for component in gradient.flatten(1).sum(0)  # the tasks share no logits
    ]
    return torch.stack(rows, 1)


def relative_error(got: Tensor, exact: Tensor) -> Tensor:
    """Returns |got - exact| / |exact| of each task, [T], in the Euclidean norm."""
    return (got - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def _frequencies(probabilities: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Samples trajectories and returns the relative frequency of each, [T, N]."""
    indices = torch.multinomial(probabilities, samples, replacement=True, generator=generator)
    counts = torch.zeros_like(probabilities)
    return counts.scatter_add_(1, indices, torch.ones_like(indices, dtype=counts.dtype)) / samples
