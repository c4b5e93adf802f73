"""Recurrent policies: what they do depends on all that happened in the trial so far."""

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
    """What a recurrent policy keeps of each step of W worlds.

    Attributes:
        inputs: What went into the network, [W, I] float.
        behaviour: The distribution that the action was drawn from, [W, *].
    """

    inputs: Tensor
    behaviour: Distribution


class RecurrentPolicy(nn.Module):
    """A GRU from what a step shows and the step before gave to actions (Duan et al. 2016, 2.2).

    Its input is the observation, the last action, the last reward and a flag that tells the first
    step of every episode but the trial's first. Numbered actions are one-hot, and stand there once
    more times their reward: a product that the network would take long to find. The state starts
    from zeros with a trial. One set of weights serves all tasks, which go through it as one batch.

    Args:
        observation_space: What one world shows.
        action_space: What it takes.
        generator: Source of the initial weights.
        units: Width of the GRU's state, at least 1.
        embedding: Width of a layer of rectified units between the inputs and the GRU, which makes
            products of what goes in easy to find; 0 leaves it out, as the paper does.
        hidden: Widths of the layers between the state and the action.
        init_std: Initial standard deviation of continuous actions, in their units.

    Raises:
        SettingsError: A width is out of its range, or the spaces are none that a policy suits.
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
        # On the meta device first: torch would draw its weights from the global generator.
        gru = nn.GRU(embedding or size, units, device="meta")
        self.gru = gru.to_empty(device=generator.device)
        self._initialise(generator)
        self.value = Weights(
            torch.zeros(1, units, device=generator.device), torch.zeros(1, device=generator.device)
        )

    # Playing

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Agent.noise`: that of the distribution of actions."""
        return self.head.noise(shape, generator)

    def begin(self, tasks: Tasks) -> Tensor:
        """See `Agent.begin`; the state is [W, units]."""
        worlds = len(next(iter(tasks.values())))
        return self.value.weight.new_zeros(worlds, self.gru.hidden_size)

    def act(self, state: Tensor, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """See `Agent.act`; records `Remembered`."""
        inputs = self.encode(agent_input)
        state = torch.gru_cell(self._embedded(inputs), state, *self.gru.all_weights[0])
        behaviour = self.distribution(state)
        return AgentStep(behaviour.sample(noise), state, Remembered(inputs, behaviour))

    def encode(self, agent_input: AgentInput) -> Tensor:
        """Returns the network's inputs [W, I] for what is perceived."""
        action, reward = agent_input.action, agent_input.reward.unsqueeze(1)
        if self.num_actions:
            action = F.one_hot(action, self.num_actions) * agent_input.begun.unsqueeze(1)
            reward = torch.cat((reward, reward * action), 1)
        return torch.cat(
            (agent_input.observation, action, reward, agent_input.ended.unsqueeze(1)), 1
        )

    # Looking back

    def unroll(self, inputs: Tensor) -> Tensor:
        """Returns the states [T, N, L, units] over whole trials of inputs [T, N, L, I].

        The state at a step is that after its inputs: what its action comes from.
        """
        sequences = inputs.flatten(0, 1).transpose(0, 1).contiguous()
        states, _ = self.gru(self._embedded(sequences))
        return states.transpose(0, 1).unflatten(0, inputs.shape[:2])

    def distribution(self, states: Tensor) -> Distribution:
        """Returns the distributions over actions, all fields [*B, *], for states [*B, units]."""
        params = task_params(self.head, 1)
        distribution = self.head.distribution(params, states.unsqueeze(0))
        batch = states.shape[:-1]
        return map_tensors(lambda t: t.squeeze(0).expand(*batch, t.shape[-1]), distribution)

    def values(self, states: Tensor) -> Tensor:
        """Returns the values [*B] of states [*B, units], in units that the learner knows."""
        return F.linear(states, self.value.weight, self.value.bias).squeeze(-1)

    def _embedded(self, inputs: Tensor) -> Tensor:
        if self.embedding is None:
            return inputs
        return torch.relu(F.linear(inputs, self.embedding.weight, self.embedding.bias))

    def _initialise(self, generator: torch.Generator) -> None:
        """Orthogonal weights from state to state, gate by gate; normal ones from the inputs."""
        from_inputs, from_state, *biases = self.gru.all_weights[0]
        deviation = 1 / math.sqrt(self.gru.input_size)
        nn.init.normal_(from_inputs, std=deviation, generator=generator)
        with torch.no_grad():
            for gate in from_state.chunk(3):
                nn.init.orthogonal_(gate, generator=generator)
            for bias in biases:
                bias.zero_()
