"""The user's examples as the tensors of a learner, checked against what a run was trained on."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.arrays import as_array, native
from metarl.errors import ShapeError, short_repr
from metarl.models.base import task_rows
from metarl.ranges import LARGEST_NUMBER
from metarl.tasks.data import tables
from metarl.tasks.data.labels import is_missing
from metarl.tasks.data.plain import image_array, is_image
from metarl.tasks.data.table_files import open_table

FAR = 10.0
"""Deviations from the mean of training beyond which a value does not fit."""
NARROW = 0.02
"""Data whose deviation is below this share of training's do not fit."""
FEWEST = 20
"""Values that are needed to judge a deviation."""
CHECKED_AFTER = (1, 16, 256, 4096)
"""Rows of a stream after which they are compared with those of training."""


def as_inputs(data: Any, ranges: dict[str, Any], what: str = "inputs") -> tuple[Tensor, bool]:
    """Returns inputs as [T, N, *input] of the type of training.

    Args:
        data: Examples of one task, [N, *input], or of T tasks with as many each.
        ranges: The record of the training data; without shapes, one task is expected.
        what: What they are, for messages.

    Returns:
        The inputs, and whether there are many tasks.

    Raises:
        ShapeError: They have another shape than in training, or are no finite numbers, or a data
            frame lacks a column of training.
    """
    data = in_training_order(data, ranges.get("columns"), what)
    array = as_array(_pictures(data, ranges.get("input_shape", ())), what)
    array = plain_numbers(array)
    if array.dtype.kind not in "biuf":
        raise ShapeError(
            f"Expected {what} of numbers, got {array.dtype}: {short_repr(array.flat[:1])}. Encode "
            "categories as in training."
        )
    shape = tuple(ranges.get("input_shape", array.shape[1:]))
    array = _shaped(array, shape, what)
    dtype = getattr(torch, str(ranges.get("input_type", "float32")))
    if dtype.is_floating_point:
        array = _scaled(array, ranges, what)
    elif array.dtype.kind == "f" and (array != np.round(array)).any():
        raise ShapeError(
            f"Expected {what} of whole numbers, as in training, got numbers that are not whole."
        )
    many = array.ndim == len(shape) + 2
    tensor = torch.from_numpy(native(array)).to(dtype)  # a copy: theirs may be read-only
    if not bool(torch.isfinite(tensor).all()):
        raise ShapeError(f"Expected finite {what}, got NaN, infinity or numbers beyond float32.")
    return tensor if many else tensor.unsqueeze(0), many


def plain_numbers(array: np.ndarray) -> np.ndarray:
    """Returns numbers that are objects, as tables with several types have them, as float64.

    Missing ones are NaN; arrays of other objects are returned as they are.
    """
    if array.dtype != object:
        return array
    values = [math.nan if is_missing(value) else value for value in array.flat]
    if not all(isinstance(value, Real | Decimal) for value in values):
        return array
    return np.array(values, np.float64).reshape(array.shape)


def column_names(data: Any) -> list[str] | None:
    """Returns the names of the columns of a data frame or another table; None of other data."""
    if _is_other_table(data):
        return [str(name) for name in tables.column_names(open_table(data))]
    names = getattr(data, "columns", None) if hasattr(data, "to_numpy") else None
    return None if names is None else [str(name) for name in names]


def check_columns(data: Any, expected: list[str] | None) -> None:
    """Raises ShapeError for a table that has other columns than the support set had.

    Args:
        data: Inputs to predict for.
        expected: What `column_names` gave for the support set.
    """
    found = column_names(data)
    if found is not None and expected is not None and found != expected:
        raise ShapeError(
            f"Expected the columns {', '.join(expected)} in this order, as those of the support "
            f"set, got {', '.join(found)}."
        )


def in_training_order(data: Any, columns: list[str] | None, what: str) -> Any:
    """Returns the columns of training of a table, in their order; other data as they are.

    Mappings of columns, structured arrays and tables of Arrow become arrays. A list of tables, one
    for each task, becomes a list.

    Raises:
        ShapeError: A column is missing, or does not hold numbers.
        TaskError: A number is missing.
    """
    if _are_tables(data):
        return [in_training_order(part, columns, what) for part in data]
    names, is_frame = column_names(data), not _is_other_table(data)
    if names is None:
        return data
    if is_frame and (columns is None or not all(isinstance(n, str) for n in data.columns)):
        return data
    columns = columns or names
    if missing := [name for name in columns if name not in names]:
        raise ShapeError(
            f"Expected {what} with the columns of training, {short_repr(', '.join(columns), 200)}; "
            f"{short_repr(', '.join(missing), 100)} missing, got "
            f"{short_repr(', '.join(names), 200)}. Rename them, or pass an array in their order."
        )
    if not is_frame:
        return table_array(data, columns)
    return data if names == columns else data[columns]


