"""Recurrent policies, which act on the whole history of a trial."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.base import Weights, task_params
from metarl.models.described import described
from metarl.rl.distributions import Distribution
from metarl.rl.joint_policy import ActionPart, action_parts
from metarl.rl.policies import flat_spaces, policy_for
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.attention import Attention
from metarl.rl.trials.gru import GRU
from metarl.rl.trials.history import History, MemorySettings, ValueNetwork, check_widths
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.units import units_for
from metarl.sim.family import Tasks
from metarl.trees import map_tensors

HISTORY = "history."
PARTS = ("embedding.", "encoder.", "gru.")
"""Parts of a history, whose weights had no prefix in checkpoints before the attention."""


class Remembered(NamedTuple):
    """The data that a recurrent policy records of each step of W worlds.

    Attributes:
        inputs: Inputs of the network, [W, I] float.
        behaviour: The distribution that the action was sampled from, [W, *].
        observation: The observation in the environment's units, [W, O], if the policy has running
            statistics; else None.
        values: The normalised values at the step, [W]; None with a separate value network.
    """

    inputs: Tensor
    behaviour: Distribution
    observation: Tensor | None = None
    values: Tensor | None = None


@described
class RecurrentPolicy(nn.Module):
    """The policy of RL^2: a memory over the steps of a trial (Duan et al. 2016, sec. 2.2).

    The input of a step is [o_t, a_{t-1}, r_{t-1}, d_{t-1}]: the observation, the previous action,
    the previous reward, and a flag that is 1 at the first step of every episode except the trial's
    first. Discrete actions are one-hot encoded; for them the input also contains the product
    r_{t-1} a_{t-1}, because networks learn it slowly. The memory is a GRU, whose state is zero at
    the start of a trial, or a causal transformer, which starts with an empty cache. All tasks share
    one set of weights and are processed as one batch.

    Args:
        observation_space: Observation space of one world.
        action_space: Action space of one world.
        generator: Random generator of the initial weights.
        units: Width of the memory, at least 1.
        embedding: Width of a ReLU layer between the inputs and the memory, which makes products of
            the inputs easier to learn. 0 omits the layer, as in the paper.
        hidden: Widths of the hidden layers between the memory and the action.
        init_std: Initial standard deviation of continuous actions, in the policy's units.
        options: Convolutions of images, the activation and layer norm of the layers between the
            memory and the action, and the units; None leaves the units as they are.
        memory: The kind of memory; None: a GRU.
        separate_values: Whether the values have a network of their own, of the same kind; else they
            are linear in the policy's features.

    Raises:
        SettingsError: A width is out of range, or no policy supports the spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        generator: torch.Generator,
        units: int = 64,
        embedding: int = 0,
        hidden: tuple[int, ...] = (),
        init_std: float = 1.0,
        options: PolicySettings | None = None,
        memory: MemorySettings | None = None,
        separate_values: bool = False,
    ) -> None:
        super().__init__()
        check_widths(units, embedding)
        options = options or PolicySettings(scale_actions=False, normalize_observations=False)
        observations, actions = flat_spaces(observation_space, action_space)
        features = spaces.Box(-1.0, 1.0, (units,), np.float32)
        self.head = policy_for(
            (features, actions), generator, hidden, options.activation, init_std,
            layer_norm=options.layer_norm, scale_actions=False, normalize_observations=False,
        )  # fmt: skip
        own = bool(options.normalize_observations)
        self.units = units_for(
            observations, actions, scale_actions=bool(options.scale_actions),
            normalize_observations=own, scale_rewards=own,
        )  # fmt: skip
        self.observation_size = math.prod(observations.shape)
        self.num_actions = int(actions.n) if isinstance(actions, spaces.Discrete) else 0
        self.parts = None if self.num_actions else _mixed_parts(actions)
        action_size = self.num_actions or _encoded_size(actions, self.parts)
        size = self.observation_size + action_size + self.num_actions + 2
        histories = [
            History(observations, size, generator, units, embedding, memory, options.cnn)
            for _ in range(2 if separate_values else 1)
        ]
        self.history = histories[0]
        if self.units is not None:
            self.units.to(generator.device)
        device = generator.device
        self.value = self.critic = None
        if separate_values:
            self.critic = ValueNetwork(histories[1], generator)
        else:
            self.value = Weights(
                torch.zeros(1, units, device=device), torch.zeros(1, device=device)
            )
        self.register_load_state_dict_pre_hook(_adapt_old_names)

    @property
    def gru(self) -> GRU | None:
        """The GRU; None with another memory."""
        return self.history.gru

    @property
    def attention(self) -> Attention | None:
        """The transformer; None with another memory."""
        return self.history.attention

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
        features, state = self.history.step(inputs, state, reuse=not torch.is_grad_enabled())
        behaviour = self.distribution(features)
        keeps = self.units is not None and self.units.learns
        record = Remembered(
            inputs,
            behaviour,
            agent_input.observation if keeps else None,
            self.values(features) if self.critic is None else None,
        )
        return AgentStep(behaviour.sample(noise), state, record)

    def encode(self, agent_input: AgentInput) -> Tensor:
        """Returns the network's inputs [o_t, a_{t-1}, r_{t-1}, d_{t-1}], [W, I] float."""
        observation, action, reward = agent_input[:3]
        if self.units is not None:
            observation, reward = self.units.observe(observation), self.units.reward(reward)
        reward = reward.unsqueeze(1)
        if self.parts is not None:
            action = _encoded(action, self.parts) * agent_input.begun.unsqueeze(1)
        if self.num_actions:
            action = F.one_hot(action, self.num_actions) * agent_input.begun.unsqueeze(1)
            reward = torch.cat((reward, reward * action), 1)
        return torch.cat((observation, action, reward, agent_input.ended.unsqueeze(1)), 1)

    # Training

    def unroll(self, inputs: Tensor) -> Tensor:
        """Runs the memory over whole trials.

        Args:
            inputs: The inputs of each step, [T, N, L, I] float.

        Returns:
            The features after the inputs of each step, from which its action is computed,
            [T, N, L, units].
        """
        return self.history.unroll(inputs)

    def distribution(self, features: Tensor) -> Distribution:
        """Returns the action distributions, with fields [*B, *], for features [*B, units]."""
        params = task_params(self.head, 1)
        distribution = self.head.distribution(params, features.unsqueeze(0))
        batch = features.shape[:-1]
        return map_tensors(lambda t: t.squeeze(0).expand(*batch, t.shape[-1]), distribution)

    def values(self, features: Tensor) -> Tensor:
        """Returns the normalised values [*B] of features [*B, units], unless they are separate.

        The learner rescales them with its `value_mean` and `value_std`.
        """
        assert self.value is not None, "the values have a network of their own"
        return F.linear(features, self.value.weight, self.value.bias).squeeze(-1)

    def predicted(self, inputs: Tensor, features: Tensor) -> Tensor:
        """Returns the normalised values of trials, [T, N, L].

        Args:
            inputs: The inputs of each step, [T, N, L, I], which a separate value network reads.
            features: What `unroll` returns for them, [T, N, L, units].
        """
        return self.values(features) if self.critic is None else self.critic(inputs)


