"""Settings of the networks that read sequences: frozen dataclasses that build them."""

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


class SequenceSettings(ABC):
    """Interface: settings that build a network that reads sequences."""

    @abstractmethod
    def build(self, inputs: int, outputs: int, generator: torch.Generator) -> SequenceNetwork:
        """Builds the network.

        Args:
            inputs: Numbers that come in at a step.
            outputs: Numbers that come out.
            generator: The initial weights start from its draws.
        """


@dataclass(frozen=True)
class MemoryAugmentedSettings(SequenceSettings):
    """Memory-augmented neural network (Santoro et al. 2016)."""

    units: int = 200
    """Width of the LSTM that controls the memory."""
    slots: int = 128
    """Rows of the memory, at least one for each step of a sequence."""
    width: int = 40
    """Numbers in a row."""
    reads: int = 4
    """Heads, which write and read."""
    decay: float = 0.99
    """Of the rows' usage from step to step, in [0, 1]."""
    strength: float | None = 10.0
    """Initial factor of the cosines, above 1, learned as a neural Turing machine's. None: 1 always,
    as in the paper; then learning sets in much later."""

    def build(self, inputs: int, outputs: int, generator: torch.Generator) -> MemoryAugmented:
        """See `SequenceSettings.build`."""
        return MemoryAugmented(inputs, outputs, generator, **asdict(self))


@dataclass(frozen=True)
class RecurrentSettings(SequenceSettings):
    """Baseline: an LSTM, which has its own state as its only memory."""

    units: int = 200
    """Width of the LSTM."""

    def build(self, inputs: int, outputs: int, generator: torch.Generator) -> Recurrent:
        """See `SequenceSettings.build`."""
        return Recurrent(inputs, outputs, generator, self.units)


@dataclass(frozen=True)
class FeedforwardSettings(SequenceSettings):
    """Baseline: a network without any memory."""

    units: int = 200
    """Width of its hidden layer."""

    def build(self, inputs: int, outputs: int, generator: torch.Generator) -> Feedforward:
        """See `SequenceSettings.build`."""
        return Feedforward(inputs, outputs, generator, self.units)
