"""Forecasting tasks from the time series of a table or of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks.data.labels import Labels, Splits, first_split, number_labels, split_labels
from metarl.tasks.data.plain import as_tensor
from metarl.tasks.data.sources import sequence_source
from metarl.tasks.data.table_files import open_table
from metarl.tasks.data.tables import (
    check_columns,
    column_names,
    is_name,
    is_table,
    listed_columns,
    num_rows,
    numbers,
    read_column,
    read_times,
)
from metarl.tasks.scaling import one_where_constant
from metarl.tasks.series import SeriesTasks

LONG = 1.5
"""Steps of a series that are longer than the median by this factor are gaps."""


class Series(NamedTuple):
    """Time series.

    Attributes:
        values: All series one after the other, shape [sum of lengths, C], float32.
        lengths: Length of each series, shape [K], int64.
        names: The name of each series, as numbered labels of K examples.
        channels: The names of the channels.
        splits: The splits: the setting, or one name for each series.
    """

    values: Tensor
    lengths: Tensor
    names: Labels
    channels: tuple[str, ...]
    splits: Any


def Forecasting(  # noqa: N802 - reads like the other distributions
    data: Any,
    group: str | None = None,
    values: str | Sequence[str] | None = None,
    history: int = 16,
    horizon: int = 1,
    shots: int = 10,
    queries: int = 10,
    *,
    time: str | None = None,
    targets: str | Sequence[str] | None = None,
    splits: Splits | str = None,
    seed: int = 0,
    standardise: bool = False,
    short_series: Literal["refuse", "drop"] = "refuse",
) -> SeriesTasks:
    """Builds forecasting tasks from time series: each sensor, patient or shop is a task.

    The learner adapts to windows of a series before a random time, and is evaluated on windows
    after it; see `SeriesTasks`. The steps of a series are taken as equally long; a warning names
    series whose `time` has longer ones.

    Args:
        data: A table with one row for each series and time, as for `GroupedExamples`; or an array
            [K, L] or [K, L, C], or a list of arrays [L_i] or [L_i, C], of K series.
        group: The column with the series of each row; only of a table.
        values: Columns of numbers, the channels; only of a table.
        history: Values before the time of the forecast, the inputs.
        horizon: Values to forecast.
        shots: Support windows of a task.
        queries: Query windows of a task.
        time: The column that orders the rows of a series: numbers, dates or durations; None: they
            are in order.
        targets: The columns of `values` that are forecast; None: all. Only of a table.
        splits: Which series are in which split, as for the classes of `FewShotData`; the series of
            arrays are called 0, 1, 2, ....
        seed: Seed of a random split.
        standardise: Subtracts the mean of each channel and divides by its standard deviation, over
            the series of the training split. `SeriesTasks.restore` converts forecasts back.
        short_series: See `SeriesTasks`.

    Raises:
        ShapeError: The data are of a kind that is not listed above.
        DataError: A value is not finite, or a file cannot be read.
        TaskError: A value is missing, two rows have one series and time, or a split has no series.
        SettingsError: A column is missing, or the windows do not fit the series.
    """
    if is_table(data):
        series = _of_table(open_table(data), group, values, time, splits)
    elif (group, values, time, targets) != (None,) * 4:
        raise SettingsError("Arrays have no named columns: leave out group, values, time, targets.")
    else:
        series = _of_arrays(data, splits)
    parts = split_labels(series.names, series.splits, seed)
    flat, mean, std = series.values, None, None
    if standardise:
        if "train" not in parts:
            raise SettingsError("Standardisation needs training series; `splits` has none.")
        is_training = torch.zeros(len(series.lengths), dtype=torch.bool)
        is_training[parts["train"]] = True
        training = flat[is_training.repeat_interleave(series.lengths)].double()
        mean, std = training.mean(0), training.std(0, correction=0)
        std = one_where_constant(std, mean)
        flat, mean, std = ((flat - mean) / std).float(), mean.float(), std.float()
    return SeriesTasks(
        flat, series.lengths, series.names.names, parts, history, horizon,
        _channels(series.channels, targets), shots, queries,
        part=first_split(parts), short_series=short_series, mean=mean, std=std,
    )  # fmt: skip


def _of_table(table: Any, group: str | None, values: Any, time: str | None, splits: Any) -> Series:
    if group is None or values is None:
        raise SettingsError(
            "Expected `group`, the column of the series, and `values`, the channels, of a table "
            "with a row for each series and time. A table with a column for each series is an "
            "array, `table.to_numpy().T`, and a mapping of series a list, `list(series.values())`."
        )
    known = column_names(table)
    channels = listed_columns("values", values, known)
    columns: list[Any] = [c for c in (group, time, splits) if is_name(c, known)]
    check_columns(table, [*columns, *channels])
    rows = num_rows(table, [*columns, *channels])
    names = number_labels(read_column(table, group).values, rows, "series")
    flat = numbers(table, channels)
    order = names.order
    if time is not None:
        order = _in_time(names, read_times(table, time), time)
    if is_name(splits, known):
        # A column has a split for each row; all rows of a series have the same.
        splits = read_column(table, splits).values
        splits = _of_series(names, number_labels(splits, len(names.numbers), "split"))
    return Series(flat[order], names.counts, _numbered(names), tuple(channels), splits)


def _in_time(names: Labels, times: np.ndarray, column: str) -> Tensor:
    """Returns the rows sorted by series and time; raises TaskError if a time repeats."""
    series = names.numbers.numpy()
    order = np.lexsort((times, series))
    same = (series[order][1:] == series[order][:-1]) & (times[order][1:] == times[order][:-1])
    if same.any():
        row = int(order[1:][same][0])
        raise TaskError(
            f"Row {row} has the {column} {times[row]} that another row of the series "
            f"{names.names[series[row]]!r} has; leave one row for each time."
        )
    _warn_of_gaps(names, times[order], column)
    return torch.from_numpy(order)


def _warn_of_gaps(names: Labels, times: np.ndarray, column: str) -> None:
    """Warns where steps of a series are longer than usual in it; windows take them as equal.

    Args:
        names: The series of the rows.
        times: The times of the rows, sorted by series and time.
        column: Their column.
    """
    ends = names.counts.cumsum(0).numpy()
    longer: dict[Any, int] = {}
    for name, part in zip(names.names, np.split(times, ends[:-1]), strict=True):
        steps = np.diff(part)
        if len(steps) and (count := int((steps > LONG * np.median(steps)).sum())):
            longer[name] = count
    if longer:
        first = next(iter(longer))
        warnings.warn(
            f"{len(longer)} of {len(names.names)} series have steps of the column {column!r} that "
            f"are longer than {LONG} times their usual one, such as {longer[first]} of {first!r}: "
            "windows take all steps as equally long. Fill the gaps, or name the parts before and "
            "after them as series of their own.",
            RuntimeWarning,
            stacklevel=4,
        )


def _of_series(names: Labels, splits: Labels) -> list[str]:
    """Returns the split of each series; raises TaskError if rows of one are in two splits."""
    first = names.order[names.counts.cumsum(0) - names.counts]
    of_series = splits.numbers[first]
    differing = (of_series[names.numbers] != splits.numbers).nonzero()
    if len(differing):
        name = names.names[int(names.numbers[differing[0, 0]])]
        raise TaskError(f"The series {name!r} has rows in two splits; all must be in one.")
    return [splits.names[i] for i in of_series.tolist()]


def _numbered(names: Labels) -> Labels:
    """Returns the labels of the series themselves, one example each."""
    return Labels(torch.arange(len(names.values)), names.values, "series")


def _of_arrays(data: Any, splits: Any) -> Series:
    if isinstance(data, list | tuple):
        source = sequence_source(data, None, False, "series")
        flat, lengths = source.flat, source.lengths
    else:
        tensor = as_tensor(data, "series")
        if tensor.dim() not in (2, 3):
            raise ShapeError(
                f"Expected series [K, L] or [K, L, C], or a list of arrays, got "
                f"{tuple(tensor.shape)}."
            )
        flat, lengths = tensor.flatten(0, 1), torch.full((len(tensor),), tensor.shape[1])
    flat = numbers({"series": flat}, ["series"])
    names = Labels(torch.arange(len(lengths)), tuple(range(len(lengths))), "series")
    channels = tuple(map(str, range(flat.shape[1])))
    return Series(flat, lengths, names, channels, splits)


def _channels(channels: tuple[str, ...], targets: str | Sequence[str] | None) -> tuple[int, ...]:
    chosen = channels if targets is None else listed_columns("targets", targets, channels)
    unknown = [name for name in chosen if name not in channels]
    if unknown or not chosen:
        known = ", ".join(map(str, channels))
        raise SettingsError(f"Expected `targets` among the values {known}, got {list(chosen)}.")
    return tuple(channels.index(name) for name in chosen)