def _adapt_old_names(
    policy: RecurrentPolicy, weights: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Renames the weights of earlier checkpoints, whose history had no name; see `PARTS`."""
    del policy
    for name in [n for n in weights if n.startswith(tuple(prefix + part for part in PARTS))]:
        weights[prefix + HISTORY + name.removeprefix(prefix)] = weights.pop(name)


def _mixed_parts(space: spaces.Space[Any]) -> tuple[ActionPart, ...] | None:
    """Returns the parts of an action with discrete entries; None if all are continuous."""
    parts = tuple(action_parts(space))
    return None if all(part.kind == "gaussian" for part in parts) else parts


def _encoded_size(space: spaces.Space[Any], parts: tuple[ActionPart, ...] | None) -> int:
    if parts is None:
        return math.prod(space.shape or ())
    return sum(part.size for part in parts)


def _encoded(actions: Tensor, parts: tuple[ActionPart, ...]) -> Tensor:
    """Returns flat actions [W, A] with each choice one-hot."""
    columns, start = [], 0
    for part in parts:
        own = actions[:, start : start + part.width]
        start += part.width
        choice = part.kind == "categorical"
        columns.append(F.one_hot(own.long().squeeze(1), part.size).to(own) if choice else own)
    return torch.cat(columns, 1)
