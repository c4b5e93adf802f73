"""Lets a caller watch an evaluation that takes long, such as by a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from torch import Tensor

R = TypeVar("R", Tensor, dict[str, Tensor])

Advance = Callable[[int], None]
"""Takes the number of tasks that were evaluated after one more adaptation step."""

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Takes what is evaluated ("test tasks") and the number of evaluations, tasks times steps."""


@contextmanager
def unwatched(name: str, total: int) -> Iterator[Advance]:
    """Watches nothing."""
    del name, total
    yield lambda count: None


def watched(rows: Iterable[R], advance: Advance) -> list[R]:
    """Returns the rows of an evaluation and counts the tasks of each as it comes.

    Args:
        rows: Each [T], or [T] for each of several metrics, by name.
        advance: Takes the number of tasks of a row.
    """
    collected = []
    for row in rows:
        collected.append(row)
        advance(len(next(iter(row.values())) if isinstance(row, dict) else row))
    return collected
