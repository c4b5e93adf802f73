"""Regression tasks from the groups of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.ranges import check_int
from metarl.tasks.data.labels import Splits, first_split, number_labels, split_labels
from metarl.tasks.data.table_files import open_table
from metarl.tasks.data.table_sources import TableSettings, load_table, names_of
from metarl.tasks.data.tables import check_columns, column_names, is_table, listed_columns, numbers
from metarl.tasks.grouped import GroupTasks
from metarl.tasks.scaling import training_scaling
from metarl.tasks.unequal import Augment, Small


def GroupedExamples(  # noqa: N802 - reads like the other distributions
    table: Any,
    group: str,
    inputs: str | Sequence[str],
    targets: str | Sequence[str],
    shots: int = 10,
    queries: int = 10,
    *,
    splits: Splits | str = None,
    seed: int = 0,
    standardise: bool = False,
    length: int | None = None,
    in_memory: bool = True,
    small_groups: Small = "refuse",
    min_examples: int | None = None,
    fewest_shots: int | None = None,
    augment_support: Augment | None = None,
    augment_query: Augment | None = None,
) -> GroupTasks:
    """Builds regression tasks from the groups of a table: each patient, machine or robot is a task.

    Args:
        table: A data frame of pandas or polars, an Arrow table, a Hugging Face `Dataset`, a mapping
            of columns (arrays [M] or [M, *]), or the path of a .csv, .tsv, .parquet or .arrow file
            (polars and files need the extra `data`).
        group: The column with the group of each row: integers or strings.
        inputs: Columns of numbers, which become features [D]; or one column of arrays or lists,
            which keeps its shape, lists of unequal length padded and masked.
        targets: Columns of numbers, which become targets [D].
        shots: Support examples of a task.
        queries: Query examples of a task.
        splits: Which groups are in which split, as for the classes of `FewShotData`; None: all are
            for training.
        seed: Seed of a random split.
        standardise: Subtracts the mean from each input and target and divides by the standard
            deviation, both over all examples of the training groups. They are kept as `scaling`;
            `scaling.restore(outputs)` gives predictions in the units of the table.
        length: Lists are padded or cut to this length; None: that of the longest.
        in_memory: False: the inputs of an Arrow table are read when a batch needs them.
        small_groups: See `GroupTasks`, like the following.
        min_examples: Fewest examples of a group.
        fewest_shots: Fewest shots of a task.
        augment_support: Changes the support inputs of training tasks.
        augment_query: Changes the query inputs of training tasks.

    Raises:
        ShapeError: A column is of a kind that is not listed above.
        DataError: A value is not finite, or a file cannot be read.
        TaskError: A value is missing, a group is in two splits, or a split has no groups.
        SettingsError: A column is missing, or the settings do not fit the groups.
    """
    if not is_table(table):
        raise ShapeError(
            f"Expected a table (a data frame, an Arrow table, a mapping of columns or a file), got "
            f"{type(table).__name__}; arrays are {{'x': x, 'y': y, 'group': group}}."
        )
    if length is not None:
        length = check_int("length", length)
    table = open_table(table)
    input_names, target_names = _input_and_target_names(table, group, inputs, targets)
    settings = TableSettings(input_names, group, splits, length, None, False, in_memory, False)
    source, groups, splits, columns = load_table(table, settings)
    numbered = number_labels(groups, len(source), "group")
    parts = split_labels(numbered, splits, seed)
    values = numbers(table, target_names)
    scaling = None
    if standardise:
        if "train" not in parts:
            raise SettingsError("Standardisation needs training groups; `splits` has none.")
        scaling = training_scaling(source, values, numbered.order, numbered.counts, parts["train"])
    return GroupTasks(
        source, values, numbered.order, numbered.counts, numbered.names, parts, shots, queries,
        part=first_split(parts), small_groups=small_groups, min_examples=min_examples,
        fewest_shots=fewest_shots, scaling=scaling, augment_support=augment_support,
        augment_query=augment_query, columns=columns, target_columns=names_of(target_names),
    )  # fmt: skip


def _input_and_target_names(
    table: Any, group: str, inputs: Any, targets: Any
) -> tuple[list[str], list[str]]:
    """Returns the columns of inputs and of targets; raises SettingsError if a column repeats."""
    known = column_names(table)
    input_names, target_names = _names("inputs", inputs, known), _names("targets", targets, known)
    check_columns(table, [group, *input_names, *target_names])
    shared = {*input_names, group} & {*target_names} or {*input_names} & {group}
    if shared:
        twice = min(shared, key=str)
        raise SettingsError(
            f"Expected each column once among group, inputs and targets, got {twice!r} twice."
        )
    return input_names, target_names


def _names(kind: str, columns: Any, known: Sequence[str]) -> list[str]:
    names = listed_columns(kind, columns, known)
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"Expected `{kind}` as different columns, got {short_repr(columns)}.")
    return names
