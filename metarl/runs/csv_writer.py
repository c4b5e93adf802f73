"""Writes the scalars of a run as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from metarl.errors import CheckpointError
from metarl.runs.writer import Writer, WrittenRun
from metarl.tasks.files import check_regular, write_bytes

CSV_FILE = "metrics.csv"
COLUMNS = ("step", "tag", "value")
REPORT = "by_adaptation_steps/"
"""Begin of the tags whose step is the number of adaptation steps."""
_LONGEST = 10_000  # characters of a row
_MOST_DIGITS = 19  # of a step


class CsvWriter(Writer):
    """Appends to `metrics.csv` of the run folder: the columns step, tag and value.

    `pandas.read_csv(path).pivot(index="step", columns="tag", values="value")` has a row per step.
    A resumed run drops rows of void iterations, and a row that a crash has cut. What it writes
    again, such as its report, replaces the rows of the same step and tag.

    Args:
        run: The run.

    Raises:
        CheckpointError: The file cannot be written.
    """

    def __init__(self, run: WrittenRun) -> None:
        self._path = run.folder / CSV_FILE
        try:
            kept = [] if run.resume_from is None else list(_rows(self._path, run.resume_from))
            self._write(kept)
        except OSError as error:
            raise self._unwritable(error) from error
        self._earlier = {(int(step), tag) for step, tag, _ in kept}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        try:
            again = {(step, tag) for tag in values} & self._earlier
            if again:
                self._earlier -= again
                rows = _rows(self._path, None)
                self._write([row for row in rows if (int(row[0]), row[1]) not in again])
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows((step, tag, value) for tag, value in values.items())
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, rows: list[list[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *rows])
        write_bytes(self._path, text.getvalue().encode())

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"Cannot write {self._path}: {error}.")


def _rows(path: Path, last: int | None) -> Iterator[list[str]]:
    """Yields the complete rows before the first of an iteration after `last`, without the header.

    A report's rows come after those of its iteration. None: all rows.
    """
    if not path.exists():
        return
    check_regular(path)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for line in file:
            row = _row(line)
            if row is None:
                continue
            if last is not None and int(row[0]) > last and not row[1].startswith(REPORT):
                return
            yield row


def _row(line: str) -> list[str] | None:
    """Returns the fields of a complete row; None for other lines."""
    if not line.endswith("\n") or len(line) > _LONGEST:
        return None
    row = next(csv.reader([line]), [])
    is_row = len(row) == len(COLUMNS) and row[0].isascii() and row[0].isdecimal()
    return row if is_row and len(row[0]) < _MOST_DIGITS else None
