"""Networks that read sequences: memory-augmented, LSTM, and feedforward without memory.

All sequences form one batch. `encode` computes the terms that depend on the inputs alone, for all
steps at once; `step` computes the recurrence, step by step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError, TaskError
from metarl.learners.images.layers import dense
from metarl.learners.memory import external_memory as external
from metarl.learners.memory.external_memory import Memory
from metarl.models.described import described
from metarl.models.functional import lstm_step


class SequenceNetwork(nn.Module, ABC):
    """Interface of a network that reads B sequences step by step.

    Attributes:
        longest: Maximum number of steps in a sequence; None: no limit.
    """

    longest: int | None = None

    @abstractmethod
    def encode(self, inputs: Tensor) -> Tensor:
        """Computes the terms of `step` that depend on the inputs alone.

        Args:
            inputs: Inputs of any number of steps, [*, inputs].

        Returns:
            Shape [*, E].
        """

    @abstractmethod
    def start(self, count: int, like: Tensor) -> Any:
        """Returns the initial state.

        Args:
            count: Number of sequences, B.
            like: A tensor with the dtype and device of the state.

        Returns:
            A nested structure of tensors [B, *].
        """

    @abstractmethod
    def step(self, encoded: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Computes one step.

        Args:
            encoded: The encoded inputs of the step, [B, E]; see `encode`.
            state: The state before the step, which is not modified.

        Returns:
            Outputs [B, outputs] and the state after the step.
        """

    def run(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Reads whole sequences.

        Args:
            inputs: Shape [B, N, inputs].
            state: The state before the first step; None: the initial state.

        Returns:
            Outputs [B, N, outputs] and the state after the last step.

        Raises:
            TaskError: The sequences are longer than `longest`.
        """
        self.check_length(inputs.shape[1])
        state = self.start(len(inputs), inputs) if state is None else state
        outputs = []
        for encoded in self.encode(inputs).unbind(1):
            output, state = self.step(encoded, state)
            outputs.append(output)
        return torch.stack(outputs, dim=1), state

    def check_length(self, steps: int) -> None:
        """Raises TaskError if `steps` exceeds `longest`."""
        if self.longest is not None and steps > self.longest:
            raise TaskError(
                f"Expected a sequence of at most {self.longest} steps, a row of the memory for "
                f"each, got {steps}. Use fewer classes or shots, or a memory of more slots."
            )


@described
class Feedforward(SequenceNetwork):
    """A baseline without memory of earlier steps: a hidden ReLU layer and an output layer.

    Args:
        inputs: Number of inputs per step.
        outputs: Number of outputs per step.
        generator: Source of the initial weights.
        units: Width of the hidden layer.
    """

    def __init__(
        self, inputs: int, outputs: int, generator: torch.Generator, units: int = 200
    ) -> None:
        super().__init__()
        _check_positive(inputs=inputs, outputs=outputs, units=units)
        self.hidden = dense(inputs, units, generator)
        self.output = dense(units, outputs, generator)

    def encode(self, inputs: Tensor) -> Tensor:
        return self.hidden(inputs)

    def start(self, count: int, like: Tensor) -> tuple[()]:
        """Returns an empty state."""
        del count, like
        return ()

    def step(self, encoded: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.output(torch.relu(encoded)), state


class LSTMState(NamedTuple):
    """Hidden and cell state, each [B, units]."""

    hidden: Tensor
    cell: Tensor


@described
class Recurrent(SequenceNetwork):
    """An LSTM and an output layer.

    Args:
        inputs: Number of inputs per step.
        outputs: Number of outputs per step.
        generator: Source of the initial weights.
        units: Width of the LSTM.
    """

    def __init__(
        self, inputs: int, outputs: int, generator: torch.Generator, units: int = 200
    ) -> None:
        super().__init__()
        _check_positive(inputs=inputs, outputs=outputs, units=units)
        self.input = _input_weights(inputs, units, generator)
        self.recurrent = _recurrent_weights(units, units, generator)
        self.output = dense(units, outputs, generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """Returns the input term of the gates, W_x x_t + b, [*, 4 units]."""
        return self.input(inputs)

    def start(self, count: int, like: Tensor) -> LSTMState:
        """Returns hidden and cell states of 0."""
        return _zero_state(count, self.recurrent, like)

    def step(self, encoded: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        # gates = W_x x_t + b + W_h h_{t-1}
        state = LSTMState(
            *lstm_step(torch.addmm(encoded, state.hidden, self.recurrent.mT), state.cell)
        )
        return self.output(state.hidden), state


class MemoryState(NamedTuple):
    """State of the controller, the memory, and the vectors r_t last read, [B, R * W]."""

    controller: LSTMState
    memory: Memory
    reads: Tensor


@described
class MemoryAugmented(SequenceNetwork):
    """A memory-augmented neural network (Santoro et al. 2016) with an LSTM controller.

    The inputs of the controller are the input of the step and the vectors r_{t-1} read in the
    previous step. Its hidden state h_t determines a key (by tanh) and a gate (by a sigmoid) for
    every head. The output is an affine function of [h_t, r_t]. The equations of the memory are in
    `metarl.learners.memory.external_memory`.

    Args:
        inputs: Number of inputs per step.
        outputs: Number of outputs per step.
        generator: Source of the initial weights.
        units: Width of the controller.
        slots: Number of rows of the memory.
        width: Numbers per row.
        reads: Number of heads.
        decay: Decay gamma of the usage, in [0, 1].
        strength: Initial key strength, above 1: a learned factor of the cosines that sharpens
            reads, as in Graves et al. 2014. None: a constant 1, as in the paper, with which every
            read is close to the mean of all rows.

    Raises:
        SettingsError: A number is not positive, there are fewer rows than heads, the decay is
            outside [0, 1], or the strength is not finite and above 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        units: int = 200,
        slots: int = 128,
        width: int = 40,
        reads: int = 4,
        decay: float = 0.99,
        strength: float | None = 10.0,
    ) -> None:
        super().__init__()
        _check_positive(inputs=inputs, outputs=outputs, units=units, width=width, reads=reads)
        if slots < reads or not 0 <= decay <= 1:
            raise SettingsError(
                f"Expected at least {reads} slots, one for each read, and a decay in [0, 1], got "
                f"{slots} and {decay}."
            )
        if strength is not None and not 1 < strength < math.inf:
            raise SettingsError(
                f"Expected a finite `strength` above 1, or None for 1 always, got {strength}."
            )
        self.longest = slots
        self.shape = (slots, width, reads)
        self.decay = decay
        self.sharpens = strength is not None
        read = reads * width
        self.input = _input_weights(inputs, units, generator)
        self.recurrent = _recurrent_weights(units + read, units, generator)
        self.heads = dense(units, read + reads * (2 if self.sharpens else 1), generator)
        if strength is not None:
            # beta = 1 + softplus(bias) = strength, with softplus^-1(y) = y + log(1 - e^-y)
            with torch.no_grad():
                self.heads.bias[-reads:] = strength - 1 + math.log(-math.expm1(1 - strength))
        self.output = dense(units + read, outputs, generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """Returns the input term of the gates, W_x x_t + b, [*, 4 units]."""
        return self.input(inputs)

    def start(self, count: int, like: Tensor) -> MemoryState:
        """Returns a controller state of 0, an empty memory and read vectors of 0."""
        slots, width, reads = self.shape
        memory = external.blank(count, slots, width, reads, like)
        return MemoryState(
            _zero_state(count, self.recurrent, like), memory, like.new_zeros(count, reads * width)
        )

    def step(self, encoded: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        # gates = W_x x_t + b + W_h [h_{t-1}, r_{t-1}]
        previous = torch.cat((state.controller.hidden, state.reads), dim=1)
        controller = LSTMState(
            *lstm_step(torch.addmm(encoded, previous, self.recurrent.mT), state.controller.cell)
        )
        keys, gates, strengths = self._head_parameters(controller.hidden)
        memory = external.write(state.memory, keys, gates, self.decay)
        memory, vectors = external.read(memory, keys, strengths)
        reads = vectors.flatten(1)
        outputs = self.output(torch.cat((controller.hidden, reads), dim=1))
        return outputs, MemoryState(controller, memory, reads)

    def _head_parameters(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the keys [B, R, W], gates [B, R] and strengths [B, R] of the heads."""
        _, width, reads = self.shape
        keys, rest = self.heads(hidden).split(
            (reads * width, self.heads.out_features - reads * width), 1
        )
        keys = keys.tanh().unflatten(1, (reads, width))
        gates = rest[:, :reads].sigmoid()  # sigma(alpha)  (Santoro et al. 2016, eq. 7)
        return keys, gates, 1 + F.softplus(rest[:, reads:]) if self.sharpens else None


def _input_weights(inputs: int, units: int, generator: torch.Generator) -> nn.Linear:
    """Returns the layer W_x x_t + b of the gates, with a bias of 1 for the forget gate."""
    layer = dense(inputs, 4 * units, generator)
    with torch.no_grad():
        layer.bias[units : 2 * units] = 1
    return layer


def _recurrent_weights(inputs: int, units: int, generator: torch.Generator) -> nn.Parameter:
    """Returns the weights W_h of the gates, [4 units, inputs]."""
    weight = torch.empty(4 * units, inputs, device=generator.device)
    bound = 1 / math.sqrt(units)  # PyTorch's default for LSTMs
    return nn.Parameter(weight.uniform_(-bound, bound, generator=generator))


def _zero_state(count: int, recurrent: Tensor, like: Tensor) -> LSTMState:
    zero = like.new_zeros(count, recurrent.shape[0] // 4)
    return LSTMState(zero, zero)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise SettingsError(f"Expected `{name}` to be at least 1, got {number}.")
