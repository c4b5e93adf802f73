"""What replaced layers share during one pass through a module: noise and batch-norm statistics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor]
"""The mean and the biased variance of a batch: [C] for one task, [T, C] for T tasks."""


@dataclass
class Pass:
    """One pass of a batch through a module, for one task or for T tasks at once.

    Attributes:
        seeds: Seed of the dropout masks of this pass, int64: [] for one task, [T] for T tasks.
            None: dropout is the identity.
        recorded: Batch-norm layer -> the moments to normalise by. None: those of the batch.
        moments: The moments of the batch, in the order of the calls: (layer, mean, variance).
        dropouts: Number of dropout calls so far; it selects the random numbers of the next one.
        functional_norms: Number of calls of `F.batch_norm` outside of layers.
        owners: Identity of a buffer -> name of its layer.
    """

    seeds: Tensor | None = None
    recorded: dict[str, Moments] | None = None
    moments: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    dropouts: int = 0
    functional_norms: int = 0
    owners: dict[int, str] = field(default_factory=dict)

    def of_task(self, seeds: Tensor | None, recorded: dict[str, Moments] | None) -> Pass:
        """Returns the same pass for one of its tasks, with the seed and moments of that."""
        return Pass(seeds, recorded, [], self.dropouts, self.functional_norms, self.owners)

    def moments_by_layer(self) -> dict[str, Moments]:
        """Returns the moments of each layer: of one that was called several times, their mean."""
        calls: dict[str, list[Moments]] = {}
        for layer, mean, variance in self.moments:
            calls.setdefault(layer, []).append((mean, variance))
        return {
            layer: found[0] if len(found) == 1 else _mean(found) for layer, found in calls.items()
        }

    def owner(self, running_mean: Tensor | None) -> str | None:
        """Returns the layer that has a tensor as its running mean, if it is one's."""
        return None if running_mean is None else self.owners.get(id(running_mean))

    def next_dropout(self) -> int:
        """Returns the number of the next dropout call, from 0."""
        self.dropouts += 1
        return self.dropouts - 1

    def next_functional_norm(self) -> str:
        """Returns a name for the next batch normalisation that is no layer."""
        self.functional_norms += 1
        return f"F.batch_norm.{self.functional_norms - 1}"


def _mean(calls: list[Moments]) -> Moments:
    means, variances = zip(*calls, strict=True)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


_CURRENT = threading.local()


def current_pass() -> Pass:
    """Returns the pass that this thread is in; an empty one outside of a pass."""
    found: Pass | None = getattr(_CURRENT, "value", None)
    return Pass() if found is None else found


@contextmanager
def entered(value: Pass) -> Iterator[Pass]:
    """Makes `value` the pass of this thread."""
    before = getattr(_CURRENT, "value", None)
    _CURRENT.value = value
    try:
        yield value
    finally:
        _CURRENT.value = before
