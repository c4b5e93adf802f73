"""Tasks drawn by one CUDA graph, where their distribution allows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.console import say
from metarl.cuda_graphs import (
    CudaDriver,
    Driver,
    Replay,
    copied,
    difference,
    graphs_allowed,
)
from metarl.tasks.base import TaskSource
from metarl.tasks.batches import warn_of_other_count
from metarl.trees import filled, tensors_of


class CapturedTasks:
    """Samples tasks on a GPU, by a graph if the distribution has `samples_on_device`.

    The graph draws from the generator what `sample` would: its tasks and the generator's state are
    compared with those of `sample` once. Other distributions, and those whose tasks or states
    differ, are sampled as they are.

    Args:
        driver: What captures; None for CUDA.

    Attributes:
        refused: Why tasks are drawn without a graph; None if they have one, or none was asked for.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver = driver
        self._of: tuple[TaskSource, torch.Generator] | None = None
        self._count = 0
        self._replay: Replay | None = None
        self._outputs: list[Tensor] = []
        self._template: Any = None
        self.refused: str | None = None

    def __call__(self, tasks: TaskSource, num_tasks: int, generator: torch.Generator) -> Any:
        """Returns `tasks.sample(num_tasks, generator)`, in memory that later calls leave.

        It warns if these are not `num_tasks` tasks.
        """
        sampled = self._sampled(tasks, num_tasks, generator)
        warn_of_other_count(sampled, num_tasks)
        return sampled

    def _sampled(self, tasks: TaskSource, num_tasks: int, generator: torch.Generator) -> Any:
        on_gpu = self._driver is not None or generator.device.type == "cuda"
        allowed = getattr(tasks, "samples_on_device", False) and graphs_allowed()
        if not (on_gpu and allowed and self.refused is None):
            return tasks.sample(num_tasks, generator)
        known = self._of is not None and self._of[0] is tasks and self._of[1] is generator
        if self._replay is None or not known or self._count != num_tasks:
            self._of, self._count = (tasks, generator), num_tasks
            return self._first(tasks, num_tasks, generator)
        self._replay()
        return filled(self._template, copied(self._outputs))

    def _first(self, tasks: TaskSource, num_tasks: int, generator: torch.Generator) -> Any:
        """Samples tasks without a graph, and captures it for the next call."""
        start = generator.get_state()
        sampled = tasks.sample(num_tasks, generator)
        expected, end = tensors_of(sampled), generator.get_state()
        driver = self._driver or CudaDriver()
        try:
            with torch.no_grad():
                self._replay, self._outputs = driver.capture(
                    lambda: tensors_of(tasks.sample(num_tasks, generator)), [], generator
                )
            generator.set_state(start)
            self._replay()
            self.refused = difference(self._outputs, expected)
            if not torch.equal(generator.get_state(), end):
                self.refused = "a replay leaves the generator in another state."
        except RuntimeError as error:
            self.refused = str(error).partition("\n")[0]
        generator.set_state(end)
        self._template = sampled
        if self.refused is not None:
            say(f"Tasks are drawn without a CUDA graph: {self.refused}")
        return filled(sampled, copied(expected))  # in the layout of later calls
