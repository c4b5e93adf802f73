"""Strategies for random tabular MDPs, which learners are held against (Duan et al. 2016, 3.1)."""

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
    """Returns what each action is worth with a number of steps left, by value iteration.

    Args:
        transitions: Probability of each next state, [W, S, A, S].
        rewards: Mean reward of each action, [W, S, A].
        horizon: Steps of an episode, H.

    Returns:
        [W, H, S, A]: entry h is for the step with h steps behind it.
    """
    values, after = [], torch.zeros_like(rewards[..., 0])
    for _ in range(horizon):
        q = rewards + torch.einsum("wsan,wn->wsa", transitions, after)
        after = q.amax(2)
        values.append(q)
    return torch.stack(values[::-1], 1)


class Memory(NamedTuple):
    """What a strategy knows.

    Attributes:
        values: What each action is thought to be worth, [W, H, S, A].
        seen: How often each transition was seen, [W, S, A, S].
        tried: How often each action was taken, [W, S, A].
        paid: Sum of the rewards of each action, [W, S, A].
        state: Where it acted last, one-hot, [W, S].
        step: Steps behind it in the trial.
    """

    values: Tensor
    seen: Tensor
    tried: Tensor
    paid: Tensor
    state: Tensor
    step: int


class TableStrategy(ABC):
    """Interface of strategies that plan at the start of every episode, and then follow the plan.

    Args:
        family: The MDPs.
    """

    def __init__(self, family: TabularMDP) -> None:
        self.family = family

    @abstractmethod
    def plan(self, memory: Memory) -> Tensor:
        """Returns what each action is thought to be worth, [W, H, S, A]."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Agent.noise`: uniform numbers that decide between equals, [*shape, A]."""
        options = {"generator": generator, "device": generator.device}
        return torch.rand(*shape, self.family.actions, **options)

    def begin(self, tasks: Tasks) -> Memory:
        """See `Agent.begin`; nothing was seen."""
        tables = torch.zeros_like(tasks["rewards"])
        values = tables.unsqueeze(1).expand(-1, self.family.horizon, -1, -1)
        seen = torch.zeros_like(tasks["transitions"])
        return Memory(values, seen, tables, tables, tables[:, :, 0], 0)

    def act(self, state: Memory, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """See `Agent.act`."""
        memory = self._taught(state, agent_input)
        behind = memory.step % self.family.horizon
        if behind == 0:
            memory = memory._replace(values=self.plan(memory))
        values = torch.einsum("ws,wsa->wa", agent_input.observation, memory.values[:, behind])
        best = values >= values.amax(1, keepdim=True)
        action = torch.where(best, noise, -1.0).argmax(1)
        memory = memory._replace(state=agent_input.observation, step=memory.step + 1)
        return AgentStep(action, memory, None)

    def _taught(self, memory: Memory, agent_input: AgentInput) -> Memory:
        """Takes up what the last action gave; what it led to is not seen at the end of episodes."""
        action = F.one_hot(agent_input.action, self.family.actions) * agent_input.begun.unsqueeze(1)
        taken = torch.einsum("ws,wa->wsa", memory.state, action)
        led_to = agent_input.observation * (1 - agent_input.ended).unsqueeze(1)
        return memory._replace(
            seen=memory.seen + torch.einsum("wsa,wn->wsan", taken, led_to),
            tried=memory.tried + taken,
            paid=memory.paid + taken * agent_input.reward.view(-1, 1, 1),
        )


class RandomPlayer(TableStrategy):
    """Takes any action."""

    def plan(self, memory: Memory) -> Tensor:
        """See `TableStrategy.plan`: all are worth the same."""
        return memory.values


class Greedy(TableStrategy):
    """Plans by the posterior means of rewards and transitions, whose priors it knows."""

    def plan(self, memory: Memory) -> Tensor:
        """See `TableStrategy.plan`; priors N(1, 1), with rewards of variance 1, and Dir(1)."""
        counts = memory.seen + 1
        rewards = (memory.paid + 1) / (memory.tried + 1)
        return best_values(counts / counts.sum(3, keepdim=True), rewards, self.family.horizon)


class Optimal(TableStrategy):
    """The oracle: it knows the MDP."""

    def begin(self, tasks: Tasks) -> Memory:
        """See `Agent.begin`; looks at the tasks."""
        values = best_values(tasks["transitions"], tasks["rewards"], self.family.horizon)
        return super().begin(tasks)._replace(values=values)

    def plan(self, memory: Memory) -> Tensor:
        """See `TableStrategy.plan`: there is nothing to change."""
        return memory.values


@dataclass(frozen=True)
class RandomPlayerAlgorithm(StrategyAlgorithm):
    """Any action, every time."""

    def agent(self, family: TaskFamily) -> RandomPlayer:
        """See `StrategyAlgorithm.agent`."""
        return RandomPlayer(_checked(family))


@dataclass(frozen=True)
class GreedyAlgorithm(StrategyAlgorithm):
    """The best actions by posterior means."""

    def agent(self, family: TaskFamily) -> Greedy:
        """See `StrategyAlgorithm.agent`."""
        return Greedy(_checked(family))


@dataclass(frozen=True)
class OptimalAlgorithm(StrategyAlgorithm):
    """The best actions, known beforehand."""

    def agent(self, family: TaskFamily) -> Optimal:
        """See `StrategyAlgorithm.agent`."""
        return Optimal(_checked(family))


def _checked(family: TaskFamily) -> TabularMDP:
    if not isinstance(family, TabularMDP):
        raise SettingsError(f"Expected a TabularMDP, got {family.name}.")
    return family
