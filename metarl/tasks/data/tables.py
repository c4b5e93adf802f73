"""Tables: pandas, Arrow and mappings of columns. `table_files` opens files and other tables."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import DataError, SettingsError, ShapeError, short_repr
from metarl.registry import check_choice
from metarl.tasks.data.arrow_columns import arrow_column
from metarl.tasks.data.columns import (
    Column,
    checked_numbers,
    column_of_lists,
    missing_values,
    unsuitable_column,
)
from metarl.tasks.data.labels import is_missing
from metarl.tasks.data.plain import (
    as_tensor,
    check_one_type,
    image_arrays,
    is_image,
    tensor_array,
)
from metarl.tasks.data.sources import checked_tensor

START = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def is_table(data: Any) -> bool:
    """Returns whether the data have named columns: a mapping, a data frame, a table or a file."""
    return (
        isinstance(data, Mapping | str | os.PathLike)
        or is_structured(data)
        or is_arrow(data)
        or (hasattr(data, "columns") and hasattr(data, "iloc"))
        or becomes_arrow(data)
    )


def becomes_arrow(data: Any) -> bool:
    """Returns whether the data are the table of another library, such as polars, for Arrow."""
    named = hasattr(data, "columns") or hasattr(data, "column_names")
    can = named and hasattr(data, "__arrow_c_stream__") and not hasattr(data, "iloc")
    return can or is_hugging_face(data)


def is_hugging_face(data: Any) -> bool:
    """Returns whether the data are a Hugging Face `Dataset`, by its interface."""
    return all(hasattr(data, name) for name in ("column_names", "with_format", "num_rows"))


def is_structured(data: Any) -> bool:
    """Returns whether the data are an array of NumPy with named fields."""
    return isinstance(data, np.ndarray) and data.dtype.names is not None


def is_arrow(data: Any) -> bool:
    """Returns whether the data are an Arrow table or record batch."""
    return hasattr(data, "schema") and hasattr(data, "column_names") and hasattr(data, "num_rows")


def column_names(table: Any) -> list[str]:
    """Returns the names of the columns; raises DataError if one repeats."""
    if isinstance(table, Mapping):
        names = list(table)
    else:
        names = list(table.column_names if is_arrow(table) else table.columns)
    repeated = (
        {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    )
    if repeated:
        raise DataError(
            f"The table has several columns {sorted(map(str, repeated))[0]!r}; rename them."
        )
    return names


def is_name(value: Any, known: Sequence[Any] = ()) -> bool:
    """Returns whether a value names a column of a table with the columns `known`.

    A string or a number does, and a tuple that is the name of a column: those of pandas may be any.
    """
    if isinstance(value, str | int | np.integer) and not isinstance(value, bool):
        return True
    return isinstance(value, tuple) and value in known


def listed_columns(argument: str, columns: Any, known: Sequence[Any]) -> list[Any]:
    """Returns the name of a column, or several, as a list.

    Args:
        argument: Name of the argument that they are given as, for messages.
        columns: A name, or names in an order.
        known: The columns of the table.

    Raises:
        SettingsError: They are neither, such as a set, whose order changes from run to run.
    """
    if is_name(columns, known):
        return [columns]
    if isinstance(columns, set | frozenset) or not isinstance(columns, Iterable):
        raise SettingsError(
            f"Expected `{argument}` as the name of a column or a list of names in their order, "
            f"got {short_repr(columns)}; the table has {short_repr(known)}."
        )
    return list(columns)


def index_columns(table: Any) -> list[str]:
    """Returns the columns of an Arrow table that were the index of a data frame of pandas."""
    if not is_arrow(table) or not table.schema.pandas_metadata:
        return []
    index = table.schema.pandas_metadata.get("index_columns", [])
    return [name for name in index if isinstance(name, str)]


def check_columns(table: Any, names: Sequence[str]) -> None:
    """Raises SettingsError unless the table has all columns; it suggests the nearest name."""
    known = column_names(table)
    found = set(known)
    for name in names:
        if not isinstance(name, Hashable) or name not in found:
            if name in getattr(getattr(table, "index", None), "names", ()):
                raise SettingsError(
                    f"Expected a column, and {name!r} is the index of the table: pass "
                    "`table.reset_index()`, which makes a column of it."
                )
            check_choice("column", str(name), map(str, known))
            raise SettingsError(f"Unknown column {name!r}; the table has {short_repr(known)}.")


def read_column(table: Any, name: str) -> Column:
    """Reads a column into memory.

    Raises:
        SettingsError: The table has no such column.
        TaskError: A value is missing.
        ShapeError: It holds neither numbers nor strings nor lists of numbers.
    """
    check_columns(table, [name])
    return known_column(table, name)


def known_column(table: Any, name: str) -> Column:
    """Reads a column that the table has; see `read_column`, which searches all names first."""
    if is_arrow(table):
        return arrow_column(table[name], name)
    return _plain_column(table[name], name)


def read_times(table: Any, name: str) -> np.ndarray:
    """Reads a column that orders rows: numbers, dates or durations, which become integers.

    Raises:
        TaskError: A date is missing.
        ShapeError: Strings are no dates in the form of ISO 8601.
    """
    check_columns(table, [name])
    column = table[name]
    if hasattr(column, "dt"):
        times = _pandas_times(column, name)
    else:
        times = column.to_numpy() if is_arrow(table) else np.asarray(column)
    if times.dtype.kind == "O" and all(isinstance(time, datetime.date) for time in times):
        return np.array([_microseconds(t, name, row) for row, t in enumerate(times)], np.int64)
    if times.dtype.kind not in "mM":
        column = known_column(table, name)
        return _iso_times(column.values, name) if column.is_text else column.values
    if np.isnat(times).any():
        raise missing_values(name, int(np.isnat(times).argmax()))
    return times.astype(np.int64)


def _pandas_times(column: Any, name: str) -> np.ndarray:
    """Returns dates, durations or periods of pandas as numbers or dates in the column's unit."""
    if column.isna().any():
        raise missing_values(name, int(np.asarray(column.isna()).argmax()))
    if hasattr(column.dtype, "tz"):
        column = column.dt.tz_convert(None)
    elif hasattr(column.dtype, "freq"):  # periods
        return column.astype("int64").to_numpy().astype("timedelta64[s]")  # in some unit
    return column.to_numpy()


