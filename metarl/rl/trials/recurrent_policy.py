"""Recurrent policies, which act on the whole history of a trial."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Weights, task_params
from metarl.models.described import described
from metarl.rl.distributions import Distribution
from metarl.rl.joint_policy import ActionPart, action_parts
from metarl.rl.policies import flat_spaces, policy_for
from metarl.rl.policy_network import PolicyNetwork
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.rl.units import units_for
from metarl.sim.arguments import with_task
from metarl.sim.family import Tasks
from metarl.sim.spaces import is_image, observation_leaves
from metarl.trees import map_tensors

EMBEDDING = 64
"""Width of the layer after the convolutions of images, if none is given."""


class Remembered(NamedTuple):
    """The data that a recurrent policy records of each step of W worlds.

    Attributes:
        inputs: Inputs of the network, [W, I] float.
        behaviour: The distribution that the action was sampled from, [W, *].
        observation: The observation in the environment's units, [W, O], if the policy has running
            statistics; else None.
    """

    inputs: Tensor
    behaviour: Distribution
    observation: Tensor | None = None


@described
class RecurrentPolicy(nn.Module):
    """The recurrent policy of RL^2: a GRU over the steps of a trial (Duan et al. 2016, sec. 2.2).

    The input of a step is [o_t, a_{t-1}, r_{t-1}, d_{t-1}]: the observation, the previous action,
    the previous reward, and a flag that is 1 at the first step of every episode except the trial's
    first. Discrete actions are one-hot encoded; for them the input also contains the product
    r_{t-1} a_{t-1}, because networks learn it slowly. The GRU's state is zero at the start of a
    trial. All tasks share one set of weights and are processed as one batch.

    Args:
        observation_space: Observation space of one world.
        action_space: Action space of one world.
        generator: Random generator of the initial weights.
        units: Width of the GRU's state, at least 1.
        embedding: Width of a ReLU layer between the inputs and the GRU, which makes products of the
            inputs easier to learn. 0 omits the layer, as in the paper.
        hidden: Widths of the hidden layers between the GRU's state and the action.
        init_std: Initial standard deviation of continuous actions, in the policy's units.
        options: Convolutions of images, the activation and layer norm of the layers between the
            state and the action, and the units; None leaves the units as they are.

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
    ) -> None:
        super().__init__()
        if units < 1 or embedding < 0:
            raise SettingsError(
                "Expected at least 1 recurrent unit and an embedding of at least 0, got "
                f"{units} and {embedding}."
            )
        options = options or PolicySettings(scale_actions=False, normalize_observations=False)
        observations, actions = flat_spaces(observation_space, action_space)
        memory = spaces.Box(-1.0, 1.0, (units,), np.float32)
        self.head = policy_for(
            (memory, actions), generator, hidden, options.activation, init_std,
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
        size = math.prod(observations.shape) + action_size + self.num_actions + 2
        self.embedding = self.encoder = None
        if any(is_image(leaf.space) for leaf in observation_leaves(observations)):
            embedding = embedding or EMBEDDING
            rest = size - math.prod(observations.shape)
            self.encoder = PolicyNetwork(
                with_task(observations, rest), embedding, generator, (),
                cnn=options.cnn, output_scale=1.0,
            )  # fmt: skip
        elif embedding:
            weight = torch.empty(embedding, size, device=generator.device)
            nn.init.normal_(weight, std=math.sqrt(2 / size), generator=generator)
            self.embedding = Weights(weight, torch.zeros(embedding, device=generator.device))
        # Created on the meta device: nn.GRU draws initial weights from the global generator.
        gru = nn.GRU(embedding or size, units, device="meta")
        self.gru = gru.to_empty(device=generator.device)
        self._initialise(generator)
        if self.units is not None:
            self.units.to(generator.device)
        self.value = Weights(
            torch.zeros(1, units, device=generator.device), torch.zeros(1, device=generator.device)
        )

    # Playing

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws the random numbers of sampling actions of batch `shape`."""
        return self.head.noise(shape, generator)

    def begin(self, tasks: Tasks) -> Tensor:
        """Returns the zero state of the GRU, [W, units]."""
        worlds = len(next(iter(tasks.values())))
        return self.value.weight.new_zeros(worlds, self.gru.hidden_size)

    def act(self, state: Tensor, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """Samples the actions of all worlds; records `Remembered`."""
        inputs = self.encode(agent_input)
        # r = sigmoid(W_ir x + b_ir + W_hr h + b_hr);  z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        # n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h' = (1 - z) * n + z * h
        state = torch.gru_cell(self._embed(inputs), state, *self.gru.all_weights[0])
        behaviour = self.distribution(state)
        keeps = self.units is not None and self.units.learns
        record = Remembered(inputs, behaviour, agent_input.observation if keeps else None)
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
        """Runs the GRU over whole trials.

        Args:
            inputs: The inputs of each step, [T, N, L, I] float.

        Returns:
            The state after the inputs of each step, from which its action is computed,
            [T, N, L, units].
        """
        sequences = inputs.flatten(0, 1).transpose(0, 1).contiguous()
        states, _ = self.gru(self._embed(sequences))
        return states.transpose(0, 1).unflatten(0, inputs.shape[:2])

    def distribution(self, states: Tensor) -> Distribution:
        """Returns the action distributions, with fields [*B, *], for states [*B, units]."""
        params = task_params(self.head, 1)
        distribution = self.head.distribution(params, states.unsqueeze(0))
        batch = states.shape[:-1]
        return map_tensors(lambda t: t.squeeze(0).expand(*batch, t.shape[-1]), distribution)

    def values(self, states: Tensor) -> Tensor:
        """Returns the normalised values [*B] of states [*B, units].

        The learner rescales them with its `value_mean` and `value_std`.
        """
        return F.linear(states, self.value.weight, self.value.bias).squeeze(-1)

    def _embed(self, inputs: Tensor) -> Tensor:
        if self.encoder is not None:
            rows = inputs.flatten(0, -2).unsqueeze(0)
            outputs = self.encoder(task_params(self.encoder, 1), rows)
            return torch.relu(outputs).view(*inputs.shape[:-1], -1)
        if self.embedding is None:
            return inputs
        return torch.relu(F.linear(inputs, self.embedding.weight, self.embedding.bias))

    def _initialise(self, generator: torch.Generator) -> None:
        """Draws orthogonal recurrent weights for each gate and normal input weights."""
        from_inputs, from_state, *biases = self.gru.all_weights[0]
        deviation = 1 / math.sqrt(self.gru.input_size)
        nn.init.normal_(from_inputs, std=deviation, generator=generator)
        with torch.no_grad():
            for gate in from_state.chunk(3):
                nn.init.orthogonal_(gate, generator=generator)
            for bias in biases:
                bias.zero_()


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
