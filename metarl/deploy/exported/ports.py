"""Inputs of exported graphs, checked against what the metadata says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import ShapeError


def checked_input(batch: dict[str, Any], port: dict[str, Any]) -> np.ndarray:
    """Returns an input as its graph takes it.

    Args:
        batch: Inputs by name.
        port: What the metadata says of the input.

    Raises:
        ShapeError: It is missing, or has another shape or type.
    """
    name, shape = port["name"], port["shape"]
    if name not in batch:
        raise ShapeError(f"Expected {name} {shape} {port['dtype']} ({port['text']}), got none.")
    value = np.asarray(batch[name])
    fits = len(shape) == value.ndim and all(
        isinstance(n, str) or n == m for n, m in zip(shape, value.shape, strict=False)
    )
    if not fits or value.size == 0:
        raise ShapeError(f"Expected {name} of shape {shape}, got {list(value.shape)}.")
    if not np.can_cast(value.dtype, port["dtype"], "same_kind"):
        raise ShapeError(f"Expected {name} of type {port['dtype']}, got {value.dtype}.")
    return np.ascontiguousarray(value, port["dtype"]).reshape(value.shape)


def check_sizes(feeds: dict[str, np.ndarray], ports: list[dict[str, Any]]) -> None:
    """Checks that sizes of one name agree.

    Args:
        feeds: Inputs by name.
        ports: What the metadata says of them.

    Raises:
        ShapeError: They differ.
    """
    sizes: dict[str, int] = {}
    for port in ports:
        for size, actual in zip(port["shape"], feeds[port["name"]].shape, strict=True):
            if isinstance(size, str) and sizes.setdefault(size, actual) != actual:
                raise ShapeError(
                    f"Expected as many {size} in {port['name']} as before, {sizes[size]}, got "
                    f"{actual}."
                )
