"""What users have instead of arrays, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from metarl.errors import ShapeError, short_repr
from metarl.tasks.data.plain import tensor_array


def as_array(data: Any, what: str) -> np.ndarray:
    """Returns arrays, tensors, lists, rows of tables and images as an array of numbers or labels.

    Numbers that a mask of NumPy leaves out are NaN.

    Raises:
        ShapeError: It is no rectangular array, a tensor that is sparse, nested or quantised, or a
            mask leaves out what is no number.
    """
    if isinstance(data, Tensor):
        return tensor_array(data, what)
    if isinstance(data, np.ma.MaskedArray):
        return _filled(data, what)
    if hasattr(data, "to_numpy"):  # rows of pandas, columns of Arrow
        data = data.to_numpy()
    try:
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            return _joined([as_array(part, what) for part in data])
        return np.asarray(data)
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"Expected {what} as an array of one shape per example, got {short_repr(data, 60)} "
            f"({error})."
        ) from error


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Returns the parts of a sequence as an array; names next to numbers stay what they are."""
    values = [part[()] for part in parts]  # of single values, the values themselves
    texts = {part.dtype.kind in "US" for part in parts}
    if len(texts) < 2:
        return np.asarray(values)
    return np.asarray([part.astype(object) if part.ndim else part.item() for part in parts], object)


def _filled(data: np.ma.MaskedArray, what: str) -> np.ndarray:
    if not np.ma.is_masked(data):
        return np.asarray(data)
    if data.dtype.kind not in "biuf":
        raise ShapeError(
            f"Expected {what} without a mask, got {data.dtype} of which {int(data.mask.sum())} are "
            "masked: fill in what they are, or leave these rows out."
        )
    return np.ma.filled(data.astype(np.result_type(data.dtype, np.float32)), np.nan)


def native(array: np.ndarray) -> np.ndarray:
    """Returns a copy of numbers in a type that torch has: this machine's bytes, 64 bits at most."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return np.array(array, dtype=array.dtype.newbyteorder("="))
