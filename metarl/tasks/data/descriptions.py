"""Descriptions of classes, such as attributes, for zero-shot learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.registry import did_you_mean
from metarl.tasks.data.labels import number_labels
from metarl.tasks.data.plain import as_tensor
from metarl.tasks.data.sources import checked_tensor
from metarl.tasks.data.table_files import open_table
from metarl.tasks.data.tables import (
    column_names,
    is_table,
    num_rows,
    numbers,
    read_column,
)
from metarl.tasks.episodes import FewShot
from metarl.tasks.pools import ExamplePool, ImagePool


def with_descriptions(tasks: FewShot, descriptions: Any, key: str | None = None) -> FewShot:
    """Returns the episodes with `info["descriptions"]`, the descriptions of their classes.

    Args:
        tasks: Episodes of any data, such as those of `ImageFolder`.
        descriptions: A mapping from the name of each class to a vector; a table with a column of
            class names and columns of numbers; or an array [K, D] in the order of
            `tasks.pool.names`. Classes that are not in the episodes are passed over.
        key: The column of a table that has the class names; None for a mapping or an array.

    Raises:
        TaskError: A class has no description, or two.
        ShapeError: The descriptions differ in length, or are no numbers.
        SettingsError: A table has no column `key`.
    """
    pool = tasks.pool
    assert isinstance(pool, ExamplePool | ImagePool)
    described = class_descriptions(pool.names, descriptions, key).to(pool.counts.device)
    return replace(tasks, pool=replace(pool, descriptions=described))


def class_descriptions(names: Sequence[str], descriptions: Any, key: str | None) -> Tensor:
    """Returns the description of each class, [K, D], float32; see `with_descriptions`."""
    if isinstance(descriptions, Mapping):
        vectors = {str(name): vector for name, vector in descriptions.items()}
        if len(vectors) < len(descriptions):
            raise TaskError("Two keys of the descriptions have one name; give each class once.")
        return _vectors([_found(vectors, name) for name in names])
    if is_table(descriptions):
        return _of_table(names, open_table(descriptions), key)
    values = checked_tensor(as_tensor(descriptions, "descriptions"), False, "descriptions")
    if values.dim() != 2 or len(values) != len(names):
        raise ShapeError(
            f"Expected descriptions [{len(names)}, D], one for each class in the order of their "
            f"names, got {tuple(values.shape)}."
        )
    return values.to(torch.float32)


def _of_table(names: Sequence[str], table: Any, key: str | None) -> Tensor:
    if key is None:
        raise SettingsError(
            f"Expected the column with the class names as `key` (of `FewShotData`: "
            f"`description_key`), one of {', '.join(map(str, column_names(table)))}."
        )
    classes = number_labels(read_column(table, key).values, num_rows(table))
    repeated = classes.counts > 1
    if repeated.any():
        name = classes.names[int(repeated.nonzero()[0])]
        raise TaskError(f"The class {name!r} has two descriptions; leave one row of it.")
    values = numbers(table, [name for name in column_names(table) if name != key])
    rows = dict(zip(classes.names, classes.order.tolist(), strict=True))
    return values[torch.tensor([_found(rows, name) for name in names])]


def _found(known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise TaskError(
            f"The class {name!r} has no description.{did_you_mean(name, known)} Every class of the "
            "data needs one."
        )
    return known[name]


def _vectors(vectors: list[Any]) -> Tensor:
    rows = [as_tensor(vector, "descriptions").to(torch.float32).flatten() for vector in vectors]
    lengths = np.unique([len(row) for row in rows]).tolist()
    if len(lengths) > 1:
        raise ShapeError(f"Expected descriptions of one length, got {lengths}.")
    return checked_tensor(torch.stack(rows), False, "descriptions")
