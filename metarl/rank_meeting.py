"""The meeting of processes that have just started, in a store that outlives them."""

from __future__ import annotations

import time
import uuid
from typing import Any

SECONDS = 600.0
POLL = 0.02  # seconds


def meet(store: Any, rank: int, count: int, seconds: float = SECONDS) -> str:
    """Returns a name that the processes of this start have in common, and no earlier ones had.

    `torchrun` keeps its store over restarts. What the processes before a restart have left in it,
    such as addresses of sockets, must not be read as that of the new ones, and no variable of the
    environment numbers the starts in the same way on all machines.

    Each process leaves a word. The first one answers all words that it sees with the
    name, until each process has confirmed it. Words of earlier processes are answered in vain.

    Args:
        store: The store, `torch.distributed.Store`.
        rank: The number of this process.
        count: The number of processes.
        seconds: How long to wait for the others.

    Raises:
        TimeoutError: A process has not come; the message says which.
    """
    deadline = time.monotonic() + seconds
    if rank == 0:
        return _lead(store, count, deadline, seconds)
    word = uuid.uuid4().hex
    store.set(f"meet/word/{rank}", word)
    while not store.check([f"meet/answer/{word}"]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 has not come within {seconds:g} s")
        time.sleep(POLL)
    name = store.get(f"meet/answer/{word}").decode()
    store.set(f"meet/{name}/{rank}", "1")
    return name


def _lead(store: Any, count: int, deadline: float, seconds: float) -> str:
    name, missing = uuid.uuid4().hex, set(range(1, count))
    while missing:
        for rank in missing:
            if store.check([f"meet/word/{rank}"]):
                word = store.get(f"meet/word/{rank}").decode()
                store.set(f"meet/answer/{word}", name)
        missing -= {rank for rank in missing if store.check([f"meet/{name}/{rank}"])}
        if missing and time.monotonic() > deadline:
            late = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(f"rank {late} has not come within {seconds:g} s")
        if missing:
            time.sleep(POLL)
    return name
