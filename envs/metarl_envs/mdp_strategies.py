"""Baseline strategies for random tabular MDPs (Duan et al. 2016, section 3.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import SettingsError
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.trials.strategies import StrategyAlgorithm
from metarl.sim import TaskFamily, Tasks
from metarl_envs.tabular_mdp import TabularMDP


def best_values(transitions: Tensor, rewards: Tensor, horizon: int) -> Tensor:
    """Computes the optimal action values of a finite horizon by value iteration.

    Args:
        transitions: Probability of each next state, P(n|s, a), [W, S, A, S].
        rewards: Mean reward of each action, m(s, a), [W, S, A].
        horizon: Steps per episode, H.

    Returns:
        Action values Q_h(s, a) at step h = 0 .. H - 1 of the episode, [W, H, S, A].
    """
    values, after = [], torch.zeros_like(rewards[..., 0])
    for _ in range(horizon):
        # Q_h(s, a) = m(s, a) + sum_n P(n|s, a) max_b Q_{h+1}(n, b), with Q_H = 0
        q = rewards + torch.einsum("wsan,wn->wsa", transitions, after)
        after = q.amax(2)
        values.append(q)
    return torch.stack(values[::-1], 1)


class Memory(NamedTuple):
    """The state of a strategy during a trial.

    Attributes:
        values: Estimated action values of each step of an episode, [W, H, S, A].
        seen: Count of each transition, [W, S, A, S].
        tried: Count of each action in each state, [W, S, A].
        paid: Sum of the rewards of each action in each state, [W, S, A].
        state: The state of the last action, one-hot, [W, S].
        step: Number of steps taken in the trial.
    """

    values: Tensor
    seen: Tensor
    tried: Tensor
    paid: Tensor
    state: Tensor
    step: int


class TableStrategy(ABC):
    """Base class of strategies that plan at the start of each episode and then follow the plan.

    Args:
        family: The family of MDPs.
    """

    def __init__(self, family: TabularMDP) -> None:
        self.family = family

    @abstractmethod
    def plan(self, memory: Memory) -> Tensor:
        """Returns the estimated action values of each step of an episode, [W, H, S, A]."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws uniform numbers for breaking ties, [*shape, A]."""
        options = {"generator": generator, "device": generator.device}
        return torch.rand(*shape, self.family.actions, **options)

    def begin(self, tasks: Tasks) -> Memory:
        """Returns a memory without observations: all counts and values are 0."""
        zeros = torch.zeros_like(tasks["rewards"])
        values = zeros.unsqueeze(1).expand(-1, self.family.horizon, -1, -1)
        counts = torch.zeros_like(tasks["transitions"])
        return Memory(values, counts, zeros, zeros, zeros[:, :, 0], 0)

    def act(self, state: Memory, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """Takes the action with the highest estimated value; ties are broken at random."""
        memory = self._with_last_step(state, agent_input)
        step = memory.step % self.family.horizon  # of the episode
        if step == 0:
            memory = memory._replace(values=self.plan(memory))
        values = torch.einsum("ws,wsa->wa", agent_input.observation, memory.values[:, step])
        best = values >= values.amax(1, keepdim=True)
        action = torch.where(best, noise, -1.0).argmax(1)
        memory = memory._replace(state=agent_input.observation, step=memory.step + 1)
        return AgentStep(action, memory, None)

    def _with_last_step(self, memory: Memory, agent_input: AgentInput) -> Memory:
        """Adds the last action, its reward and its next state to the memory.

        The next state of an episode's last action is not observed and therefore not counted.
        """
        action = F.one_hot(agent_input.action, self.family.actions) * agent_input.begun.unsqueeze(1)
        taken = torch.einsum("ws,wa->wsa", memory.state, action)
        next_state = agent_input.observation * (1 - agent_input.ended).unsqueeze(1)
        return memory._replace(
            seen=memory.seen + torch.einsum("wsa,wn->wsan", taken, next_state),
            tried=memory.tried + taken,
            paid=memory.paid + taken * agent_input.reward.view(-1, 1, 1),
        )


class RandomPlayer(TableStrategy):
    """Takes an action uniformly at random."""

    def plan(self, memory: Memory) -> Tensor:
        """Returns the initial values, which are all 0."""
        return memory.values


class Greedy(TableStrategy):
    """Plans with the posterior means of rewards and transitions under the true priors."""

    def plan(self, memory: Memory) -> Tensor:
        # Prior P(.|s, a) ~ Dir(1): E[P(n|s, a)] = (c_n + 1) / sum_n' (c_n' + 1).
        counts = memory.seen + 1
        # Prior m ~ N(1, 1), rewards N(m, 1): E[m] = (1 + sum of rewards) / (1 + their number).
        rewards = (memory.paid + 1) / (memory.tried + 1)
        return best_values(counts / counts.sum(3, keepdim=True), rewards, self.family.horizon)


class Optimal(TableStrategy):
    """An oracle that plans with the true transitions and mean rewards."""

    def begin(self, tasks: Tasks) -> Memory:
        """Returns a memory with the optimal action values of the tasks."""
        values = best_values(tasks["transitions"], tasks["rewards"], self.family.horizon)
        return super().begin(tasks)._replace(values=values)

    def plan(self, memory: Memory) -> Tensor:
        """Returns the optimal action values, computed at the start of the trial."""
        return memory.values


@dataclass(frozen=True)
class RandomPlayerAlgorithm(StrategyAlgorithm):
    """Takes actions uniformly at random."""

    def agent(self, family: TaskFamily) -> RandomPlayer:
        return RandomPlayer(_tabular_mdp(family))


@dataclass(frozen=True)
class GreedyAlgorithm(StrategyAlgorithm):
    """Plans with the posterior means of rewards and transitions."""

    def agent(self, family: TaskFamily) -> Greedy:
        return Greedy(_tabular_mdp(family))


@dataclass(frozen=True)
class OptimalAlgorithm(StrategyAlgorithm):
    """Plans with the true transitions and mean rewards (an oracle)."""

    def agent(self, family: TaskFamily) -> Optimal:
        return Optimal(_tabular_mdp(family))


def _tabular_mdp(family: TaskFamily) -> TabularMDP:
    """Returns the family; raises SettingsError if it is not a `TabularMDP`."""
    if not isinstance(family, TabularMDP):
        raise SettingsError(f"Expected a TabularMDP, got {family.name}.")
    return family
