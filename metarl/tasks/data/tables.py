"""Tables: pandas, Arrow and mappings of columns. `table_files` opens files."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.errors import DataError, SettingsError, ShapeError, TaskError, short_repr
from metarl.extras import import_extra
from metarl.registry import check_choice
from metarl.tasks.data.labels import is_missing
from metarl.tasks.data.plain import as_tensor, image_arrays, is_image, tensor_array
from metarl.tasks.data.sources import checked_tensor

EXTRA = "data"
"""The extra with pyarrow."""


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


def is_table(data: Any) -> bool:
    """Returns whether the data have named columns: a mapping, a data frame, a table or a file."""
    return (
        isinstance(data, Mapping | str | os.PathLike)
        or is_structured(data)
        or is_arrow(data)
        or (hasattr(data, "columns") and hasattr(data, "iloc"))
    )


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


def index_columns(table: Any) -> list[str]:
    """Returns the columns of an Arrow table that were the index of a data frame of pandas."""
    if not is_arrow(table) or not table.schema.pandas_metadata:
        return []
    index = table.schema.pandas_metadata.get("index_columns", [])
    return [name for name in index if isinstance(name, str)]


def check_columns(table: Any, names: Sequence[str]) -> None:
    """Raises SettingsError unless the table has all columns; it suggests the nearest name."""
    known = column_names(table)
    for name in names:
        if name not in known:
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
    if is_arrow(table):
        return arrow_column(table[name], name)
    return _plain_column(table[name], name)


def read_times(table: Any, name: str) -> np.ndarray:
    """Reads a column that orders rows: numbers, or dates, which become integers.

    Raises:
        TaskError: A date is missing.
        ShapeError: Strings are no dates in the form of ISO 8601.
    """
    check_columns(table, [name])
    column = table[name]
    if hasattr(column, "dt"):  # pandas: those with a time zone, too
        dates = column.to_numpy(dtype="datetime64[ns]")
    else:
        dates = column.to_numpy() if is_arrow(table) else np.asarray(column)
    if dates.dtype.kind == "O" and all(isinstance(date, datetime.date) for date in dates):
        dates = dates.astype("datetime64[us]")
    if dates.dtype.kind != "M":
        column = read_column(table, name)
        return _iso_times(column.values, name) if column.is_text else column.values
    if np.isnat(dates).any():
        raise _missing(name, int(np.isnat(dates).argmax()))
    return dates.astype(np.int64)


def _iso_times(texts: np.ndarray, name: str) -> np.ndarray:
    """Returns dates in the form of ISO 8601 as microseconds since 1970; without a zone, of UTC."""
    zone = datetime.UTC
    start, unit = datetime.datetime(1970, 1, 1, tzinfo=zone), datetime.timedelta(microseconds=1)
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
        times.append(((date if date.tzinfo else date.replace(tzinfo=zone)) - start) // unit)
    return np.array(times, dtype=np.int64)


def num_rows(table: Any) -> int:
    """Returns the number of rows of a table; raises ShapeError if columns differ in length."""
    if is_arrow(table):
        return table.num_rows
    if not isinstance(table, Mapping):
        return len(table)
    counts = {name: len(values) for name, values in table.items()}
    if len(set(counts.values())) != 1:
        raise ShapeError(f"Expected columns of one length, got {short_repr(counts)}.")
    return next(iter(counts.values()))


def numbers(table: Any, names: Sequence[str]) -> Tensor:
    """Returns columns of numbers side by side.

    Returns:
        Shape [M, D], float32; a column [M, *] of a mapping has as many numbers as it has elements.

    Raises:
        ShapeError: A column holds strings or lists.
        DataError: A value is not finite.
    """
    parts = []
    for name in names:
        column = read_column(table, name)
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


def arrow_column(column: Any, name: str) -> Column:
    """Converts a column of an Arrow table; see `read_column`."""
    if column.null_count:
        row = next(i for i, chunk in enumerate(column) if not chunk.is_valid)
        raise _missing(name, row)
    types = import_extra("pyarrow.types", EXTRA)
    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_decimal(kind):
        column, kind = column.cast("float64"), None
    if kind is None or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return Column(_checked(column.to_numpy(), name))
    if types.is_string(kind) or types.is_large_string(kind):
        return Column(np.array(column.to_pylist(), dtype=object))
    if types.is_fixed_size_list(kind):
        flat = _numeric(column.combine_chunks().flatten(), name)
        return Column(_checked(flat.reshape(len(column), kind.list_size, *flat.shape[1:]), name))
    if types.is_list(kind) or types.is_large_list(kind):
        return _arrow_lists(column, name)
    raise _unsuitable(name, kind)


def _arrow_lists(column: Any, name: str) -> Column:
    compute = import_extra("pyarrow.compute", EXTRA)
    lengths = compute.list_value_length(column).to_numpy().astype(np.int64)
    flat = column.combine_chunks().flatten()
    return _lists(_numeric(flat, name), lengths, name)


def _numeric(values: Any, name: str) -> np.ndarray:
    """Returns the elements of lists, an Arrow array of numbers or of vectors of one size."""
    types = import_extra("pyarrow.types", EXTRA)
    kind = values.type
    if values.null_count:
        raise TaskError(f"The column {name!r} has lists with missing elements; fill them in.")
    if types.is_fixed_size_list(kind):
        return _numeric(values.flatten(), name).reshape(len(values), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        nested = [np.asarray(element) for element in values.to_pylist()]
        if len({element.shape for element in nested}) == 1:
            return np.stack(nested)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return values.to_numpy(zero_copy_only=False)
    raise _unsuitable(name, f"lists of {kind}")


def _lists(flat: np.ndarray, lengths: np.ndarray, name: str) -> Column:
    """Returns lists as a matrix if their lengths are equal."""
    if len(lengths) and lengths.min() == 0:
        raise ShapeError(
            f"The list of row {int(lengths.argmin())} in the column {name!r} is empty."
        )
    if len(set(lengths.tolist())) == 1:
        return Column(flat.reshape(len(lengths), int(lengths[0]), *flat.shape[1:]))
    return Column(flat, lengths)


def _plain_column(values: Any, name: str) -> Column:
    """Converts a pandas Series, an array, a tensor or a list."""
    if isinstance(values, Tensor):
        return Column(tensor_array(values, f"column {name!r}"))
    if np.ma.is_masked(values):
        raise _missing(
            name, int(np.ma.getmaskarray(values).reshape(len(values), -1).any(1).argmax())
        )
    if hasattr(values, "isna"):
        missing = np.asarray(values.isna())
        if missing.any():
            raise _missing(name, int(missing.argmax()))
    if is_image(next(iter(values), None)):
        return Column(image_arrays(values, f"column {name!r}"))
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = _objects(values)
    if array.dtype.kind in "UST":
        array = array.astype(object)
    return _from_objects(array, name) if array.dtype.kind == "O" else Column(_checked(array, name))


def _objects(values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def _from_objects(array: np.ndarray, name: str) -> Column:
    """Converts an object array of strings, of numbers, or of lists of numbers."""
    for row, value in enumerate(array):
        if is_missing(value):
            raise _missing(name, row)
    kinds = {type(value) for value in array}
    if all(issubclass(kind, str) for kind in kinds):
        return Column(array)
    if all(issubclass(kind, int | float | np.number | bool | np.bool_) for kind in kinds):
        return Column(_checked(array.astype(np.float64), name))
    if all(issubclass(kind, list | tuple | np.ndarray | Tensor) for kind in kinds):
        lists = [
            as_tensor(value, f"column {name!r}, row {i}").numpy() for i, value in enumerate(array)
        ]
        shapes = {value.shape[1:] for value in lists}
        if len(shapes) == 1:
            lengths = np.array([len(value) for value in lists])
            return _lists(np.concatenate(lists), lengths, name)
    if len(kinds) == 1:
        raise _unsuitable(name, kinds.pop().__name__)
    raise ShapeError(
        f"Expected numbers, strings or lists of numbers in the column {name!r}, got a mixture of "
        f"{', '.join(sorted(kind.__name__ for kind in kinds))}; convert it to one type."
    )


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
        raise _missing(name, int(bad.argmax()))
    if array.dtype.kind not in "biuf":
        raise _unsuitable(name, array.dtype)
    return array


def _missing(name: str, row: int) -> TaskError:
    return TaskError(
        f"The column {name!r} has values that are missing or not finite, first in row {row}; drop "
        "these rows or fill them in."
    )


def _unsuitable(name: str, kind: Any) -> ShapeError:
    return ShapeError(
        f"Expected numbers, strings or lists of numbers in the column {name!r}, got {kind}; "
        "convert it (dates to seconds), or leave it out."
    )
