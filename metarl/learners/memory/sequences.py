"""Networks that read sequences: with an external memory, with an LSTM's own, and with none.

All sequences are one batch. What a step computes from its input alone is computed for all steps
at once (`encode`); what depends on the step before, step by step (`step`).
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


class SequenceNetwork(nn.Module, ABC):
    """Interface of a network that reads B sequences, a step at a time.

    Attributes:
        longest: Steps that it can take in a sequence; None: any number.
    """

    longest: int | None = None

    @abstractmethod
    def encode(self, inputs: Tensor) -> Tensor:
        """Maps the inputs of any steps, [*, inputs], to what `step` takes, [*, E]."""

    @abstractmethod
    def start(self, count: int, like: Tensor) -> Any:
        """Returns the state before the first step of so many sequences, of `like`'s type.

        A nesting of tensors that all have the sequences leading.
        """

    @abstractmethod
    def step(self, encoded: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Takes a step.

        Args:
            encoded: What `encode` gave for it, [B, E].
            state: The state before, which stays as it is.

        Returns:
            Outputs [B, outputs] and the state after.
        """

    def run(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Reads whole sequences.

        Args:
            inputs: Shape [B, N, inputs].
            state: Where to go on from; None: the start.

        Returns:
            Outputs [B, N, outputs] and the state at the end.

        Raises:
            TaskError: They are longer than `longest`.
        """
        self.check_length(inputs.shape[1])
        state = self.start(len(inputs), inputs) if state is None else state
        outputs = []
        for encoded in self.encode(inputs).unbind(1):
            output, state = self.step(encoded, state)
            outputs.append(output)
        return torch.stack(outputs, dim=1), state

    def check_length(self, steps: int) -> None:
        """Raises TaskError if a sequence of so many steps is longer than `longest`."""
        if self.longest is not None and steps > self.longest:
            raise TaskError(
                f"Expected a sequence of at most {self.longest} steps, a row of the memory for "
                f"each, got {steps}. Use fewer classes or shots, or a memory of more slots."
            )


class Feedforward(SequenceNetwork):
    """A layer of ReLUs and an affine one, without a memory of earlier steps: the baseline.

    Args:
        inputs: Numbers that come in at a step.
        outputs: Numbers that come out.
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
        """See `SequenceNetwork.encode`."""
        return self.hidden(inputs)

    def start(self, count: int, like: Tensor) -> tuple[()]:
        """See `SequenceNetwork.start`: nothing."""
        del count, like
        return ()

    def step(self, encoded: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """See `SequenceNetwork.step`."""
        return self.output(torch.relu(encoded)), state


class LSTMState(NamedTuple):
    """Hidden and cell state, each [B, units]."""

    hidden: Tensor
    cell: Tensor


class Recurrent(SequenceNetwork):
    """An LSTM and an affine layer.

    Args:
        inputs: Numbers that come in at a step.
        outputs: Numbers that come out.
        generator: Source of the initial weights.
        units: Width of the LSTM.
    """

    def __init__(
        self, inputs: int, outputs: int, generator: torch.Generator, units: int = 200
    ) -> None:
        super().__init__()
        _check_positive(inputs=inputs, outputs=outputs, units=units)
        self.input = _gates(inputs, units, generator)
        self.recurrent = _recurrent(units, units, generator)
        self.output = dense(units, outputs, generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """See `SequenceNetwork.encode`: the inputs' part of the gates."""
        return self.input(inputs)

    def start(self, count: int, like: Tensor) -> LSTMState:
        """See `SequenceNetwork.start`: zero."""
        return _rest(count, self.recurrent, like)

    def step(self, encoded: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """See `SequenceNetwork.step`."""
        state = _lstm(torch.addmm(encoded, state.hidden, self.recurrent.mT), state.cell)
        return self.output(state.hidden), state


class MemoryState(NamedTuple):
    """Controller, memory and what was read, [B, R * W]."""

    controller: LSTMState
    memory: Memory
    reads: Tensor


class MemoryAugmented(SequenceNetwork):
    """A memory-augmented neural network (Santoro et al. 2016) with an LSTM as its controller.

    The controller sees the input and what was read a step ago. From its hidden state h_t come,
    for every head, a key (by tanh) and a gate (by a sigmoid). The output is an affine function of
    [h_t, r_t]. See `metarl.learners.memory.external_memory`.

    Args:
        inputs: Numbers that come in at a step.
        outputs: Numbers that come out.
        generator: Source of the initial weights.
        units: Width of the controller.
        slots: Rows of the memory.
        width: Numbers in a row.
        reads: Heads.
        decay: Of the usage, in [0, 1].
        strength: What the controller multiplies the cosines of a head by at first, above 1; it
            learns to sharpen reads with it, as in Graves et al. 2014. None: by 1 always, as in the
            paper, where all that is read is close to the mean of all rows.

    Raises:
        SettingsError: A number is not positive, there are fewer rows than heads, the decay is
            outside [0, 1] or the strength not above 1.
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
        self.input = _gates(inputs, units, generator)
        self.recurrent = _recurrent(units + read, units, generator)
        self.heads = dense(units, read + reads * (2 if self.sharpens else 1), generator)
        if strength is not None:
            with torch.no_grad():  # softplus of which is strength - 1
                self.heads.bias[-reads:] = strength - 1 + math.log(-math.expm1(1 - strength))
        self.output = dense(units + read, outputs, generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """See `SequenceNetwork.encode`: the inputs' part of the gates."""
        return self.input(inputs)

    def start(self, count: int, like: Tensor) -> MemoryState:
        """See `SequenceNetwork.start`: an empty memory."""
        slots, width, reads = self.shape
        memory = external.blank(count, slots, width, reads, like)
        return MemoryState(
            _rest(count, self.recurrent, like), memory, like.new_zeros(count, reads * width)
        )

    def step(self, encoded: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """See `SequenceNetwork.step`."""
        before = torch.cat((state.controller.hidden, state.reads), dim=1)
        controller = _lstm(torch.addmm(encoded, before, self.recurrent.mT), state.controller.cell)
        keys, gates, strengths = self._address(controller.hidden)
        memory = external.write(state.memory, keys, gates, self.decay)
        memory, vectors = external.read(memory, keys, strengths)
        reads = vectors.flatten(1)
        outputs = self.output(torch.cat((controller.hidden, reads), dim=1))
        return outputs, MemoryState(controller, memory, reads)

    def _address(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the keys [B, R, W], gates [B, R] and strengths [B, R] of the heads."""
        _, width, reads = self.shape
        keys, rest = self.heads(hidden).split(
            (reads * width, self.heads.out_features - reads * width), 1
        )
        keys = keys.tanh().unflatten(1, (reads, width))
        gates = rest[:, :reads].sigmoid()
        return keys, gates, 1 + F.softplus(rest[:, reads:]) if self.sharpens else None


def _lstm(gates: Tensor, cell: Tensor) -> LSTMState:
    """Takes a step of an LSTM, given its gates (input, forget, cell, output) [B, 4 units]."""
    i, f, g, o = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return LSTMState(o.sigmoid() * cell.tanh(), cell)


def _gates(inputs: int, units: int, generator: torch.Generator) -> nn.Linear:
    """Returns the inputs' part of the gates; the forget gate starts open, at a bias of 1."""
    layer = dense(inputs, 4 * units, generator)
    with torch.no_grad():
        layer.bias[units : 2 * units] = 1
    return layer


def _recurrent(inputs: int, units: int, generator: torch.Generator) -> nn.Parameter:
    """Returns the weights [4 units, inputs] of what comes from the step before."""
    weight = torch.empty(4 * units, inputs, device=generator.device)
    bound = 1 / math.sqrt(units)  # torch's own
    return nn.Parameter(weight.uniform_(-bound, bound, generator=generator))


def _rest(count: int, recurrent: Tensor, like: Tensor) -> LSTMState:
    zero = like.new_zeros(count, recurrent.shape[0] // 4)
    return LSTMState(zero, zero)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise SettingsError(f"Expected `{name}` to be at least 1, got {number}.")
