"""The state of an update rule as a flat table of tensors of one task, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.errors import ExportError

Flat = dict[str, Tensor]
"""Path in the state, joined by dots -> tensor, without a task dimension."""


def flatten(state: dict[str, Any], prefix: str = "") -> Flat:
    """Returns a state of one task as a table.

    Args:
        state: Tensors [1, *], whole numbers, and dicts of these.
        prefix: Put before each name.

    Raises:
        ExportError: It holds something else.
    """
    flat: Flat = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, Tensor):
            flat[name] = value[0] if value.dim() else value
        elif isinstance(value, int):
            flat[name] = torch.tensor(value)
        else:
            raise ExportError(
                f"Expected tensors and whole numbers in the state of the update rule, "
                f"{name} is a {type(value).__name__}."
            )
    return flat


def unflatten(flat: Flat, like: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the state of the structure of `like` from the table; numbers become tensors []."""
    state: dict[str, Any] = {}
    for key, value in like.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            state[key] = unflatten(flat, value, f"{name}.")
        elif isinstance(value, Tensor) and value.dim():
            state[key] = flat[name].unsqueeze(0)
        else:
            state[key] = flat[name]
    return state


def nested_tensors(value: Any, prefix: str = "") -> Flat:
    """Returns the tensors of nested named tuples, by their paths joined by dots; None has none.

    They are in the order of `metarl.trees.map_tensors`.
    """
    if isinstance(value, Tensor):
        return {prefix or "value": value}
    flat: Flat = {}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        for name, part in zip(names, value, strict=True):
            flat |= nested_tensors(part, f"{prefix}.{name}" if prefix else str(name))
    return flat
