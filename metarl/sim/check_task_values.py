"""Finds values of tasks that no method of a family reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from metarl.sim.check_calls import WORLDS, arguments, play, uniform
from metarl.sim.family import TaskFamily, Tasks
from metarl.tasks.check_sampling import equal


class Reads(dict[str, Tensor]):
    """Values of tasks that note which of them are read by name.

    Args:
        values: The values.

    Attributes:
        names: The names of those that were read.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        """Returns and notes a value."""
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns and notes a value."""
        self.names.add(name)
        return super().get(name, default)


def unread_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    """Yields the values of tasks that change nothing, as no method but `task_vector` reads them.

    Args:
        family: A family of tensor functions or of a MuJoCo model.
        seed: Seed of the checks.
    """
    tasks, *rest = (*arguments(family, seed), uniform(family.step_noise, seed))
    noted = Reads(tasks)
    results = _results(family, noted, *rest)
    for name in tasks.keys() - noted.names:
        # Others, as those of a copy `{**tasks}`, are read without a note: do they matter?
        moved = {**tasks, name: tasks[name].roll(WORLDS // 2, 0)}
        if equal(results, _results(family, moved, *rest)):
            yield (
                f"the task value {name!r} changes nothing: no method reads it. Read "
                f"`tasks[{name!r}]`, as in `reward`, or leave it out"
            )


def _results(
    family: TaskFamily, tasks: Tasks, noise: Tensor, actions: Tensor, numbers: Tensor
) -> dict[str, Any]:
    """Returns what the methods of a family give, all but the vector of the task."""
    found = play(family, tasks, noise, actions, numbers)
    return {**found, "latency": family.latency(tasks), "sensors": family.sensor_deviation(tasks)}
