"""Baseline strategies for Bernoulli bandits (Duan et al. 2016, section 3.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import FRACTION, NOT_NEGATIVE, check_fields
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.trials.strategies import StrategyAlgorithm
from metarl.sim import TaskFamily, Tasks

GRID = 256
"""Cells that the inverse-CDF sampler of Thompson sampling divides [0, 1] into."""


class ArmStrategy(ABC):
    """Base class of strategies that score each arm by its pulls and rewards.

    Args:
        arms: Number of arms k.
    """

    def __init__(self, arms: int) -> None:
        self.arms = arms

    @abstractmethod
    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """Returns the score of each arm, [W, k]; the arm with the highest score is pulled.

        Args:
            pulls: Number of pulls of each arm, [W, k] float32.
            paid: Sum of the rewards of each arm, [W, k] float32.
            noise: Uniform random numbers in [0, 1), [W, k].
        """

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws uniform numbers for the scores and for breaking ties, [*shape, 2, k]."""
        options = {"generator": generator, "device": generator.device}
        return torch.rand(*shape, 2, self.arms, **options)

    def begin(self, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns zero counts of pulls and rewards, [W, k] each."""
        worlds = next(iter(tasks.values()))
        counts = torch.zeros(len(worlds), self.arms, device=worlds.device)
        return counts, counts

    def act(
        self, state: tuple[Tensor, Tensor], agent_input: AgentInput, noise: Tensor
    ) -> AgentStep:
        """Pulls the arm with the highest score; ties are broken at random."""
        last = F.one_hot(agent_input.action, self.arms) * agent_input.begun.unsqueeze(1)
        pulls, paid = state[0] + last, state[1] + last * agent_input.reward.unsqueeze(1)
        scores = self.scores(pulls, paid, noise[:, 0])
        best = scores >= scores.amax(1, keepdim=True)
        action = torch.where(best, noise[:, 1], -1.0).argmax(1)
        return AgentStep(action, (pulls, paid), None)


class RandomArm(ArmStrategy):
    """Pulls an arm uniformly at random."""

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        return noise


class UCB1(ArmStrategy):
    """UCB1 (Auer et al. 2002, section 2), with a factor on the width of the confidence bound.

    Args:
        arms: Number of arms k.
        width: Factor on sqrt(2 ln t / n_i), at least 0; the paper's theorem uses 1, in practice
            values near 0.2 work better.
    """

    def __init__(self, arms: int, width: float = 1.0) -> None:
        super().__init__(arms)
        self.width = width

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        # mean_i + width * sqrt(2 ln t / n_i)  (Auer et al. 2002, figure 1, with width = 1);
        # an arm that was never pulled scores infinity.
        time = pulls.sum(1, keepdim=True).clamp(min=1)
        bound = paid / pulls + self.width * (2 * time.log() / pulls).sqrt()
        return torch.where(pulls > 0, bound, torch.inf)


class EpsilonGreedy(ArmStrategy):
    """Pulls the arm with the highest posterior mean, or a random arm with probability epsilon.

    The prior of each arm is U(0, 1).

    Args:
        arms: Number of arms k.
        epsilon: Probability of a random arm, in [0, 1]; 0 is the greedy strategy.
    """

    def __init__(self, arms: int, epsilon: float = 0.0) -> None:
        super().__init__(arms)
        self.epsilon = epsilon

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        # The posterior of an arm is Beta(1 + s, 1 + n - s); its mean is (s + 1) / (n + 2).
        means = (paid + 1) / (pulls + 2)
        # To explore, all arms score 0, so that the tie-break pulls a random one.
        return torch.where(noise[:, :1] < self.epsilon, 0, means)


class Thompson(ArmStrategy):
    """Thompson sampling: pulls each arm with its posterior probability of being the best.

    The prior of each arm is U(0, 1).
    """

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        # Samples p_i ~ Beta(1 + s, 1 + n - s) by the inverse CDF on a grid:
        # log density = s log p + (n - s) log(1 - p) + const.
        cells = (torch.arange(GRID, device=pulls.device) + 0.5) / GRID
        log_density = torch.addcmul(
            paid.unsqueeze(2) * cells.log(), (pulls - paid).unsqueeze(2), torch.log1p(-cells)
        )
        cumulative = log_density.softmax(2).cumsum(2)
        below = cumulative <= noise.unsqueeze(2) * cumulative[..., -1:]
        return below.sum(2).clamp(max=GRID - 1).float()


@dataclass(frozen=True)
class RandomArmAlgorithm(StrategyAlgorithm):
    """Pulls arms uniformly at random."""

    def agent(self, family: TaskFamily) -> RandomArm:
        return RandomArm(arms_of(family))


@dataclass(frozen=True)
class UCB1Algorithm(StrategyAlgorithm):
    """UCB1 (Auer et al. 2002)."""

    width: float = 1.0
    """Factor on the width of the confidence bounds, at least 0; the theorem uses 1."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, width=NOT_NEGATIVE)

    def agent(self, family: TaskFamily) -> UCB1:
        return UCB1(arms_of(family), self.width)


@dataclass(frozen=True)
class EpsilonGreedyAlgorithm(StrategyAlgorithm):
    """Pulls the arm with the highest posterior mean, or a random arm with probability epsilon."""

    epsilon: float = 0.0
    """Probability of pulling a random arm, in [0, 1]."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, epsilon=FRACTION)

    def agent(self, family: TaskFamily) -> EpsilonGreedy:
        return EpsilonGreedy(arms_of(family), self.epsilon)


@dataclass(frozen=True)
class ThompsonAlgorithm(StrategyAlgorithm):
    """Thompson sampling with a uniform prior."""

    def agent(self, family: TaskFamily) -> Thompson:
        return Thompson(arms_of(family))


def arms_of(family: TaskFamily) -> int:
    """Returns the number of arms of a family of Bernoulli bandits.

    Raises:
        SettingsError: It is another family.
    """
    space = family.action_space
    if not isinstance(space, spaces.Discrete) or "probabilities" not in _task_names(family):
        raise SettingsError(f"Expected a family of Bernoulli bandits, got {family.name}.")
    return int(space.n)


def _task_names(family: TaskFamily) -> list[str]:
    return list(family.sample(1, torch.Generator()).values)
