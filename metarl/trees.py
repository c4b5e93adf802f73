"""Maps over the tensors of nested values: dicts, lists, tuples, dataclasses and None."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Returns `value` with `function` applied to each of its tensors; the rest stays as it is."""
    if isinstance(value, Tensor):
        return function(value)  # pyright: ignore[reportReturnType]
    if isinstance(value, dict):
        return type(value)((k, map_tensors(function, v)) for k, v in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        changes = {n: map_tensors(function, getattr(value, n)) for n in names}
        return dataclasses.replace(value, **changes)
    return value


def take_tasks(value: T, start: int, stop: int) -> T:
    """Returns the tasks [start, stop) of a value whose tensors all have the tasks leading."""
    return map_tensors(lambda t: t[start:stop], value)


def to_device(value: T, device: torch.device) -> T:
    """Returns `value` with all tensors on `device`."""
    return map_tensors(lambda t: t.to(device), value)


def concatenate_tasks(values: list[T]) -> T:
    """Joins nested values of one structure along the leading task dimension."""
    if len(values) == 1:
        return values[0]
    others: list[list[Tensor]] = []
    for value in values:
        found: list[Tensor] = []
        map_tensors(lambda t, found=found: (found.append(t), t)[1], value)
        others.append(found)
    joined = iter([torch.cat(tensors) for tensors in zip(*others, strict=True)])
    return map_tensors(lambda _: next(joined), values[0])
