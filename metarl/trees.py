"""Maps over the tensors of nested values: dicts, lists, tuples, dataclasses and None."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(function: Callable[..., Tensor], value: T, *others: Any) -> T:
    """Returns `value` with `function` applied to each of its tensors; the rest stays as it is.

    Args:
        function: Takes a tensor of `value` and those at the same place of each of `others`.
        value: Any nesting; fields of dataclasses that their constructor does not take are left
            for it to compute.
        others: Values of the same structure.
    """
    if isinstance(value, Tensor):
        return function(value, *others)  # pyright: ignore[reportReturnType]
    if isinstance(value, dict):
        _check_keys(value, others)
        items = {k: map_tensors(function, v, *(o[k] for o in others)) for k, v in value.items()}
        return type(value)(items)
    if isinstance(value, list | tuple):
        mapped = [map_tensors(function, *v) for v in zip(value, *others, strict=True)]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        changes = {
            n: map_tensors(function, getattr(value, n), *(getattr(o, n) for o in others))
            for n in names
        }
        return dataclasses.replace(value, **changes)
    return value


def take_tasks(value: T, start: int, stop: int) -> T:
    """Returns the tasks [start, stop) of a value whose tensors all have the tasks leading."""
    return map_tensors(lambda t: t[start:stop], value)


def cut_tasks(value: T, size: int | None) -> list[T]:
    """Cuts a value whose tensors all have the tasks leading into parts of `size` tasks or fewer.

    Args:
        value: Has at least one tensor.
        size: Tasks in a part; None leaves the value whole.
    """
    if size is None:
        return [value]
    counts: list[int] = []
    map_tensors(lambda t: counts.append(len(t)) or t, value)
    total = counts[0]
    return [take_tasks(value, low, min(low + size, total)) for low in range(0, total, size)]


def to_device(value: T, device: torch.device) -> T:
    """Returns `value` with all tensors on `device`."""
    return map_tensors(lambda t: t.to(device), value)


def concatenate_tasks(values: list[T]) -> T:
    """Joins nested values of one structure along the leading task dimension."""
    return map_tensors(lambda *tensors: torch.cat(tensors), *values)


def choose(mask: Tensor, new: T, old: T) -> T:
    """Returns the rows of `new` that the mask marks, and those of `old` that it does not.

    Args:
        mask: Shape [N], bool.
        new: Tensors [N, *].
        old: Tensors of the same structure, shapes and devices.
    """

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        marked = mask.to(new.device).view(-1, *[1] * (new.dim() - 1))
        return torch.where(marked, new, old)

    return map_tensors(chosen, new, old)


def _check_keys(value: dict[Any, Any], others: tuple[Any, ...]) -> None:
    for other in others:
        if other.keys() != value.keys():
            raise ValueError(f"Expected the keys {list(value)}, got {list(other)}.")
