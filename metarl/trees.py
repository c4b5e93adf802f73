"""Functions on the tensors of nested values: dicts, lists, tuples, dataclasses and None."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(function: Callable[..., Tensor], value: T, *others: Any) -> T:
    """Returns `value` with `function` applied to each of its tensors; other leaves are unchanged.

    Args:
        function: Maps a tensor of `value` and the corresponding ones of `others` to a tensor.
        value: Any nesting. Dataclasses are rebuilt from their `init` fields; their constructor
            computes the other fields.
        others: Values of the same structure.

    Raises:
        ValueError: If the structures differ.
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


def tensors_of(value: Any) -> list[Tensor]:
    """Returns the tensors of a nested value, in the order of `map_tensors`."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(collect, value)
    return tensors


def in_place_changes(value: Any) -> list[int]:
    """Returns how often each tensor was changed in place; 0 for tensors of inference mode."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_of(value)]


def filled(template: T, tensors: Iterable[Tensor]) -> T:
    """Returns a nested value with its tensors replaced, in the order of `tensors_of`."""
    rest = iter(tensors)
    return map_tensors(lambda _: next(rest), template)


def take_tasks(value: T, start: int, stop: int) -> T:
    """Returns tasks [start, stop) of a value whose tensors all have a leading task dimension."""
    return map_tensors(lambda t: t[start:stop], value)


def cut_tasks(value: T, size: int | None) -> list[T]:
    """Splits a value into parts of at most `size` tasks.

    Args:
        value: At least one tensor; all tensors have a leading task dimension.
        size: Number of tasks per part; None returns the whole value as one part.
    """
    if size is None:
        return [value]
    total = len(tensors_of(value)[0])
    return [take_tasks(value, low, min(low + size, total)) for low in range(0, total, size)]


def to_device(value: T, device: torch.device) -> T:
    """Returns `value` with all tensors on `device`."""
    return map_tensors(lambda t: t.to(device), value)


def concatenate_tasks(values: list[T]) -> T:
    """Concatenates nested values of the same structure along the leading task dimension."""
    return map_tensors(lambda *tensors: torch.cat(tensors), *values)


def choose(mask: Tensor, new: T, old: T) -> T:
    """Returns the rows of `new` where `mask` is True, else those of `old`.

    Args:
        mask: Shape [N], bool.
        new: Tensors [N, *].
        old: The same structure, shapes and devices as `new`.
    """

    def select(new: Tensor, old: Tensor) -> Tensor:
        row_mask = mask.to(new.device).view(-1, *[1] * (new.dim() - 1))
        return torch.where(row_mask, new, old)

    return map_tensors(select, new, old)


def close(a: T, b: T) -> bool:
    """Whether two trees hold the same numbers, up to the rounding of their types."""
    same: list[bool] = []

    def compare(x: Tensor, y: Tensor) -> Tensor:
        exact = not (x.is_floating_point() or x.is_complex())
        eps = 0.0 if exact else 8 * torch.finfo(x.dtype).eps  # of 16 bits, more than the bounds
        bounds = {"rtol": max(1e-4, eps), "atol": max(1e-6, eps)}
        same.append(torch.allclose(x, y, **bounds, equal_nan=True))
        return x

    map_tensors(compare, a, b)
    return all(same)


def _check_keys(value: dict[Any, Any], others: tuple[Any, ...]) -> None:
    for other in others:
        if other.keys() != value.keys():
            raise ValueError(f"Expected the keys {list(value)}, got {list(other)}.")
