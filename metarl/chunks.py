"""Chunks of tasks that are halved once when they do not fit into the memory of a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from metarl.console import say
from metarl.errors import SettingsError
from metarl.trees import concatenate_tasks, cut_tasks

R = TypeVar("R")

_ALLOCATION_FAILED = re.compile(r"out of memory|Failed to allocate", re.IGNORECASE)
"""What CUDA and Warp say of memory that a GPU does not have."""


class FittingChunks:
    """Halves the number of tasks computed at once when the GPU runs out of memory, and says so.

    It does so once. Later calls begin with the smaller number.

    Args:
        what: What is computed, for the messages: "rollouts".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._most: int | None = None

    def __call__(self, compute: Callable[[int | None], R], size: int | None, total: int) -> R:
        """Returns `compute(size)`, or that of half of the size.

        Args:
            compute: Computes all tasks in chunks of a size; None for all at once. It is called
                twice when the memory does not suffice, so it must not draw random numbers.
            size: The number of tasks per chunk; None for all at once.
            total: The number of all tasks.

        Raises:
            SettingsError: Half of the tasks do not fit either, or one task does not.
        """
        size = self.limited(size, total)
        try:
            return compute(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # Outside of the handler: the error's traceback holds the tensors of the failed try.
        at_once = min(size or total, total)
        torch.cuda.empty_cache()
        if self._most is not None or at_once == 1:
            raise SettingsError(
                f"The {self.what} of {at_once} task(s) at once do not fit into the memory: lower "
                f"the rollouts or examples per task, or --training.task-chunk-size. ({reason})"
            )
        self._most = -(-at_once // 2)
        say(
            f"The {self.what} of {at_once} tasks at once do not fit into the memory; going on with "
            f"{self._most} at once. --training.task-chunk-size {self._most} begins with it."
        )
        return self(compute, size, total)

    def map(
        self, function: Callable[..., R], arguments: tuple[Any, ...], size: int | None, total: int
    ) -> R:
        """Returns the results of a function of chunks of tasks, concatenated.

        Args:
            function: Called with the chunks of all arguments. It must not draw random numbers.
            arguments: Nested tensors with the tasks leading.
            size: The number of tasks per chunk; None for all at once.
            total: The number of all tasks.
        """

        def compute(size: int | None) -> R:
            parts = [function(*chunk) for chunk in cut_tasks(arguments, size)]
            return parts[0] if len(parts) == 1 else concatenate_tasks(parts)

        return self(compute, size, total)

    def limited(self, size: int | None, total: int) -> int | None:
        """Returns the number of tasks per chunk, of `total`, that `size` comes to by now."""
        return size if self._most is None else min(size or total, self._most)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Returns whether a GPU's memory did not suffice, by torch's error or Warp's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return bool(_ALLOCATION_FAILED.search(str(error)))
