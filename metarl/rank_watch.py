"""Finds a process that hangs while others wait for it, and says which one."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SECONDS = 600.0
FAILED = 75  # as sysexits.h numbers a temporary failure


class RankWatch:
    """Counts the exchanges of this rank, and ends the process if one takes too long.

    A thread publishes the count in a store that all ranks read. A rank that waits for longer than
    the limit reads the counts of the others: those that have not reached the same exchange are
    named on standard error, and the process ends with status 75, so that `torchrun` ends or
    restarts all. Torch's own time-outs do not say which rank hangs, and some end nothing.

    Args:
        store: The store of the ranks, `torch.distributed.Store`.
        rank: The number of this rank.
        count: The number of ranks.
    """

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self._store = store
        self._rank, self._count = rank, count
        self._limit = SECONDS
        self._done = 0
        self._since: float | None = None
        self._ended = threading.Event()
        self._publish()
        self._thread = threading.Thread(target=self._run, name="metarl-rank-watch", daemon=True)
        self._thread.start()

    def limit(self, seconds: float) -> None:
        """Sets the longest wait, in seconds, above 0."""
        self._limit = seconds

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts an exchange, which the block waits for."""
        self._done += 1
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def late(self) -> list[int]:
        """Returns the ranks that have not reached the exchange of this rank."""
        counts = [int(self._store.get(f"exchanges/{r}")) for r in range(self._count)]
        return [r for r, done in enumerate(counts) if r != self._rank and done < self._done]

    def _publish(self) -> None:
        self._store.set(f"exchanges/{self._rank}", str(self._done))

    def _run(self) -> None:
        while not self._ended.wait(min(1.0, self._limit / 4)):
            with contextlib.suppress(RuntimeError):  # the store may be gone, as may the others
                self._publish()
                since = self._since
                if since is not None and time.monotonic() - since > self._limit:
                    self._fail(self.late())

    def _fail(self, late: list[int]) -> None:
        """Names the ranks that hang, and ends the process."""
        if late:
            names = ", ".join(map(str, late))
            what = f"Rank {names} hangs: rank {self._rank} has waited for it"
        else:
            what = f"No rank hangs, but rank {self._rank} has waited for a message"
        print(
            f"{what} for {self._limit:g} s (--training.rank-timeout) in exchange {self._done}. "
            "The run can go on from its last checkpoint with --resume auto.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(FAILED)