def table_array(data: Any, columns: list[str] | None = None) -> Any:
    """Returns the columns of a table as an array; data frames and other data as they are.

    Args:
        data: A mapping of columns, a structured array or a table of Arrow; or anything else.
        columns: Their names; None: all.

    Returns:
        The numbers side by side, [N, D] float32; of one column its values, [N, *].
    """
    if not _is_other_table(data):
        return data
    table = open_table(data)
    names = tables.column_names(table) if columns is None else columns
    if len(names) == 1:
        column = tables.read_column(table, names[0])
        if column.lengths is None:
            return column.values
    return tables.numbers(table, names).numpy()


def _are_tables(data: Any) -> bool:
    """Returns whether data are a list of tables, by its first element."""
    return isinstance(data, list | tuple) and bool(data) and column_names(data[0]) is not None


def _is_other_table(data: Any) -> bool:
    """Returns whether data have named columns, but are neither a data frame nor a file."""
    is_file = isinstance(data, str | os.PathLike)
    return not is_file and not hasattr(data, "to_numpy") and tables.is_table(data)


def as_mask(
    data: Any,
    inputs: Tensor,
    many: bool,
    ranges: dict[str, Any],
    weights: Tensor | None = None,
) -> Tensor | None:
    """Returns the mask of padded sequences, [T, N, L] bool; None without one.

    Warns of sequences that end with zeros without a mask, if training had masks.

    Args:
        data: True or 1 for real elements, [N, L], or [T, N, L] of T tasks.
        inputs: The sequences, [T, N, L, *].
        many: Whether there are many tasks.
        ranges: The record of the training data, which says whether they had masks.
        weights: Weights of the examples, [T, N]; those of weight 0 may have no real element.

    Raises:
        ShapeError: It has another shape, other values, or an example without a real element.
    """
    if data is None:
        if ranges.get("masked", False):
            _warn_of_padding(inputs)
        return None
    array = as_array(data, "the mask")
    array = array if many else array[None]
    if array.shape != inputs.shape[:3] or inputs.dim() < 3 or not np.isin(array, (0, 1)).all():
        raise ShapeError(
            f"Expected a mask of the shape {list(inputs.shape[0 if many else 1 : 3])}, true for "
            f"the real elements of each sequence, got {array.dtype} "
            f"{list(array.shape if many else array.shape[1:])}."
        )
    mask = torch.from_numpy(np.array(array, bool))
    read = mask.any(2) if weights is None else mask.any(2) | (weights == 0)
    if not bool(read.all()):
        raise ShapeError("Expected a real element in every sequence, the mask has one with none.")
    return mask


def _warn_of_padding(inputs: Tensor) -> None:
    """Warns of sequences [T, N, L, *] whose last element is 0, as padding is."""
    ends = task_rows(inputs[:, :, -1].flatten(0, 1) == 0).all(1)
    if ends.any():
        warnings.warn(
            f"{int(ends.sum())} of {len(ends)} sequences end with zeros, as padded ones do, and "
            "there is no mask: the network takes them for real elements. Training had masks; give "
            "mask=, true for the real elements [N, L].",
            RuntimeWarning,
            stacklevel=4,
        )


def warn_of_ranges(
    values: np.ndarray,
    record: dict[str, Any] | None,
    what: str,
    *,
    narrow_too: bool = True,
    advice: str = "",
) -> None:
    """Warns of values that do not fit the training data, such as degrees in place of radians.

    Args:
        values: Shape [B, K], in the units of the user.
        record: Lowest and highest value, mean and deviation of training, [K] each; or None.
        what: What they are, for the message.
        narrow_too: Whether values that hardly differ do not fit either; a robot may stand still.
        advice: What else to say.
    """
    if record is None or not len(values):
        return
    low, high, mean, deviation = (
        np.asarray(record[name], float) for name in ("low", "high", "mean", "deviation")
    )
    if len(low) != values.shape[1]:
        values = values.reshape(-1, 1)
    if len(low) != values.shape[1]:
        return
    # An entry may have been constant in training: rounding alone is not far from it.
    scale = np.maximum(deviation, 1e-6 * np.maximum(np.abs(mean), 1e-6))
    margin = np.maximum(FAR * scale, high - low)
    found_low, found_high = values.min(0), values.max(0)
    far = (found_high > high + margin) | (found_low < low - margin)
    # Larger units give smaller numbers. Entries that are all 0 may be unused, and those whose
    # deviation in training came from few outliers say nothing.
    narrow = (values.std(0) < NARROW * scale) & (np.abs(values).max(0) > 0)
    narrow &= narrow_too & (len(values) >= FEWEST) & (deviation > 1e-3 * (high - low))
    entries = np.flatnonzero(far | narrow)
    if not len(entries):
        return
    lines = [
        f"entry {i}: {found_low[i]:.4g} to {found_high[i]:.4g}, in training {low[i]:.4g} to "
        f"{high[i]:.4g} (mean {mean[i]:.4g}, deviation {deviation[i]:.4g})"
        for i in entries[:4].tolist()
    ]
    more = f" and {len(entries) - 4} more" if len(entries) > 4 else ""
    warnings.warn(
        f"The {what} do not fit those of training: {'; '.join(lines)}{more}. Are they in the same "
        f"units, in the same order?{advice}",
        RuntimeWarning,
        stacklevel=3,
    )


