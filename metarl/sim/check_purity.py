"""Whether the methods of a family are pure: the same again, of each world by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.sim.check_calls import arguments, evaluate, play, started, uniform
from metarl.sim.family import TaskFamily, TorchFamily
from metarl.tasks.check_sampling import equal
from metarl.trees import map_tensors, take_tasks

FIRST, FEWER = 2, 3  # the subset of worlds with which results are compared: none at an end


def purity_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    """Yields which methods are no pure functions of each world's own arguments."""
    given = (*arguments(family, seed), uniform(family.step_noise, seed))
    copies = map_tensors(Tensor.clone, given)
    kept = list(_kept_problems(family, copies))
    if kept:
        yield from kept
        return
    copies = map_tensors(Tensor.clone, given)
    values = evaluate(family, *given)
    if not equal(given, copies):
        yield "a function changes its arguments; return new tensors"
        return
    again = evaluate(family, *given)
    few = evaluate(family, *take_tasks(given, FIRST, FIRST + FEWER))
    for name, value in values.items():
        if not equal(value, again[name]):
            yield (
                f"`{name}` gives other values for the same arguments; it may draw only from the "
                "numbers that are passed in"
            )
        elif not _close(take_tasks(value, FIRST, FIRST + FEWER), few[name]):
            yield f"`{name}` mixes worlds: {FEWER} of them alone have other values"
    yield from _mutation_problems(family, given)


def _kept_problems(family: TaskFamily, given: tuple[Any, ...]) -> Iterator[str]:
    """Yields numbers that a step leaves on the family, as counters of steps and earlier rewards."""
    tasks, noise, actions, numbers = given
    started(family, tasks, noise)
    kept = [_kept(family)]
    for acts in (actions, actions.flip(0)):
        play(family, tasks, noise, acts, numbers)
        kept.append(_kept(family))
    for name in kept[0].keys() & kept[1].keys() & kept[2].keys():
        if not all(np.array_equal(kept[0][name], v[name], equal_nan=True) for v in kept[1:]):
            yield (
                f"a method sets `self.{name}`, which all worlds share; rewards and ends are "
                "computed after the episode, for all steps at once. Keep such numbers in the "
                "state, one for each world"
            )


def _kept(family: TaskFamily) -> dict[str, np.ndarray]:
    """Returns copies of the numbers among the attributes of a family."""
    found = {}
    for name, value in vars(family).items():
        array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        if isinstance(array, np.ndarray | int | float) and np.asarray(array).dtype.kind in "biuf":
            found[name] = np.array(array)
    return found


def _mutation_problems(family: TaskFamily, given: tuple[Any, ...]) -> Iterator[str]:
    """Yields the methods that modify the state in place or return a view of it."""
    tasks, noise, actions, numbers = given
    before = after = started(family, tasks, noise)
    start = map_tensors(Tensor.clone, before)
    if isinstance(family, TorchFamily):
        after = family.step(before, actions, tasks, numbers)
        if not equal(before, start):
            yield "`step` changes the state that it is given; return new tensors"
            return
    end = map_tensors(Tensor.clone, after)
    observation = family.observe(after, tasks)
    family.reward(before, actions, after, tasks)
    family.terminated(after, tasks)
    family.truncated(after, tasks)
    if not equal((before, after), (start, end)):
        yield "`observe`, `truncated`, `reward` or `terminated` changes the state that it is given"
        return
    observation += 1
    if not equal(after, end):
        yield "`observe` returns a part of the state itself; return a copy"


def _close(a: Any, b: Any) -> bool:
    """Returns whether nested tensors are equal up to rounding."""
    same: list[bool] = []

    def compare(x: Tensor, y: Tensor) -> Tensor:
        same.append(x.shape == y.shape and _near(x, y))
        return x

    map_tensors(compare, a, b)
    return all(same)


def _near(a: Tensor, b: Tensor) -> bool:
    """Returns whether tensors are equal up to rounding; NaN, a missing number, equals NaN."""
    return torch.allclose(a.double(), b.double(), 1e-4, 1e-6, equal_nan=True)
