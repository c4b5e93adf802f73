"""Options of the networks that read sequences: frozen dataclasses that build them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch

from metarl.learners.memory.sequences import (
    Feedforward,
    MemoryAugmented,
    Recurrent,
    SequenceNetwork,
)
from metarl.ranges import FRACTION, WIDTH, Range, check_fields


class SequenceOptions(ABC):
    """Interface: options that build a network that reads sequences."""

    @abstractmethod
    def make(self, inputs: int, outputs: int, generator: torch.Generator) -> SequenceNetwork:
        """Builds the network.

        Args:
            inputs: Size of the input of a step.
            outputs: Size of the output of a step.
            generator: Source of the initial weights.
        """


@dataclass(frozen=True)
class MemoryAugmentedOptions(SequenceOptions):
    """Memory-augmented neural network (Santoro et al. 2016)."""

    units: int = 200
    """Width of the LSTM that controls the memory."""
    slots: int = 128
    """Rows of the memory, at least one for each step of a sequence."""
    width: int = 40
    """Size of a row."""
    reads: int = 4
    """Number of heads that write and read."""
    decay: float = 0.99
    """Decay of the rows' usage per step, in [0, 1]."""
    strength: float | None = 10.0
    """Initial value of the learned factor of the cosines, above 1, as in neural Turing machines.
    None: always 1, as in the paper; learning then starts much later."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(
            self,
            units=WIDTH, slots=WIDTH, width=WIDTH, reads=WIDTH, decay=FRACTION,
            strength=Range(1, includes_low=False),
        )  # fmt: skip

    def make(self, inputs: int, outputs: int, generator: torch.Generator) -> MemoryAugmented:
        return MemoryAugmented(inputs, outputs, generator, **asdict(self))


@dataclass(frozen=True)
class RecurrentOptions(SequenceOptions):
    """Baseline: an LSTM, whose state is its only memory."""

    units: int = 200
    """Width of the LSTM."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, units=WIDTH)

    def make(self, inputs: int, outputs: int, generator: torch.Generator) -> Recurrent:
        return Recurrent(inputs, outputs, generator, self.units)


@dataclass(frozen=True)
class FeedforwardOptions(SequenceOptions):
    """Baseline: a network without any memory."""

    units: int = 200
    """Width of its hidden layer."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, units=WIDTH)

    def make(self, inputs: int, outputs: int, generator: torch.Generator) -> Feedforward:
        return Feedforward(inputs, outputs, generator, self.units)