class RangeWatch:
    """Compares the first rows of a stream with those of training, at a few points.

    Args:
        record: The ranges of training; None: unknown.
        what: What the rows are.
    """

    def __init__(self, record: dict[str, Any] | None, what: str) -> None:
        self._record, self._what = record, what
        self._rows: list[np.ndarray] = []
        self._count = 0

    def add(self, row: np.ndarray) -> None:
        """Takes a row, and warns if those since the last comparison do not fit."""
        if self._count >= CHECKED_AFTER[-1]:
            return
        self._count += 1
        self._rows.append(row)
        if self._count in CHECKED_AFTER:
            warn_of_ranges(np.stack(self._rows), self._record, self._what, narrow_too=False)
            self._rows.clear()


def _pictures(data: Any, shape: Sequence[int]) -> Any:
    """Returns images of Pillow as arrays with the channels of training; other data as they are."""
    if is_image(data):
        modes = {1: "L", 3: "RGB"}
        return image_array(data, modes.get(shape[0]) if len(shape) == 3 else None)
    if isinstance(data, np.ndarray) and data.dtype != object:
        return data
    if not _holds_images(data):
        return data
    data = data.tolist() if hasattr(data, "tolist") else data
    pictures = [_pictures(part, shape) for part in data]
    sizes = {picture.shape for picture in pictures if isinstance(picture, np.ndarray)}
    if len(sizes) > 1 and len(shape) == 3:
        raise ShapeError(
            f"Expected images of {shape[1]} x {shape[2]} pixels, as in training, got images "
            f"{short_repr(sorted(sizes))}; resize them: image.resize({(shape[2], shape[1])})."
        )
    return pictures


def _holds_images(data: Any) -> bool:
    """Returns whether the first example is an image of Pillow: of one task, or of the first."""
    if (
        isinstance(data, Tensor)
        or not hasattr(data, "__getitem__")
        or isinstance(data, str | bytes)
    ):
        return False
    first = next(iter(data), None)
    return is_image(first) or (isinstance(first, Sequence | np.ndarray) and _holds_images(first))


def _shaped(array: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Returns an array whose last dimensions are `shape`: [N, *shape] or [T, N, *shape]."""
    size = len(shape)
    if shape == (1,) and (array.ndim == 1 or (array.ndim == 2 and array.shape[1] != 1)):
        array = array[..., None]
    elif size == 3 and array.shape[-size:] != shape:
        channels = shape[0]
        if channels == 1 and array.shape[-2:] == shape[1:]:
            array = np.expand_dims(array, -3)
        elif array.shape[-3:] == (*shape[1:], channels):
            array = np.moveaxis(array, -1, -3)
    fits = array.ndim in (size + 1, size + 2) and array.shape[array.ndim - size :] == shape
    if not fits or not all(array.shape):
        example = "a number" if not shape else f"{' x '.join(map(str, shape))} numbers"
        raise ShapeError(
            f"Expected {what} [N, *{list(shape)}] of one task or [T, N, *{list(shape)}] of T tasks "
            f"({example} per example, as in training), got an array of shape {list(array.shape)}."
        )
    return array


def _scaled(array: np.ndarray, ranges: dict[str, Any], what: str) -> np.ndarray:
    """Returns images of 8 or 16 bits in 0..1 if training had such; refuses unclear numbers."""
    record = ranges.get("inputs")
    if array.dtype not in (np.uint8, np.uint16) or record is None:
        if array.dtype.kind == "f" and float(np.abs(array).max(initial=0)) > LARGEST_NUMBER:
            raise ShapeError(f"Expected {what} of at most {LARGEST_NUMBER:g}.")
        return array
    if min(record["low"]) >= 0 and max(record["high"]) <= 1 and array.max() > 1:
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    return array
