"""The networks of recurrent policies that read the history of a trial, and their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Weights, task_params
from metarl.models.described import described
from metarl.registry import check_choice
from metarl.rl.policy_network import CNN, PolicyNetwork
from metarl.rl.trials.attention import Attention
from metarl.rl.trials.gru import GRU
from metarl.sim.arguments import with_task
from metarl.sim.spaces import is_image, observation_leaves

MemoryName = Literal["gru", "attention"]
MEMORIES = ("gru", "attention")
EMBEDDING = 64
"""Width of the layer after the convolutions of images, if none is given."""


class Memory(Protocol):
    """Interface of a network over the steps of a trial: a state comes in, and the next one out."""

    @property
    def width(self) -> int:
        """Width of the features, U."""
        ...

    def begin(self, worlds: int) -> Any:
        """Returns the state at the start of a trial, nested tensors [W, *]."""
        ...

    def step(self, inputs: Tensor, state: Any, reuse: bool = False) -> tuple[Tensor, Any]:
        """Returns the features [W, U] and the next state for inputs [W, I].

        With `reuse`, it may write into `state`, which is not to be used again.
        """
        ...

    def unroll(self, sequences: Tensor) -> Tensor:
        """Returns the features [L, B, U] of sequences [L, B, I]: those of L steps from `begin`."""
        ...


@described
@dataclass(frozen=True)
class MemorySettings:
    """The memory of a recurrent policy.

    Attributes:
        kind: "gru", or "attention": a causal transformer.
        layer_norm: Layer normalisation of the GRU's products.
        blocks: Blocks of the transformer.
        heads: Attention heads of each block; they divide the width.
        steps: Steps of the longest trial of the transformer.
    """

    kind: MemoryName = "gru"
    layer_norm: bool = False
    blocks: int = 2
    heads: int = 4
    steps: int = 1


class History(nn.Module):
    """Encodes the inputs of each step, and remembers them over a trial.

    Args:
        observations: The flat observation space, whose images pass through convolutions.
        size: Width of the inputs of a step, of which the observation comes first.
        generator: Random generator of the initial weights.
        units: Width of the memory.
        embedding: Width of a ReLU layer before it; 0 omits the layer.
        memory: The kind of memory.
        cnn: Channels of the convolutions.

    Attributes:
        gru: The GRU, or None.
        attention: The transformer, or None.
    """

    def __init__(
        self,
        observations: spaces.Box,
        size: int,
        generator: torch.Generator,
        units: int,
        embedding: int = 0,
        memory: MemorySettings | None = None,
        cnn: tuple[int, ...] = CNN,
    ) -> None:
        super().__init__()
        memory = memory or MemorySettings()
        check_choice("memory", memory.kind, MEMORIES)
        self.embedding = self.encoder = self.gru = self.attention = None
        if any(is_image(leaf.space) for leaf in observation_leaves(observations)):
            embedding = embedding or EMBEDDING
            rest = size - math.prod(observations.shape)
            self.encoder = PolicyNetwork(
                with_task(observations, rest), embedding, generator, (), cnn=cnn, output_scale=1.0
            )
        elif embedding:
            weight = torch.empty(embedding, size, device=generator.device)
            nn.init.normal_(weight, std=math.sqrt(2 / size), generator=generator)
            self.embedding = Weights(weight, torch.zeros(embedding, device=generator.device))
        if memory.kind == "gru":
            self.gru = GRU(embedding or size, units, generator, memory.layer_norm)
        else:
            self.attention = Attention(
                embedding or size, units, generator, memory.steps, memory.blocks, memory.heads
            )

    @property
    def memory(self) -> Memory:
        """The network over the steps."""
        memory = self.gru or self.attention
        assert memory is not None
        return memory

    def step(self, inputs: Tensor, state: Any, reuse: bool = False) -> tuple[Tensor, Any]:
        """Returns the features [W, U] and the next state for inputs [W, I]; see `Memory`."""
        return self.memory.step(self.embed(inputs), state, reuse)

    def unroll(self, inputs: Tensor) -> Tensor:
        """Returns the features [T, N, L, U] of trials with inputs [T, N, L, I]."""
        sequences = inputs.flatten(0, 1).transpose(0, 1).contiguous()
        features = self.memory.unroll(self.embed(sequences))
        return features.transpose(0, 1).unflatten(0, inputs.shape[:2])

    def embed(self, inputs: Tensor) -> Tensor:
        """Returns the inputs of the memory, [*, E], for those of steps, [*, I]."""
        if self.encoder is not None:
            rows = inputs.flatten(0, -2).unsqueeze(0)
            outputs = self.encoder(task_params(self.encoder, 1), rows)
            return torch.relu(outputs).view(*inputs.shape[:-1], -1)
        if self.embedding is None:
            return inputs
        return torch.relu(F.linear(inputs, self.embedding.weight, self.embedding.bias))


class ValueNetwork(nn.Module):
    """A value function with a separate history, which shares nothing with the policy.

    Args:
        history: Its network.
        generator: On the device of the tensors.
    """

    def __init__(self, history: History, generator: torch.Generator) -> None:
        super().__init__()
        self.history = history
        width, device = history.memory.width, generator.device
        self.value = Weights(torch.zeros(1, width, device=device), torch.zeros(1, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the normalised values [T, N, L] of trials with inputs [T, N, L, I]."""
        return F.linear(self.history.unroll(inputs), self.value.weight, self.value.bias).squeeze(-1)


def check_widths(units: int, embedding: int) -> None:
    """Checks the widths of a history.

    Raises:
        SettingsError: A width is out of range.
    """
    if units < 1 or embedding < 0:
        raise SettingsError(
            "Expected at least 1 recurrent unit and an embedding of at least 0, got "
            f"{units} and {embedding}."
        )
