"""Writes the scalars of a run as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from metarl.errors import CheckpointError
from metarl.runs.writer import Writer, WrittenRun
from metarl.tasks.files import write_bytes

CSV_FILE = "metrics.csv"
COLUMNS = ("step", "tag", "value")


class CsvWriter(Writer):
    """Appends to `metrics.csv` of the run folder: the columns step, tag and value.

    `pandas.read_csv(path).pivot(index="step", columns="tag", values="value")` has a row per step.
    A resumed run drops rows of void iterations, and a row that a crash has cut.

    Args:
        run: The run.

    Raises:
        CheckpointError: The file cannot be written.
    """

    def __init__(self, run: WrittenRun) -> None:
        self._path = run.folder / CSV_FILE
        try:
            kept = [] if run.resume_from is None else list(_rows(self._path, run.resume_from))
            text = io.StringIO(newline="")
            csv.writer(text).writerows([COLUMNS, *kept])
            write_bytes(self._path, text.getvalue().encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows((step, tag, value) for tag, value in values.items())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"Cannot write {self._path}: {error}.")


def _rows(path: Path, last: int) -> Iterator[list[str]]:
    """Yields the complete rows up to step `last`, without the header."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.reader(line for line in file if line.endswith("\n")):
            if len(row) == len(COLUMNS) and row[0].isdigit() and int(row[0]) <= last:
                yield row
