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
from metarl.rl.distributions import Distribution
from metarl.rl.policies import policy_for
from metarl.rl.trials.play import AgentInput, AgentStep
from metarl.sim.family import Tasks
from metarl.trees import map_tensors


class Remembered(NamedTuple):
    """The data that a recurrent policy records of each step of W worlds.

    Attributes:
        inputs: Inputs of the network, [W, I] float.
        behaviour: The distribution that the action was sampled from, [W, *].
    """

    inputs: Tensor
    behaviour: Distribution


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
        init_std: Initial standard deviation of continuous actions, in their units.

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
    ) -> None:
        super().__init__()
        if units < 1 or embedding < 0:
            raise SettingsError(
                "Expected at least 1 recurrent unit and an embedding of at least 0, got "
                f"{units} and {embedding}."
            )
        policy_for((observation_space, action_space), torch.Generator(), ())  # checks the spaces
        memory = spaces.Box(-1.0, 1.0, (units,), np.float32)
        self.head = policy_for((memory, action_space), generator, hidden, init_std=init_std)
        self.num_actions = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 0
        action_size = self.num_actions or math.prod(action_space.shape or ())
        size = math.prod(observation_space.shape or ()) + action_size + self.num_actions + 2
        self.embedding = None
        if embedding:
            weight = torch.empty(embedding, size, device=generator.device)
            nn.init.normal_(weight, std=math.sqrt(2 / size), generator=generator)
            self.embedding = Weights(weight, torch.zeros(embedding, device=generator.device))
        # Created on the meta device: nn.GRU draws initial weights from the global generator.
        gru = nn.GRU(embedding or size, units, device="meta")
        self.gru = gru.to_empty(device=generator.device)
        self._initialise(generator)
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
        return AgentStep(behaviour.sample(noise), state, Remembered(inputs, behaviour))

    def encode(self, agent_input: AgentInput) -> Tensor:
        """Returns the network's inputs [o_t, a_{t-1}, r_{t-1}, d_{t-1}], [W, I] float."""
        action, reward = agent_input.action, agent_input.reward.unsqueeze(1)
        if self.num_actions:
            action = F.one_hot(action, self.num_actions) * agent_input.begun.unsqueeze(1)
            reward = torch.cat((reward, reward * action), 1)
        return torch.cat(
            (agent_input.observation, action, reward, agent_input.ended.unsqueeze(1)), 1
        )

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
