"""Targets of the user's examples, as the learner takes them: values, or numbered classes."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.adapters.inputs import in_training_order, plain_numbers, warn_of_ranges
from metarl.deploy.adapters.standardised import advice
from metarl.deploy.arrays import as_array, native
from metarl.errors import ShapeError, TaskError
from metarl.tasks.scaling import Scaling


def target_array(targets: Any, inputs: Any, ranges: dict[str, Any]) -> np.ndarray:
    """Returns the user's targets as an array, [N, *] or [T, N, *], of tables in training's order.

    Args:
        targets: Values or labels.
        inputs: Their inputs: data frames of rows in another order warn.
        ranges: The ranges of the training data.
    """
    _warn_of_order(inputs, targets)
    targets = in_training_order(targets, ranges.get("target_columns"), "targets")
    return plain_labels(as_array(targets, "targets"))


def _warn_of_order(inputs: Any, targets: Any) -> None:
    """Warns of data frames whose rows have the same names, in another order."""
    rows, others = _row_names(inputs), _row_names(targets)
    if rows != others and len(rows) == len(others) and set(rows) == set(others):
        warnings.warn(
            "The rows of the targets have another order than those of the inputs, by their index, "
            "and are taken in the order that they have: targets.loc[inputs.index] is in that of "
            "the inputs. If they are in order, pass targets.to_numpy().",
            RuntimeWarning,
            stacklevel=5,
        )


def _row_names(data: Any) -> list[Any]:
    """Returns the names of the rows of a data frame; none of other data."""
    index: Any = getattr(data, "index", None)
    return list(index) if hasattr(index, "is_unique") and index.is_unique else []


def value_targets(
    values: np.ndarray,
    ranges: dict[str, Any],
    dtype: torch.dtype | None,
    scaling: Scaling | None = None,
) -> Tensor:
    """Returns targets that are numbers, [T, N, *target]; warns of those far outside of training.

    Args:
        values: Shape [T, N, *].
        ranges: The ranges of the training data.
        dtype: Their type; None: float32.
        scaling: What standardises them; None: they stay as they are.

    Raises:
        ShapeError: They are no finite numbers of the shape of training.
    """
    shape, values = tuple(ranges.get("target_shape", values.shape[2:])), plain_numbers(values)
    if values.dtype.kind not in "biuf":
        raise ShapeError(f"Expected targets of numbers, as in training, got {values.dtype}.")
    if values.shape[2:] != shape and values.size == np.prod((*values.shape[:2], *shape)):
        values = values.reshape(*values.shape[:2], *shape)
    broken = int((~np.isfinite(values)).sum())
    if values.shape[2:] != shape or broken:
        raise ShapeError(
            f"Expected finite targets [N, *{list(shape)}], as in training, got "
            f"{list(values.shape[1:])}{f', {broken} of them NaN or infinite' if broken else ''}."
        )
    if scaling is not None:
        values = scaling.targets(torch.from_numpy(native(values))).numpy()
    flat = values.reshape(values.shape[0] * values.shape[1], -1)
    warn_of_ranges(flat, ranges.get("targets"), "targets", advice=advice(ranges, scaling))
    return torch.from_numpy(native(values)).to(dtype or torch.float32)


def plain_labels(values: np.ndarray) -> np.ndarray:
    """Returns names and whole numbers that are objects, as pandas has them, in NumPy's types."""
    if values.dtype.kind == "T":
        values = values.astype(object)
    if values.dtype != object or not values.size:
        return values
    kinds = {type(value) for value in values.flat}
    if all(issubclass(kind, str) for kind in kinds):
        return values.astype(str)
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        with contextlib.suppress(OverflowError):  # they stay objects
            return values.astype(np.int64)
    return values


def labels_of(values: np.ndarray, ranges: dict[str, Any]) -> np.ndarray:
    """Returns targets [T, N, *] that are labels as in training, of any kind; a column as [T, N].

    Raises:
        ShapeError: They are none.
    """
    is_single = not ranges.get("target_shape")
    if is_single and values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if is_single and values.ndim != 2:
        raise ShapeError(
            f"Expected a label per example, got targets {list(values.shape)}; of one-hot rows "
            "take the argmax."
        )
    if values.dtype.kind in "fmM" and np.isnan(values).any():
        raise ShapeError(
            "Expected a label of every example, got NaN or masked ones: leave these examples out."
        )
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ShapeError(
            "Expected labels, as in training, got numbers that are not whole: the run was "
            "trained to classify."
        )
    return values


def class_targets(
    values: np.ndarray, most: int | None, fixed: bool, ignored: int | None
) -> tuple[Tensor, list[np.ndarray]]:
    """Numbers the labels of each task; those of training stay as they are.

    Args:
        values: Labels of any kind, [T, N, *].
        most: Classes of a task in training; None: unknown.
        fixed: Whether the network has an output for each class, so that there can be no more.
        ignored: The label that marks an example as ignored; None: there is none.

    Returns:
        Labels from 0 on, [T, N, *] int64, and the user's labels of each task in that order.

    Raises:
        TaskError: There are more classes than outputs, or labels of several kinds.
    """
    are_numbers = values.dtype.kind in "iuf"
    left_out = values == ignored if are_numbers else np.zeros(values.shape, bool)
    known = values[~left_out]
    if are_numbers and most and known.size:
        gapless = all(len(np.unique(row)) == row.max() + 1 for row in values)
        if known.min() >= 0 and known.max() < most and (gapless or fixed):
            names = [np.arange(most, dtype=np.int64)] * len(values)
            return torch.from_numpy(values.astype(np.int64)), names
    classes = [_different(row[~out]) for row, out in zip(values, left_out, strict=True)]
    count = max(map(len, classes))
    if fixed and most and count > most:
        raise TaskError(f"Expected at most {most} classes, as in training, got {count}.")
    rows = [np.searchsorted(c, row) for c, row in zip(classes, values, strict=True)]
    numbered = np.where(left_out, ignored or 0, np.stack(rows)).astype(np.int64)
    return torch.from_numpy(numbered), classes


def _different(values: np.ndarray) -> np.ndarray:
    """Returns the different labels of a task.

    Raises:
        TaskError: Labels cannot be compared, such as names and missing values.
    """
    try:
        return np.unique(values)
    except TypeError as error:
        kinds = sorted({type(np.asarray(label).item()).__name__ for label in values.flat})
        raise TaskError(
            f"Expected labels of one kind, names or numbers, got {', '.join(kinds)}. Leave out the "
            "examples without a label."
        ) from error
