"""Lets a caller watch an evaluation that takes long, such as by a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

Advance = Callable[[int], None]
"""Takes the number of tasks that were evaluated after one more adaptation step."""

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Takes what is evaluated ("test tasks") and the number of evaluations, tasks times steps."""


@contextmanager
def unwatched(name: str, total: int) -> Iterator[Advance]:
    """Watches nothing."""
    del name, total
    yield lambda count: None


def watched(rows: Iterable[Tensor], advance: Advance) -> list[Tensor]:
    """Returns the rows of an evaluation, each [T], and counts the tasks of each as it comes."""
    collected = []
    for row in rows:
        collected.append(row)
        advance(len(row))
    return collected
