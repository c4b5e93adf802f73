"""Results of meta-iterations whose finiteness the host reads later, without waiting for a GPU."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.training.outer_update import MetaResult

MOST_UNREAD = 256
"""Results that are kept unread; the host then waits for the oldest."""


class Flag:
    """A flag on a device, on its way to the host.

    Args:
        value: Shape [], bool.
    """

    def __init__(self, value: Tensor) -> None:
        self._value, self._event = value, None
        if value.device.type == "cuda":
            self._value = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))

    def arrived(self) -> bool:
        """Returns whether `read` does not wait."""
        return self._event is not None and self._event.query()

    def read(self) -> bool:
        """Returns the value; waits for it."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._value)


class Unread(NamedTuple):
    """A result whose flag was not read yet.

    Attributes:
        iteration: Meta-iterations done before it.
        generator: The generator's state before its tasks were drawn.
        result: The result.
        flag: Whether it is finite.
    """

    iteration: int
    generator: Tensor
    result: MetaResult
    flag: Flag | bool


class LateResults:
    """The results since the last one that is known to be finite, in their order."""

    def __init__(self) -> None:
        self._unread: deque[Unread] = deque()

    def add(self, iteration: int, generator: Tensor, result: MetaResult) -> None:
        """Adds a result; see `Unread`."""
        if result.finite is True:
            return  # nothing is unread: an update reads all flags, or none
        flag = Flag(result.finite) if isinstance(result.finite, Tensor) else result.finite
        self._unread.append(Unread(iteration, generator, result, flag))

    def first_bad(self, wait: bool) -> Unread | None:
        """Returns the first result that is not finite, and forgets all.

        Args:
            wait: Waits for all flags; otherwise reads those that have arrived.

        Returns:
            None if all that were read are finite.
        """
        while self._unread:
            flag = self._unread[0].flag
            if isinstance(flag, Flag):
                if not (wait or flag.arrived() or len(self._unread) > MOST_UNREAD):
                    return None
                flag = flag.read()
            oldest = self._unread.popleft()
            if not flag:
                self._unread.clear()
                return oldest
        return None
