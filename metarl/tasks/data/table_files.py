"""Tables in files: CSV, Parquet and Arrow."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any

from metarl.errors import DataError, SettingsError
from metarl.extras import import_extra
from metarl.ranges import user_path
from metarl.tasks.data.arrow_columns import EXTRA
from metarl.tasks.data.tables import becomes_arrow, is_arrow, is_hugging_face, is_structured

READERS = {".csv": ",", ".tsv": "\t", ".parquet": "", ".arrow": "", ".feather": ""}
"""Ending of a file that can be read -> delimiter."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def open_table(data: Any) -> Any:
    """Returns a table; the path of a file is opened, tables of other libraries become Arrow's.

    A CSV or Parquet file is read into memory. An Arrow file (.arrow, .feather, uncompressed) is
    mapped: only what is used is read.

    Raises:
        DataError: The file is missing, damaged or of unknown type.
        SettingsError: pyarrow is not installed, or a data set of Hugging Face changes its rows.
    """
    if is_structured(data):
        return {name: data[name] for name in data.dtype.names}
    if is_hugging_face(data):
        return hugging_face_table(data)
    if becomes_arrow(data) and not is_arrow(data):
        return import_extra("pyarrow", EXTRA).table(data)
    if not isinstance(data, str | os.PathLike):
        return data
    path = user_path(data, "data")
    if path.is_dir():
        raise DataError(f"Expected a table, {path} is a folder; `ImageFolder` reads images.")
    if path.suffix.lower() not in READERS:
        raise DataError(f"Expected a file of type {', '.join(READERS)}, got {path}.")
    if not path.is_file():
        raise DataError(f"The table {path} is missing.")
    pyarrow = import_extra("pyarrow", EXTRA)
    try:
        return _read_file(pyarrow, path)
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"Cannot read the table {path}: {error}.") from error


def hugging_face_table(dataset: Any) -> Any:
    """Returns a Hugging Face `Dataset` as an Arrow table."""
    if is_transformed(dataset):
        raise SettingsError(
            "Expected a data set without `set_transform` or `with_transform`, which change rows as "
            "they are read: apply the function by `dataset.map`, or choose a column of inputs."
        )
    return dataset.with_format("arrow")[:]


def is_transformed(dataset: Any) -> bool:
    """Returns whether a Hugging Face `Dataset` passes its rows through a function of the user's."""
    return getattr(dataset, "format", {}).get("type") == "custom"


def read_csv(path: Path, delimiter: str = ",") -> Any:
    """Reads a file of separated values as an Arrow table, in which empty texts are missing.

    Raises:
        SettingsError: pyarrow is not installed.
        DataError: The fields are separated otherwise, or texts are no UTF-8.
        ArrowException: The file is damaged.
    """
    _check_first_line(path, delimiter)
    csv = import_extra("pyarrow.csv", EXTRA)
    compute = import_extra("pyarrow.compute", EXTRA)
    types = import_extra("pyarrow.types", EXTRA)
    table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))
    for number, column in enumerate(table.columns):
        if types.is_binary(column.type):  # Arrow's type of texts that are no UTF-8
            raise _no_utf8(path, f"the column {table.column_names[number]!r}")
        if types.is_string(column.type):
            known = compute.if_else(compute.equal(column, ""), None, column)
            table = table.set_column(number, table.field(number), known)
    return table


def _check_first_line(path: Path, delimiter: str) -> None:
    """Raises DataError if the names of the columns are separated or encoded otherwise."""
    with path.open("rb") as file:
        start = file.readline(1 << 16)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _no_utf8(path, "its beginning", "utf-16")
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.end < len(start):  # else the end of what was read may cut a character
            raise _no_utf8(path, "its first line") from error
    line = start.decode("utf-8", "replace")
    others = [other for other in SEPARATORS if other in line]
    if delimiter not in line and others:
        raise DataError(
            f"Expected fields separated by {SEPARATORS[delimiter]} in the table {path}, and its "
            f"first line has {SEPARATORS[others[0]]} instead. Read it by another library and pass "
            f"what it returns: pandas.read_csv(path, sep={others[0]!r}), with decimal=',' for "
            "numbers with a comma."
        )


def _no_utf8(path: Path, where: str, encoding: str = "latin-1") -> DataError:
    return DataError(
        f"Expected the table {path} as UTF-8, which {where} is not. Read it by another library and "
        f"pass what it returns: pandas.read_csv(path, encoding={encoding!r})."
    )


def _read_file(pyarrow: Any, path: Path) -> Any:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return import_extra("pyarrow.parquet", EXTRA).read_table(path)
    if READERS[ending]:
        return read_csv(path, READERS[ending])
    ipc = import_extra("pyarrow.ipc", EXTRA)
    mapped = pyarrow.memory_map(str(path))
    try:
        return ipc.open_file(mapped).read_all()
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return ipc.open_stream(mapped).read_all()
