"""`metarl adapt` for supervised learners: tables and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metarl.deploy.adapters.supervised_adapter import SupervisedAdapter
from metarl.deploy.adapting.control import Adapted
from metarl.deploy.experience.trajectory_tables import (
    NUMBERED,
    file_columns,
    joined_columns,
)
from metarl.errors import DataError, SettingsError, short_repr
from metarl.ranges import check_int
from metarl.registry import check_choice
from metarl.tasks.data.table_sources import ROW_NUMBERS
from metarl.tasks.files import read_regular
from metarl.tasks.image_splits import files_below, is_hidden
from metarl.tasks.images import MOST_BYTES, decode


def adapt_on_table(
    adapter: SupervisedAdapter, path: Path, target: str, support: int | None, steps: int, seed: int
) -> Adapted:
    """Adapts to some rows of a table and measures on the others.

    Args:
        adapter: The adapter.
        path: A .csv, .tsv or Parquet file.
        target: The column of the targets, or y for y_0, y_1, ...; one of several that the run was
            trained on stands for all of them. The inputs are the columns of training, if the run
            knows their names, else all others in their order.
        support: Rows to adapt on; None: half of them, of each class where the targets are labels.
        steps: Adaptation steps.
        seed: Seed of the choice of the rows.
    """
    columns = file_columns(path)
    ranges = adapter.origin.ranges
    targets, others = _targets(columns, target, ranges.get("target_columns", []), path)
    names = _of_training(others, ranges.get("columns"), path)
    texts = [name for name in names if columns[name].dtype.kind not in "biuf"]
    if texts or not names:
        raise DataError(
            f"Expected columns of numbers besides {target!r} in {path}, "
            f"{', '.join(map(repr, texts)) or 'none'} are not: encode them as in training, or "
            "leave them out."
        )
    inputs = np.concatenate([columns[name].reshape(len(targets), -1) for name in names], 1)
    shape = tuple(adapter.origin.ranges.get("input_shape", inputs.shape[1:]))
    if (size := int(np.prod(shape))) != inputs.shape[1]:
        raise DataError(
            f"Expected {size} columns of inputs besides {target!r} in {path}, as in training, got "
            f"{inputs.shape[1]}: {short_repr(', '.join(names), 200)}. Leave out the others, such "
            "as an index."
        )
    inputs = inputs.reshape(len(inputs), *shape)
    by_class = support is None and bool(adapter.origin.ranges.get("labels"))
    found = _measured(adapter, inputs, targets, support, steps, seed, by_class)
    if adapter.standardises:
        found.notes.append(
            "Inputs and targets were standardised as in training; the errors are in the units of "
            "the table."
        )
    return found


def adapt_on_images(
    adapter: SupervisedAdapter, folder: Path, support: int | None, steps: int, seed: int
) -> Adapted:
    """Adapts to some images of each class and measures on the others.

    Args:
        adapter: The adapter.
        folder: One folder per class, with its images.
        support: Images of each class to adapt on; None: half of them.
        steps: Adaptation steps.
        seed: Seed of the choice of the images.
    """
    shape = tuple(adapter.origin.ranges.get("input_shape", ()))
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] not in (1, 3):
        raise SettingsError(
            f"Expected a run on square images of 1 or 3 channels, this one was trained on inputs "
            f"of shape {list(shape)}; adapt it by --data."
        )
    images, labels = _images(folder, shape)
    pixels = images.astype(np.float32) / 255
    return _measured(adapter, pixels, labels, support, steps, seed, by_class=True)


def _measured(
    adapter: SupervisedAdapter,
    inputs: np.ndarray,
    targets: np.ndarray,
    support: int | None,
    steps: int,
    seed: int,
    by_class: bool = False,
) -> Adapted:
    chosen = _chosen(targets, support, np.random.default_rng(seed), by_class)
    if chosen.all():
        raise DataError(
            f"All {len(chosen)} examples are to adapt on, and none is left to measure on: add "
            "some, or adapt on fewer (--support)."
        )
    found: list[np.ndarray] = []
    reports = []
    for count in (0, steps):
        reports.append(adapter.adapt(inputs[chosen], targets[chosen], steps=count))
        predicted = adapter.predict(inputs[~chosen])
        found.append(_errors(adapter, predicted, targets[~chosen]))
    _check_classes(adapter, targets[~chosen], int(chosen.sum()))
    metric = "accuracy" if adapter.classes is not None else "squared error"
    count = reports[1].steps
    note = (
        f"{count} adaptation step{'s' * (count != 1)} on {int(chosen.sum())} examples, measured on "
        f"{int((~chosen).sum())} others; loss of the examples adapted on: "
        f"{_number(reports[1].loss_before)} before, {_number(reports[1].loss_after)} after."
    )
    return Adapted(metric, found[0], found[1], notes=[note])


def _check_classes(adapter: SupervisedAdapter, others: np.ndarray, support: int) -> None:
    """Raises DataError if a class that is measured has no example to adapt on."""
    if adapter.classes is None:
        return
    if len(missing := np.setdiff1d(others, adapter.classes[0])):
        raise DataError(
            f"Expected an example of each class among the {support} to adapt on, got none of "
            f"{short_repr(missing.tolist(), 100)}: adapt on more (--support), or draw "
            "others (--seed)."
        )


def _errors(adapter: SupervisedAdapter, predicted: Any, targets: np.ndarray) -> np.ndarray:
    if adapter.classes is not None:
        return (predicted == targets).astype(float)
    gaps = np.asarray(predicted, float).reshape(len(targets), -1)
    return ((gaps - targets.reshape(len(targets), -1)) ** 2).mean(1)


def _chosen(
    targets: np.ndarray, support: int | None, rng: np.random.Generator, by_class: bool
) -> np.ndarray:
    """Returns which examples are adapted on, [N] bool."""
    if support is not None:
        check_int("support", support)
    chosen = np.zeros(len(targets), bool)
    groups = [targets == label for label in np.unique(targets)] if by_class else [chosen == chosen]
    for group in groups:
        places = rng.permutation(np.flatnonzero(group))
        chosen[places[: max(1, len(places) // 2) if support is None else support]] = True
    return chosen


def _targets(
    columns: dict[str, np.ndarray], target: str, trained: list[str], path: Path
) -> tuple[np.ndarray, list[str]]:
    """Returns the targets of a table, [N, *], and the names of its other columns.

    Raises:
        DataError: There is no such column, or another of the targets of training is missing.
    """
    if target in trained:
        others = [name for name in columns if name not in trained]
        names = _of_training([*columns], trained, path)
        return np.stack([columns[name] for name in names], 1), others
    if target not in columns:
        joined = joined_columns(columns)
        known = [*columns, *(joined if target in joined else ())]
        check_choice("column of the targets (--target)", target, known, DataError)
        matches = {name: NUMBERED.fullmatch(name) for name in columns}
        return joined[target], [n for n, m in matches.items() if m is None or m["name"] != target]
    return columns[target], [name for name in columns if name != target]


def _of_training(others: list[str], trained: list[str] | None, path: Path) -> list[str]:
    """Returns the columns of training; if they are unknown, all without the numbers of rows.

    Raises:
        DataError: A column of training is missing.
    """
    if trained is None:
        return [name for name in others if not ROW_NUMBERS.fullmatch(name)]
    if missing := [name for name in trained if name not in others]:
        raise DataError(
            f"Expected the columns of training, {short_repr(', '.join(trained), 200)}, in {path}; "
            f"{short_repr(', '.join(missing), 100)} missing, got "
            f"{short_repr(', '.join(others), 200)}. Rename them."
        )
    return trained


def _images(folder: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [N, C, H, W] uint8 of all class folders, and their names [N]."""
    try:
        classes = sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
    except OSError as error:
        raise DataError(f"Cannot read the folder {folder}: {error}.") from error
    images, labels = [], []
    for part in classes:
        for path in sorted(p for p in files_below(part) if p.is_file()):
            try:
                data = read_regular(path, MOST_BYTES)
            except OSError as error:
                raise DataError(f"Cannot read the image {path}: {error}.") from error
            pixels = decode(data, str(path), shape[1], "L" if shape[0] == 1 else "RGB")
            images.append(pixels[None] if shape[0] == 1 else np.moveaxis(pixels, -1, 0))
            labels.append(part.name)
    if len(set(labels)) < 2:
        raise DataError(f"Expected at least two folders with images in {folder}, one per class.")
    return np.stack(images), np.asarray(labels)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