def _microseconds(date: datetime.date, name: str, row: int) -> int:
    """Returns a date as microseconds since 1970; without a zone, of UTC."""
    if is_missing(date):
        raise missing_values(name, row)
    if not isinstance(date, datetime.datetime):
        date = datetime.datetime(date.year, date.month, date.day)
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return (date - START) // datetime.timedelta(microseconds=1)


def _iso_times(texts: np.ndarray, name: str) -> np.ndarray:
    """Returns dates in the form of ISO 8601 as `_microseconds`."""
    times = []
    for row, text in enumerate(texts):
        try:
            date = datetime.datetime.fromisoformat(text)
        except ValueError as error:
            raise ShapeError(
                f"Expected times in the column {name!r} as numbers or dates, got the string "
                f"{text!r} in row {row}: strings would be sorted by their characters ('10' before "
                "'9'). Convert the column, such as by pandas.to_numeric or pandas.to_datetime."
            ) from error
        times.append(_microseconds(date, name, row))
    return np.array(times, dtype=np.int64)


def num_rows(table: Any, names: Sequence[str] | None = None) -> int:
    """Returns the number of rows of a table.

    Args:
        table: The table.
        names: The columns that are read; None: all. A mapping may hold other things too.

    Raises:
        ShapeError: These columns differ in length, or have none.
    """
    if is_arrow(table):
        return table.num_rows
    if not isinstance(table, Mapping):
        return len(table)
    counts: dict[str, int] = {}
    for name in list(table) if names is None else names:
        counts[name] = _length(table[name], name)
    if len(set(counts.values())) != 1:
        raise ShapeError(
            f"Expected columns of one length, got {short_repr(counts)}; leave others out, or name "
            "the columns of the inputs: inputs=[...]."
        )
    return next(iter(counts.values()))


