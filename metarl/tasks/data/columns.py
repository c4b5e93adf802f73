"""A column of a table, and what it must not hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metarl.errors import ShapeError, TaskError


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        values: Numbers [M, *]; strings [M] as an object array; or the elements of lists, one list
            after the other, [sum of lengths, *].
        lengths: The length of each list, [M], int64, or None for numbers and strings.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None

    @property
    def is_text(self) -> bool:
        """Whether the values are strings."""
        return self.values.dtype.kind in "OUST"


def column_of_lists(flat: np.ndarray, lengths: np.ndarray, name: str) -> Column:
    """Returns lists as a matrix if their lengths are equal."""
    if len(lengths) and lengths.min() == 0:
        raise ShapeError(
            f"The list of row {int(lengths.argmin())} in the column {name!r} is empty."
        )
    if len(set(lengths.tolist())) == 1:
        return Column(flat.reshape(len(lengths), int(lengths[0]), *flat.shape[1:]))
    return Column(flat, lengths)


def checked_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Returns an array of finite numbers; raises TaskError or ShapeError for others."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
        raise missing_values(name, int(bad.argmax()))
    if array.dtype.kind not in "biuf":
        raise unsuitable_column(name, array.dtype)
    return array


def missing_values(name: str, row: int) -> TaskError:
    """Returns the error of a column with missing values."""
    return TaskError(
        f"The column {name!r} has values that are missing or not finite, first in row {row}; drop "
        "these rows or fill them in."
    )


def unsuitable_column(name: str, kind: Any) -> ShapeError:
    """Returns the error of a column of another kind."""
    return ShapeError(
        f"Expected numbers, strings or lists of numbers in the column {name!r}, got {kind}; "
        "convert it (dates to seconds, or to strings where they name groups), or leave it out."
    )
