"""The interface of policies that act on the whole history of a trial."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.base import task_params
from metarl.rl.distributions import Distribution, Gaussian
from metarl.rl.joint_policy import ActionPart, action_parts
from metarl.rl.policies import flat_spaces
from metarl.rl.policy import Policy
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.attention import Attention
from metarl.rl.trials.gru import GRU
from metarl.rl.trials.history import History, ValueNetwork
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.units import units_for
from metarl.sim.family import Tasks
from metarl.trees import map_tensors


class Remembered(NamedTuple):
    """The data that a policy with a history records of each step of W worlds.

    Attributes:
        inputs: Inputs of the network, [W, I] float.
        behaviour: The distribution that the action was sampled from, [W, *].
        observation: The observation in the environment's units, [W, O], if the policy has running
            statistics; else None.
        values: The normalised values at the step, [W]; None with a separate value network.
        belief: The posterior of the task's latent at the step, [W, K]; None if it has none.
    """

    inputs: Tensor
    behaviour: Distribution
    observation: Tensor | None = None
    values: Tensor | None = None
    belief: Gaussian | None = None


class TrialPolicy(nn.Module, ABC):
    """Interface of policies that act on the whole history of a trial.

    The input of a step is [o_t, a_{t-1}, r_{t-1}, d_{t-1}]: the observation, the previous action,
    the previous reward, and a flag that is 1 at the first step of every episode except the trial's
    first. Discrete actions are one-hot encoded; for them the input also contains the product
    r_{t-1} a_{t-1}, because networks learn it slowly. A memory reads these inputs and gives the
    features of each step, from which the action and the value are computed. All tasks share one set
    of weights and are processed as one batch.

    Args:
        observation_space: Observation space of one world.
        action_space: Action space of one world.
        options: The units of observations and actions.

    Attributes:
        observations: The flat observation space.
        actions: The flat action space.
        units: The maps between the policy's units and the environment's; None: they are the same.
        action_size: Width of an encoded action.
        input_size: Width of the inputs of a step, I.
        head: Computes the action from the features.
        history: The memory.
        critic: A value network with a separate memory; None: `values` reads the features.

    Raises:
        SettingsError: No policy supports the spaces.
    """

    head: Policy
    history: History
    critic: ValueNetwork | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        options: PolicySettings,
    ) -> None:
        super().__init__()
        self.observations, self.actions = flat_spaces(observation_space, action_space)
        own = bool(options.normalize_observations)
        self.units = units_for(
            self.observations, self.actions, scale_actions=bool(options.scale_actions),
            normalize_observations=own, scale_rewards=own,
        )  # fmt: skip
        self.observation_size = math.prod(self.observations.shape)
        self.num_actions = int(self.actions.n) if isinstance(self.actions, spaces.Discrete) else 0
        self.parts = None if self.num_actions else _mixed_parts(self.actions)
        self.action_size = self.num_actions or _encoded_size(self.actions, self.parts)
        self.input_size = self.observation_size + self.action_size + self.num_actions + 2

    @property
    def gru(self) -> GRU | None:
        """The GRU; None with another memory."""
        return self.history.gru

    @property
    def attention(self) -> Attention | None:
        """The transformer; None with another memory."""
        return self.history.attention

    # What a policy defines

    @abstractmethod
    def features(self, inputs: Tensor, remembered: Tensor) -> Tensor:
        """Returns what actions and values are computed from, [*, F].

        Args:
            inputs: The inputs of each step, [*, I] float.
            remembered: The outputs of the memory after them, [*, units].
        """

    @abstractmethod
    def values(self, features: Tensor) -> Tensor:
        """Returns the normalised values [*B] of features [*B, F], unless they are separate.

        The learner rescales them with its `value_mean` and `value_std`.
        """

    def belief(self, remembered: Tensor) -> Gaussian | None:
        """Returns the posterior of the task's latent, [*, K]; None without a latent.

        Args:
            remembered: The outputs of the memory, [*, units].
        """
        del remembered
        return None

    # Playing

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws the random numbers of sampling actions of batch `shape`."""
        return self.head.noise(shape, generator)

    def begin(self, tasks: Tasks) -> Any:
        """Returns the state at the start of a trial; of a GRU it is zero, [W, units]."""
        return self.history.memory.begin(len(next(iter(tasks.values()))))

    def act(self, state: Any, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """Samples the actions of all worlds; records `Remembered`.

        It may write into `state`, which is not to be used again.
        """
        inputs = self.encode(agent_input)
        remembered, state = self.history.step(inputs, state, reuse=not torch.is_grad_enabled())
        features = self.features(inputs, remembered)
        behaviour = self.distribution(features)
        keeps = self.units is not None and self.units.learns
        record = Remembered(
            inputs,
            behaviour,
            agent_input.observation if keeps else None,
            self.values(features) if self.critic is None else None,
            self.belief(remembered),
        )
        return AgentStep(behaviour.sample(noise), state, record)

    def encode(self, agent_input: AgentInput) -> Tensor:
        """Returns the network's inputs [o_t, a_{t-1}, r_{t-1}, d_{t-1}], [W, I] float."""
        observation, action, reward = agent_input[:3]
        if self.units is not None:
            observation, reward = self.units.observe(observation), self.units.reward(reward)
        reward = reward.unsqueeze(1)
        if self.parts is not None or self.num_actions:
            action = self.encode_actions(action) * agent_input.begun.unsqueeze(1)
        if self.num_actions:
            reward = torch.cat((reward, reward * action), 1)
        return torch.cat((observation, action, reward, agent_input.ended.unsqueeze(1)), 1)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Returns actions [*, A], or [*] int64, with each choice one-hot, [*, action_size]."""
        if self.num_actions:
            return F.one_hot(actions, self.num_actions)
        return actions if self.parts is None else _encoded(actions, self.parts)

    # Training

    def unroll(self, inputs: Tensor) -> Tensor:
        """Runs the memory over whole trials.

        Args:
            inputs: The inputs of each step, [T, N, L, I] float.

        Returns:
            The features after the inputs of each step, from which its action is computed,
            [T, N, L, F].
        """
        return self.features(inputs, self.history.unroll(inputs))

    def distribution(self, features: Tensor) -> Distribution:
        """Returns the action distributions, with fields [*B, *], for features [*B, F]."""
        params = task_params(self.head, 1)
        distribution = self.head.distribution(params, features.unsqueeze(0))
        batch = features.shape[:-1]
        return map_tensors(lambda t: t.squeeze(0).expand(*batch, t.shape[-1]), distribution)

    def predicted(self, inputs: Tensor, features: Tensor) -> Tensor:
        """Returns the normalised values of trials, [T, N, L].

        Args:
            inputs: The inputs of each step, [T, N, L, I], which a separate value network reads.
            features: What `unroll` returns for them, [T, N, L, F].
        """
        return self.values(features) if self.critic is None else self.critic(inputs)


def _mixed_parts(space: spaces.Space[Any]) -> tuple[ActionPart, ...] | None:
    """Returns the parts of an action with discrete entries; None if all are continuous."""
    parts = tuple(action_parts(space))
    return None if all(part.kind == "gaussian" for part in parts) else parts


def _encoded_size(space: spaces.Space[Any], parts: tuple[ActionPart, ...] | None) -> int:
    if parts is None:
        return math.prod(space.shape or ())
    return sum(part.size for part in parts)


def _encoded(actions: Tensor, parts: tuple[ActionPart, ...]) -> Tensor:
    """Returns flat actions [*, A] with each choice one-hot."""
    columns, start = [], 0
    for part in parts:
        own = actions[..., start : start + part.width]
        start += part.width
        choice = part.kind == "categorical"
        columns.append(F.one_hot(own.long().squeeze(-1), part.size).to(own) if choice else own)
    return torch.cat(columns, -1)