def _length(values: Any, name: str) -> int:
    """Returns the number of rows of a column; raises ShapeError if it is a single value."""
    try:
        return len(values)
    except TypeError as error:
        raise ShapeError(
            f"Expected a value for each row in the column {name!r}, got {short_repr(values)}; of "
            f"a single row, give [{short_repr(values)}]. Or leave it out, or name the columns of "
            "the inputs: inputs=[...]."
        ) from error


def numbers(table: Any, names: Sequence[str]) -> Tensor:
    """Returns columns of numbers side by side.

    Returns:
        Shape [M, D], float32; a column [M, *] of a mapping has as many numbers as it has elements.

    Raises:
        ShapeError: A column holds strings or lists.
        DataError: A value is not finite.
    """
    parts = []
    check_columns(table, names)
    for name in names:
        column = known_column(table, name)
        if column.is_text or column.lengths is not None:
            kind = "strings" if column.is_text else "lists"
            raise ShapeError(
                f"Expected numbers in the column {name!r}, got {kind}; leave it out, or convert it "
                "(categories to indices or one-hot columns)."
            )
        values = checked_tensor(as_tensor(column.values, f"column {name!r}"), False,
                                f"column {name!r}").to(torch.float32)  # fmt: skip
        parts.append(values.reshape(len(values), -1))
    if len({len(part) for part in parts}) != 1:
        raise ShapeError(f"Expected columns of one length, got {[len(part) for part in parts]}.")
    return torch.cat(parts, dim=1)


def _plain_column(values: Any, name: str) -> Column:
    """Converts a pandas Series, an array, a tensor or a list."""
    _length(values, name)
    if isinstance(values, Tensor):
        return Column(tensor_array(values, f"column {name!r}"))
    if np.ma.is_masked(values):
        raise missing_values(
            name, int(np.ma.getmaskarray(values).reshape(len(values), -1).any(1).argmax())
        )
    if hasattr(values, "isna"):
        missing = np.asarray(values.isna())
        if missing.any():
            raise missing_values(name, int(missing.argmax()))
    if is_image(next(iter(values), None)):
        return Column(image_arrays(values, f"column {name!r}"))
    if isinstance(values, list | tuple):  # of arrays, which NumPy would bring to one type
        check_one_type({v.dtype for v in values if getattr(v, "ndim", 0)}, f"column {name!r}")
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = _objects(values)
    if array.dtype.kind in "UST":
        array = array.astype(object)
    if array.dtype.kind == "O":
        return _from_objects(array, name)
    return Column(checked_numbers(array, name))


def _objects(values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def _from_objects(array: np.ndarray, name: str) -> Column:
    """Converts an object array of strings, of numbers, or of lists of numbers."""
    for row, value in enumerate(array):
        if is_missing(value):
            raise missing_values(name, row)
    kinds = {type(value) for value in array}
    if all(issubclass(kind, str) for kind in kinds):
        return Column(array)
    if all(issubclass(kind, int | np.integer | np.bool_) for kind in kinds):
        with contextlib.suppress(OverflowError):  # beyond 64 bits
            return Column(array.astype(bool if kinds <= {bool, np.bool_} else np.int64))
    if all(issubclass(kind, int | float | np.number | np.bool_ | Decimal) for kind in kinds):
        return Column(checked_numbers(array.astype(np.float64), name))
    if all(issubclass(kind, list | tuple | np.ndarray | Tensor) for kind in kinds):
        lists = [
            as_tensor(value, f"column {name!r}, row {i}").numpy() for i, value in enumerate(array)
        ]
        shapes = {value.shape[1:] for value in lists}
        if len(shapes) == 1:
            check_one_type({value.dtype for value in lists}, f"column {name!r}")
            lengths = np.array([len(value) for value in lists])
            return column_of_lists(np.concatenate(lists), lengths, name)
    if len(kinds) == 1:
        raise unsuitable_column(name, kinds.pop().__name__)
    raise ShapeError(
        f"Expected numbers, strings or lists of numbers in the column {name!r}, got a mixture of "
        f"{', '.join(sorted(kind.__name__ for kind in kinds))}; convert it to one type."
    )
