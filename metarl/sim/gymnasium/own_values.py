"""Copies of the parts of tasks, so that an environment that changes its task changes no other."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import Any

import numpy as np
import torch

LARGEST = 2**20
"""Bytes of arrays and tensors beyond which they are shared: each of many worlds would have one."""


def own_value(value: Any) -> Any:
    """Returns a value with its own lists, dicts, sets, arrays, tensors and data classes.

    What else is in it, such as a handle or an object that is compared by identity, is shared, and
    so are arrays and tensors of more than 1 MB, such as heights of a terrain.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        if value.nbytes > LARGEST:
            return value
        return value.copy() if isinstance(value, np.ndarray) else value.clone()
    if isinstance(value, set | bytearray):
        return copy.copy(value)
    if isinstance(value, dict):
        other = copy.copy(value)  # of the same type
        other.update({key: own_value(part) for key, part in value.items()})
        return other
    if isinstance(value, list | deque):
        other = copy.copy(value)
        for index, part in enumerate(value):
            other[index] = own_value(part)
        return other
    if isinstance(value, tuple):
        parts = map(own_value, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        other = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(other, field.name, own_value(getattr(value, field.name)))
        return other
    return value
