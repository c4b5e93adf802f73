"""The inputs, labels and splits of a table, in memory or read when they are needed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.extras import import_extra
from metarl.tasks.data.arrow_columns import EXTRA, arrow_column
from metarl.tasks.data.characters import Characters
from metarl.tasks.data.columns import Column
from metarl.tasks.data.labels import number_labels
from metarl.tasks.data.plain import as_tensor
from metarl.tasks.data.sources import (
    RowReader,
    SequenceSource,
    TensorSource,
    array_source,
    checked_tensor,
    flat_source,
)
from metarl.tasks.data.table_files import open_table
from metarl.tasks.data.tables import (
    check_columns,
    column_names,
    index_columns,
    is_arrow,
    is_name,
    known_column,
    listed_columns,
    num_rows,
    numbers,
    read_column,
)
from metarl.tasks.pools import Source

ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names of columns that pandas and Arrow write for the numbers of rows."""


@dataclass(frozen=True)
class TableSettings:
    """What is read of a table, and how; see `FewShotData`."""

    inputs: str | Sequence[str] | None
    labels: Any
    splits: Any
    length: int | None
    characters: Characters | None
    tokens: bool
    in_memory: bool
    takes_texts: bool = True

    def input_columns(self, known: Sequence[str], index: Sequence[str] = ()) -> list[str]:
        """Returns the columns of the inputs, by default all but those of labels and splits.

        Args:
            known: The columns of the table.
            index: Those that were the index of a data frame of pandas.
        """
        if self.inputs is not None:
            columns = listed_columns("inputs", self.inputs, known)
        else:
            named = [name for name in (self.labels, self.splits) if is_name(name, known)]
            columns = [name for name in known if name not in named]
            numbers_of_rows = [
                name for name in columns if ROW_NUMBERS.fullmatch(str(name)) or name in index
            ]
            if numbers_of_rows:
                raise SettingsError(
                    f"The column {numbers_of_rows[0]!r} seems to hold the numbers of rows that "
                    "pandas writes, which may give the classes away. Name the columns of the "
                    "inputs: inputs=[...]; or write files with to_csv(..., index=False)."
                )
        if not columns:
            raise SettingsError(f"The table has no columns of inputs, only {short_repr(known)}.")
        return columns

    def text_source(self, texts: Sequence[str]) -> SequenceSource:
        """Returns the source of texts; raises SettingsError without `characters`."""
        if not isinstance(self.characters, Characters):
            given = "" if self.characters is None else f", got {short_repr(self.characters)}"
            raise SettingsError(
                "Strings need `characters`, which turns them into indices: Characters.of(texts) of "
                f'the training texts, or a fixed alphabet, Characters("abc"){given}. Texts that '
                "stand for numbers have to be converted first, and files that they name read: "
                "images by `ImageFolder`, or by a data set that opens them."
            )
        flat, lengths = self.characters.encode_all(texts)
        return flat_source(flat, lengths, self.length, tokens=True)


class LoadedTable(NamedTuple):
    """Examples, their labels and their splits.

    Attributes:
        source: Reads the examples.
        labels: The label of each example, as it came.
        splits: The splits: the setting, or the column that it names.
        columns: The names of the columns of the inputs, if there are several; else None.
    """

    source: Source
    labels: Any
    splits: Any
    columns: tuple[str, ...] | None


def load_table(data: Any, settings: TableSettings) -> LoadedTable:
    """Returns the examples, labels and splits of a table; see `FewShotData`."""
    table = open_table(data)
    known = column_names(table)
    columns = settings.input_columns(known, index_columns(table))
    named = [name for name in (settings.labels, settings.splits) if is_name(name, known)]
    check_columns(table, [*columns, *named])
    if num_rows(table, [*columns, *named]) == 0:
        raise ShapeError("The table has no rows.")
    labels, splits = settings.labels, settings.splits
    if labels is None:
        raise SettingsError(
            f"Expected the column of the classes as `labels`, one of {short_repr(known)}."
        )
    for name in named:
        if name in columns:
            raise SettingsError(f"The column {name!r} has labels or splits; it is no input.")
    labels = read_column(table, labels).values if is_name(labels, known) else labels
    splits = read_column(table, splits).values if is_name(splits, known) else splits
    if settings.in_memory and settings.inputs is None:
        warn_if_given_away(table, columns, labels)
    if settings.in_memory:
        return LoadedTable(_in_memory(table, columns, settings), labels, splits, names_of(columns))
    if not is_arrow(table):
        raise SettingsError(
            "Only Arrow tables and files are read in parts; leave in_memory=True for this table."
        )
    reader = RowReader(
        ArrowRows(table, columns), num_rows(table), settings.length, settings.tokens, "table"
    )
    return LoadedTable(reader, labels, splits, names_of(columns))


