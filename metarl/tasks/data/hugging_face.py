"""Examples of a Hugging Face `Dataset`, which is used through its interface alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import SettingsError, TaskError, short_repr
from metarl.tasks.data.arrow_columns import arrow_column
from metarl.tasks.data.datasets import load_dataset
from metarl.tasks.data.sources import RowReader
from metarl.tasks.data.table_files import is_transformed
from metarl.tasks.data.table_sources import (
    LoadedTable,
    TableSettings,
    arrow_values,
    load_table,
    names_of,
    warn_if_given_away,
)
from metarl.tasks.data.tables import check_columns
from metarl.tasks.pools import Source


def is_hugging_face(data: Any) -> bool:
    """Returns whether the data are a Hugging Face `Dataset`, a dictionary of them or a stream.

    `load_hugging_face` refuses the latter two; see `tables.is_hugging_face` for a `Dataset` alone.
    """
    return all(hasattr(data, name) for name in ("column_names", "with_format"))


def load_hugging_face(dataset: Any, settings: TableSettings) -> LoadedTable:
    """Returns the examples, labels and splits of a `Dataset`.

    Columns of numbers, strings and lists are read as an Arrow table; one column of images, or of
    other things that the data set decodes, item by item. Labels of the type `ClassLabel` are
    classes by their names.

    Raises:
        SettingsError: A column is missing, or the data set is a dictionary of splits.
    """
    _check_one(dataset)
    arrow = dataset.with_format("arrow")
    known = list(dataset.column_names)
    labels, splits = _labels_and_splits(dataset, arrow, known, settings)
    if is_transformed(dataset):
        source = _transformed(dataset, settings, labels)
        return LoadedTable(source, labels, splits, None)
    columns = settings.input_columns(known)
    check_columns_of(known, columns)
    decoded = [name for name in columns if hasattr(dataset.features[name], "decode_example")]
    if decoded:
        if len(columns) > 1:
            raise SettingsError(
                f"Expected one column of inputs, because {decoded[0]!r} holds images or sounds, "
                f"got {short_repr(columns)}; name one with `inputs`."
            )
        loaded = load_dataset(
            dataset, decoded[0], labels, length=settings.length, tokens=settings.tokens,
            in_memory=settings.in_memory,
        )  # fmt: skip
        return LoadedTable(loaded.source, labels, splits, None)
    if settings.in_memory:
        chosen = TableSettings(
            columns, labels, None, settings.length, settings.characters, settings.tokens, True
        )
        table = arrow.select_columns(columns)[:]
        if settings.inputs is None:
            warn_if_given_away(table, columns, labels)
        loaded = load_table(table, chosen)
        return LoadedTable(loaded.source, labels, splits, loaded.columns)
    selected = arrow.select_columns(columns)
    reader = RowReader(
        lambda rows: arrow_values(selected[rows.tolist()], columns),
        dataset.num_rows, settings.length, settings.tokens, "data set",
    )  # fmt: skip
    return LoadedTable(reader, labels, splits, names_of(columns))


def _check_one(dataset: Any) -> None:
    """Raises SettingsError for dictionaries of data sets, and for those without `__getitem__`."""
    if isinstance(dataset, dict):
        raise SettingsError(
            "Expected one `Dataset`, got a dictionary of them; choose one, or join them with "
            "`datasets.concatenate_datasets`: few-shot splits are of classes, not of examples."
        )
    if not hasattr(dataset, "num_rows"):
        raise SettingsError(
            f"Expected a `Dataset`, got {type(dataset).__name__}, whose rows can only be iterated "
            "over; load it with streaming=False, or build one of its rows by "
            "`datasets.Dataset.from_list(list(rows))`."
        )


def _transformed(dataset: Any, settings: TableSettings, labels: Any) -> Source:
    """Returns the inputs that the function of `with_transform` gives, item by item."""
    known = list(dataset[0])
    used = [name for name in (settings.labels, settings.splits) if isinstance(name, str)]
    left = [name for name in known if name not in used]
    name = settings.inputs if isinstance(settings.inputs, str) else None
    if name is None and len(left) == 1:
        name = left[0]
    if name is None:
        raise SettingsError(
            "Expected one name as `inputs` of a data set with a transform, one of "
            f"{short_repr(left)}, got {short_repr(settings.inputs)}."
        )
    if settings.characters is not None:
        raise SettingsError(
            "Texts of a data set with a transform are not read; apply it by `dataset.map`."
        )
    check_columns_of(known, [name])
    return load_dataset(
        dataset, name, labels, length=settings.length, tokens=settings.tokens,
        in_memory=settings.in_memory,
    ).source  # fmt: skip


def _labels_and_splits(
    dataset: Any, arrow: Any, known: list[str], settings: TableSettings
) -> tuple[Any, Any]:
    """Returns the label and the split of each example; labels of a `ClassLabel` by their names."""
    labels, splits = settings.labels, settings.splits
    if labels is None:
        raise SettingsError(
            f"Expected the column of the classes as `labels`, one of {short_repr(known)}."
        )
    if isinstance(labels, str):
        check_columns_of(known, [labels])
        values = arrow_column(_column(arrow, labels), labels).values
        names = getattr(dataset.features[labels], "names", None)
        labels = _named(values, names, labels) if names else values
    if isinstance(splits, str):
        check_columns_of(known, [splits])
        splits = arrow_column(_column(arrow, splits), splits).values
    return labels, splits


def _named(values: np.ndarray, names: list[str], column: str) -> np.ndarray:
    """Returns the names of labels; raises TaskError for labels without one, such as -1."""
    unnamed = (values < 0) | (values >= len(names))
    if unnamed.any():
        row = int(unnamed.argmax())
        raise TaskError(
            f"The label of row {row} in the column {column!r} is {values[row]}, which none of the "
            f"{len(names)} classes has; -1 stands for a missing label. Leave such rows out: "
            f"dataset.filter(lambda row: row[{column!r}] >= 0)."
        )
    return np.array(names, dtype=object)[values]


def check_columns_of(known: list[str], names: list[str]) -> None:
    """Raises SettingsError unless all names are among the known columns."""
    check_columns(dict.fromkeys(known), names)


def _column(arrow: Any, name: str) -> Any:
    """Returns a column of a data set in the format of Arrow."""
    return arrow.select_columns([name])[:][name]
