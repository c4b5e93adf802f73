"""The state of a checkpoint as JSON and a table of tensors, and back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metarl.errors import CheckpointError, short_repr

Tensors = dict[str, Tensor]


def packed(value: Any, tensors: Tensors) -> Any:
    """Returns a value as JSON; its tensors are added to the table.

    Dicts, lists, tuples, tensors and numbers that JSON lacks become {kind: content}.

    Args:
        value: Tensors, numbers, strings, None, and dicts, lists and tuples of these.
        tensors: Name -> tensor; changed.

    Raises:
        CheckpointError: The value holds something else.
    """
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[packed(k, tensors), packed(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [packed(item, tensors) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if isinstance(value, str | bool | int | float | None):
        return value
    raise CheckpointError(
        f"Expected tensors, numbers, strings and collections of these in the state of the run, "
        f"got {short_repr(value)}."
    )


def unpacked(value: Any, tensors: Tensors) -> Any:
    """Returns the value that `packed` made.

    Raises:
        CheckpointError: It is not of that form, or a tensor is missing.
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise CheckpointError(f"Expected the state of a run, got a list {short_repr(value)}.")
        return value
    try:
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {unpacked(k, tensors): unpacked(v, tensors) for k, v in content}
        if kind in ("list", "tuple"):
            items = [unpacked(item, tensors) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "number":
            return float(content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"The state of the run cannot be read: {short_repr(value)}."
        ) from error
    raise CheckpointError(f"The state of the run holds something unknown: {short_repr(kind)}.")