def warn_if_given_away(table: Any, columns: list[str], labels: Any) -> None:
    """Warns if a column of numbers is another name of the classes.

    Such a column has one value in each class and another one in every class.
    """
    numbered = number_labels(labels, num_rows(table, columns))
    classes = len(numbered.values)
    if not 1 < classes < len(numbered.numbers):
        return
    first = numbered.order[numbered.counts.cumsum(0) - numbered.counts].numpy()
    for name in columns:
        column = known_column(table, name)
        values = column.values
        if column.is_text or column.lengths is not None or values.ndim != 1:
            continue
        one_each = values[first]
        if len(np.unique(one_each)) == classes and (values == one_each[numbered.numbers]).all():
            warnings.warn(
                f"The column {name!r} has one value in each class and another one in every class: "
                "as an input, it gives the classes away. Name it as `labels`, or name the columns "
                "of the inputs: inputs=[...].",
                RuntimeWarning,
                stacklevel=2,
            )


def names_of(columns: Sequence[Any]) -> tuple[str, ...] | None:
    """Returns the names of several columns, whose order matters; None of a single one."""
    return tuple(map(str, columns)) if len(columns) > 1 else None


def _in_memory(table: Any, columns: list[str], settings: TableSettings) -> Source:
    if len(columns) == 1:
        column = read_column(table, columns[0])
        if column.is_text and settings.takes_texts:
            return settings.text_source(column.values.tolist())
        if column.is_text:
            return TensorSource(numbers(table, columns))  # raises an error
        return _single(column, columns[0], settings)
    if settings.tokens:
        parts = [read_column(table, name) for name in columns]
        if any(part.is_text or part.lengths is not None or part.values.ndim > 1 for part in parts):
            raise ShapeError(
                "Expected columns of single indices, or one of lists of them, as the inputs, got "
                f"{short_repr(columns)}; name one with `inputs`."
            )
        values = np.stack([part.values for part in parts], axis=1)
        return TensorSource(as_tensor(values, "columns of inputs"), tokens=True)
    return TensorSource(numbers(table, columns))


def _single(column: Column, name: str, settings: TableSettings) -> Source:
    values = as_tensor(column.values, f"column {name!r}")
    if column.lengths is not None:
        flat = checked_tensor(values, settings.tokens, f"column {name!r}")
        lengths = torch.from_numpy(column.lengths)
        return flat_source(flat, lengths, settings.length, settings.tokens)
    if values.dim() == 1:
        values = torch.from_numpy(_feature(column.values))
    elif settings.length is not None:
        return array_source(values, settings.length, settings.tokens)
    return TensorSource(values, settings.tokens)


class ArrowRows:
    """Reads rows of an Arrow table, touching only the record batches that have them.

    Args:
        table: The table, in memory or mapped.
        columns: Columns of numbers, or one of lists.
    """

    def __init__(self, table: Any, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.batches = table.select(list(columns)).to_batches()
        sizes = np.array([batch.num_rows for batch in self.batches], dtype=np.int64)
        self.ends = sizes.cumsum()

    def __call__(self, rows: np.ndarray) -> Any:
        """Returns the values of increasing row numbers; see `RowReader`."""
        pyarrow = import_extra("pyarrow", EXTRA)
        parts = []
        owners = np.searchsorted(self.ends, rows, side="right")
        for owner in np.unique(owners):
            batch = self.batches[owner]
            inside = rows[owners == owner] - (self.ends[owner] - batch.num_rows)
            parts.append(batch.take(pyarrow.array(inside)))
        return arrow_values(pyarrow.Table.from_batches(parts), self.columns)


def arrow_values(table: Any, columns: Sequence[str]) -> Any:
    """Returns columns of a small Arrow table: an array, or a list of arrays of unequal lengths."""
    if len(columns) > 1:
        return numbers(table, columns).numpy()
    column = arrow_column(table[columns[0]], columns[0])
    if column.is_text:
        raise ShapeError(f"The column {columns[0]!r} has strings; read it with in_memory=True.")
    if column.lengths is not None:
        return np.split(column.values, column.lengths.cumsum()[:-1])
    return _feature(column.values) if column.values.ndim == 1 else column.values


def _feature(values: np.ndarray) -> np.ndarray:
    """Returns a column of single numbers [M] as [M, 1]; small integers are no pixels here."""
    wide = np.int32 if values.dtype in (np.uint8, np.uint16) else values.dtype
    return values[:, None].astype(wide)
