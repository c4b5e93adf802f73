"""Results of meta-iterations that the host reads later, without waiting for a GPU meanwhile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.training.outer_update import MetaResult

BETWEEN_READS = 16
"""One of this many results is read: no result is finite after one that is not."""
MOST_UNREAD = 256
"""Results that are kept unread; the host then waits for the oldest."""


class Unread(NamedTuple):
    """A result whose flag was not read yet.

    Attributes:
        iteration: Meta-iterations done before it.
        generator: The generator's state before its tasks were drawn.
        result: The result.
        computed: An event on a GPU after every `BETWEEN_READS`-th result; else None.
    """

    iteration: int
    generator: Tensor
    result: MetaResult
    computed: torch.cuda.Event | None


class LateResults:
    """The results since the last one that is known to be finite, in their order."""

    def __init__(self) -> None:
        self._unread: list[Unread] = []
        self._stream: torch.cuda.Stream | None = None

    def add(self, iteration: int, generator: Tensor, result: MetaResult) -> None:
        """Adds a result; see `Unread`."""
        if result.finite is True:
            return  # nothing is unread: an update reads all flags, or none
        self._unread.append(Unread(iteration, generator, result, self._event(result.finite)))

    def first_bad(self, wait: bool) -> Unread | None:
        """Returns the first result that is not finite, and forgets all.

        Args:
            wait: Waits for all results; otherwise reads one that is known to be computed.

        Returns:
            None if those that were read are finite.
        """
        unread = self._unread
        is_full = len(unread) > MOST_UNREAD
        reads_all = wait or is_full or (bool(unread) and unread[-1].result.finite is False)
        count = len(unread) if reads_all else self._computed()
        aside = not reads_all
        if not count:
            return None
        if self._is_finite(unread[count - 1], aside):
            del unread[:count]
            return None
        self._unread = []
        return next(result for result in unread if not self._is_finite(result, aside))

    def _event(self, finite: bool | Tensor) -> torch.cuda.Event | None:
        if isinstance(finite, bool) or not finite.is_cuda:
            return None
        if (len(self._unread) + 1) % BETWEEN_READS:
            return None
        if self._stream is None:
            self._stream = torch.cuda.Stream(finite.device)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(finite.device))
        return event

    def _computed(self) -> int:
        """Returns how many of the oldest results are known to be computed."""
        for place in reversed(range(BETWEEN_READS - 1, len(self._unread), BETWEEN_READS)):
            event = self._unread[place].computed
            if event is not None and event.query():
                return place + 1
        return 0

    def _is_finite(self, unread: Unread, aside: bool) -> bool:
        """Reads a flag; `aside`, not behind the iterations that are queued on the device."""
        with torch.cuda.stream(self._stream if aside else None):
            return bool(unread.result.finite)


@torch.no_grad()
def store_if_finite(learner: Learner, result: MetaResult) -> None:
    """Calls the learner's `after_update`; on the device, takes it back if a number is not finite.

    Args:
        learner: If `result.finite` is on the device, one that stores in buffers only, or whose
            carry is empty.
        result: A result; finite, if its flag is on the host.
    """
    finite = result.finite
    if isinstance(finite, bool) or not result.carry:
        learner.after_update(result.carry)
        return
    before = [buffer.clone() for buffer in learner.buffers()]
    learner.after_update(result.carry)
    for buffer, old in zip(learner.buffers(), before, strict=True):
        buffer.copy_(torch.where(finite, buffer, old))


def read_means(values: dict[str, Tensor]) -> dict[str, float]:
    """Returns the mean of each value, by its tag; waits once for each device."""
    means = {tag: value.mean().double() for tag, value in values.items()}
    found: dict[str, float] = {}
    for device in {mean.device for mean in means.values()}:
        tags = [tag for tag, mean in means.items() if mean.device == device]
        found |= zip(tags, torch.stack([means[tag] for tag in tags]).tolist(), strict=True)
    return {tag: found[tag] for tag in values}
