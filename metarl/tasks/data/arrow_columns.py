"""Columns of Arrow tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import TaskError
from metarl.extras import import_extra
from metarl.tasks.data.columns import (
    Column,
    checked_numbers,
    column_of_lists,
    missing_values,
    unsuitable_column,
)

EXTRA = "data"
"""The extra with pyarrow."""


def arrow_column(column: Any, name: str) -> Column:
    """Converts a column of an Arrow table; see `tables.read_column`."""
    if column.null_count:
        row = next(i for i, chunk in enumerate(column) if not chunk.is_valid)
        raise missing_values(name, row)
    types = import_extra("pyarrow.types", EXTRA)
    column = _stored(column)
    if isinstance(column, np.ndarray):
        return Column(checked_numbers(column, name))
    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_decimal(kind):
        column, kind = column.cast("float64"), None
    if kind is None or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return Column(checked_numbers(column.to_numpy(), name))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Column(np.array(column.to_pylist(), dtype=object))
    if types.is_fixed_size_list(kind):
        flat = _numeric(column.combine_chunks().flatten(), name)
        values = flat.reshape(len(column), kind.list_size, *flat.shape[1:])
        return Column(checked_numbers(values, name))
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = _lengths(column)
        return column_of_lists(_numeric(column.combine_chunks().flatten(), name), lengths, name)
    raise unsuitable_column(name, kind)


def _stored(column: Any) -> Any:
    """Returns what an extension of Arrow's types stores, tensors of one shape as an array."""
    pyarrow = import_extra("pyarrow", EXTRA)
    if not isinstance(column.type, pyarrow.BaseExtensionType):
        return column
    if isinstance(column.type, pyarrow.FixedShapeTensorType):
        return column.combine_chunks().to_numpy_ndarray()
    return pyarrow.chunked_array([c.storage for c in column.chunks], column.type.storage_type)


def _lengths(lists: Any) -> np.ndarray:
    """Returns the length of each list of an Arrow array."""
    compute = import_extra("pyarrow.compute", EXTRA)
    return compute.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)


def _numeric(values: Any, name: str) -> np.ndarray:
    """Returns the elements of lists, an Arrow array of numbers or of vectors of one size."""
    types = import_extra("pyarrow.types", EXTRA)
    kind = values.type
    if values.null_count:
        raise TaskError(f"The column {name!r} has lists with missing elements; fill them in.")
    if types.is_fixed_size_list(kind):
        flat = _numeric(values.flatten(), name)
        return flat.reshape(len(values), kind.list_size, *flat.shape[1:])
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = _lengths(values)
        if len(np.unique(lengths)) == 1:
            flat = _numeric(values.flatten(), name)
            return flat.reshape(len(values), int(lengths[0]), *flat.shape[1:])
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return values.to_numpy(zero_copy_only=False)
    raise unsuitable_column(name, f"lists of {kind}")
