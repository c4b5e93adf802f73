"""Strategies for Bernoulli bandits, which learners are held against (Duan et al. 2016, 3.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.trials.strategies import StrategyAlgorithm
from metarl.sim import TaskFamily, Tasks

GRID = 256
"""Cells of [0, 1] that Thompson sampling tells apart."""


class ArmStrategy(ABC):
    """Interface of strategies that score every arm by how often it was pulled and paid.

    Args:
        arms: Number of arms, k.
    """

    def __init__(self, arms: int) -> None:
        self.arms = arms

    @abstractmethod
    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """Returns a score of every arm, [W, k]; the highest is pulled.

        Args:
            pulls: How often each was pulled, [W, k] float32.
            paid: How often it paid, [W, k].
            noise: Uniform in [0, 1), [W, k].
        """

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Agent.noise`: uniform numbers for the scores, and for ties, [*shape, 2, k]."""
        options = {"generator": generator, "device": generator.device}
        return torch.rand(*shape, 2, self.arms, **options)

    def begin(self, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """See `Agent.begin`: no arm was pulled and none has paid."""
        worlds = next(iter(tasks.values()))
        counts = torch.zeros(len(worlds), self.arms, device=worlds.device)
        return counts, counts

    def act(
        self, state: tuple[Tensor, Tensor], agent_input: AgentInput, noise: Tensor
    ) -> AgentStep:
        """See `Agent.act`; equal scores are decided by chance."""
        last = F.one_hot(agent_input.action, self.arms) * agent_input.begun.unsqueeze(1)
        pulls, paid = state[0] + last, state[1] + last * agent_input.reward.unsqueeze(1)
        scores = self.scores(pulls, paid, noise[:, 0])
        best = scores >= scores.amax(1, keepdim=True)
        action = torch.where(best, noise[:, 1], -1.0).argmax(1)
        return AgentStep(action, (pulls, paid), None)


class RandomArm(ArmStrategy):
    """Pulls any arm."""

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """See `ArmStrategy.scores`."""
        return noise


class UCB1(ArmStrategy):
    """The upper confidence bound of Auer et al. 2002, section 2, with a factor on its width.

    Args:
        arms: Number of arms.
        width: Factor on sqrt(2 ln t / n); 1 is the theorem's, practice takes less: 0.2 or so.
    """

    def __init__(self, arms: int, width: float = 1.0) -> None:
        super().__init__(arms)
        self.width = width

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """See `ArmStrategy.scores`; arms that were never pulled come first."""
        time = pulls.sum(1, keepdim=True).clamp(min=1)
        bound = paid / pulls + self.width * (2 * time.log() / pulls).sqrt()
        return torch.where(pulls > 0, bound, torch.inf)


class EpsilonGreedy(ArmStrategy):
    """Pulls the arm of the highest posterior mean under U(0, 1), or any with probability epsilon.

    Args:
        arms: Number of arms.
        epsilon: Probability of any arm, in [0, 1]; 0 is the greedy strategy.
    """

    def __init__(self, arms: int, epsilon: float = 0.0) -> None:
        super().__init__(arms)
        self.epsilon = epsilon

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """See `ArmStrategy.scores`; the first number of the noise decides whether to explore."""
        means = (paid + 1) / (pulls + 2)
        return torch.where(noise[:, :1] < self.epsilon, 0, means)


class Thompson(ArmStrategy):
    """Thompson sampling: pulls each arm as often as it is likely to be the best (prior U(0, 1))."""

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """See `ArmStrategy.scores`: draws of Beta(1 + paid, 1 + not paid), on a grid."""
        cells = (torch.arange(GRID, device=pulls.device) + 0.5) / GRID
        log_density = torch.addcmul(
            paid.unsqueeze(2) * cells.log(), (pulls - paid).unsqueeze(2), torch.log1p(-cells)
        )
        cumulative = log_density.softmax(2).cumsum(2)
        below = cumulative <= noise.unsqueeze(2) * cumulative[..., -1:]
        return below.sum(2).clamp(max=GRID - 1).float()


@dataclass(frozen=True)
class RandomArmAlgorithm(StrategyAlgorithm):
    """Any arm, every time."""

    def agent(self, family: TaskFamily) -> RandomArm:
        """See `StrategyAlgorithm.agent`."""
        return RandomArm(_arms(family))


@dataclass(frozen=True)
class UCB1Algorithm(StrategyAlgorithm):
    """UCB1 (Auer et al. 2002)."""

    width: float = 1.0
    """Factor on the width of the confidence bounds, at least 0; 1 is the theorem's."""

    def agent(self, family: TaskFamily) -> UCB1:
        """See `StrategyAlgorithm.agent`."""
        if not self.width >= 0:
            raise SettingsError(f"Expected a `width` of at least 0, got {self.width}.")
        return UCB1(_arms(family), self.width)


@dataclass(frozen=True)
class EpsilonGreedyAlgorithm(StrategyAlgorithm):
    """The best arm so far, and now and then another one."""

    epsilon: float = 0.0
    """Probability of pulling any arm, in [0, 1]."""

    def agent(self, family: TaskFamily) -> EpsilonGreedy:
        """See `StrategyAlgorithm.agent`."""
        if not 0 <= self.epsilon <= 1:
            raise SettingsError(f"Expected `epsilon` in [0, 1], got {self.epsilon}.")
        return EpsilonGreedy(_arms(family), self.epsilon)


@dataclass(frozen=True)
class ThompsonAlgorithm(StrategyAlgorithm):
    """Thompson sampling with a uniform prior."""

    def agent(self, family: TaskFamily) -> Thompson:
        """See `StrategyAlgorithm.agent`."""
        return Thompson(_arms(family))


def _arms(family: TaskFamily) -> int:
    space = family.action_space
    if not isinstance(space, spaces.Discrete) or "probabilities" not in _task_names(family):
        raise SettingsError(f"Expected a family of Bernoulli bandits, got {family.name}.")
    return int(space.n)


def _task_names(family: TaskFamily) -> list[str]:
    return list(family.sample(1, torch.Generator()).values)
