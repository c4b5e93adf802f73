"""Tables in files: CSV, Parquet and Arrow."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any

from metarl.errors import DataError
from metarl.extras import import_extra
from metarl.tasks.data.tables import EXTRA, is_structured

READERS = {".csv": ",", ".tsv": "\t", ".parquet": "", ".arrow": "", ".feather": ""}
"""Ending of a file that can be read -> delimiter."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def open_table(data: Any) -> Any:
    """Returns a table; the path of a file is opened.

    A CSV or Parquet file is read into memory. An Arrow file (.arrow, .feather, uncompressed) is
    mapped: only what is used is read.

    Raises:
        DataError: The file is missing, damaged or of unknown type.
        SettingsError: pyarrow is not installed.
    """
    if is_structured(data):
        return {name: data[name] for name in data.dtype.names}
    if not isinstance(data, str | os.PathLike):
        return data
    path = Path(data).expanduser()
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
