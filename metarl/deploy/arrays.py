"""What users have instead of arrays, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import ShapeError, short_repr


def as_array(data: Any, what: str) -> np.ndarray:
    """Returns arrays, tensors, lists, rows of tables and images as an array of numbers or labels.

    Raises:
        ShapeError: It is no rectangular array.
    """
    if isinstance(data, Tensor):
        data = data.float() if data.dtype == torch.bfloat16 else data  # NumPy has no such type
        return data.detach().cpu().numpy()
    if hasattr(data, "to_numpy"):  # rows of pandas, columns of Arrow
        data = data.to_numpy()
    try:
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            return np.asarray([np.asarray(as_array(d, what)) for d in data])
        return np.asarray(data)
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"Expected {what} as an array of one shape per example, got {short_repr(data, 60)} "
            f"({error})."
        ) from error


def native(array: np.ndarray) -> np.ndarray:
    """Returns a copy of numbers in a type that torch has: this machine's bytes, 64 bits at most."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return np.array(array, dtype=array.dtype.newbyteorder("="))
