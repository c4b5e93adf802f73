"""Few-shot episodes of arrays, tables, data sets and sequences."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.ranges import check_int
from metarl.tasks.data.characters import Characters
from metarl.tasks.data.datasets import Loaded, is_dataset, load_dataset
from metarl.tasks.data.descriptions import class_descriptions
from metarl.tasks.data.hugging_face import is_hugging_face, load_hugging_face
from metarl.tasks.data.labels import Splits, first_split, number_labels, split_labels
from metarl.tasks.data.plain import (
    as_tensor,
    check_one_type,
    image_arrays,
    is_image,
    plain_tensor,
)
from metarl.tasks.data.sources import (
    ArrayRows,
    RowReader,
    TensorSource,
    array_source,
    sequence_source,
)
from metarl.tasks.data.table_sources import TableSettings, load_table
from metarl.tasks.data.tables import is_name, is_table
from metarl.tasks.episodes import FewShot, Rotations
from metarl.tasks.pools import ExamplePool, Source
from metarl.tasks.unequal import Augment, Small


def FewShotData(  # noqa: N802 - reads like the other distributions
    data: Any,
    labels: Any = None,
    way: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    inputs: str | Sequence[str] | None = None,
    splits: Splits | str = None,
    seed: int = 0,
    length: int | None = None,
    characters: Characters | None = None,
    tokens: bool = False,
    in_memory: bool = True,
    descriptions: Any = None,
    description_key: str | None = None,
    small_classes: Small = "refuse",
    min_images: int | None = None,
    fewest_shots: int | None = None,
    rotations: Rotations = "none",
    augment_support: Augment | None = None,
    augment_query: Augment | None = None,
) -> FewShot:
    """Builds N-way K-shot episodes of what you have.

    Inputs of episodes are float32. uint8 and uint16 are divided by 255 and 65535, and arrays
    [M, H, W] of them are images of one channel; other numbers keep their values. Sequences of
    unequal length are padded with zeros, and `Examples.mask` marks what is real.

    Args:
        data: One of:

            - an array or tensor [M, *example]: features, images [M, C, H, W], sequences of equal
              length [M, L, *]; a NumPy memory map, or another array on disk with NumPy's indexing,
              is read when it is needed;
            - a list of M arrays [L_i, *]: sequences of unequal lengths;
            - a list or column of M strings, with `characters`;
            - a table: a data frame of pandas or polars, an Arrow table, a mapping of columns, a
              structured array, or the path of a .csv, .tsv, .parquet or .arrow file (polars and
              files need the extra `data`);
            - a map-style `torch.utils.data.Dataset`, or a list, of items (input, label, ...) or
              mappings;
            - a Hugging Face `Dataset`.
        labels: The class of each example, M integers, booleans or strings; or the name of the
            column, or of the part of an item, that has them. None: the second part of each item of
            a data set.
        way: Classes per episode.
        shots: Support examples per class.
        queries: Query examples per class.
        inputs: The columns of a table: of numbers, which become features [D]; one of lists, which
            are sequences; or one of strings, with `characters`. None: all but labels and splits.
            The name of the input in items of a data set that are mappings.
        splits: Which classes are in which split; no class is in two:

            - fractions by split, {"train": 0.6, "validation": 0.2, "test": 0.2}: a random split of
              the classes;
            - the classes by split, {"train": ["a", "b"], "test": ["c"]}; others are not used;
            - the name of the split of each example, M strings, or the name of their column;
            - None: all classes are for training.
        seed: Seed of the random split.
        length: Sequences are padded or cut to this length; None: that of the longest.
        characters: Converts strings to indices; see `Characters`.
        tokens: The inputs are indices, such as of words, and stay int64.
        in_memory: False: arrays, tables and data sets on disk are read when a batch needs them;
            `Background` reads ahead.
        descriptions: A description of each class, such as attributes or an embedded text, for
            `info["descriptions"]`; see `with_descriptions`.
        description_key: The column of a table of descriptions that has the classes; None: that of
            `labels`.
        small_classes: See `FewShot`, like the following.
        min_images: Fewest examples of a class.
        fewest_shots: Fewest shots of a task.
        rotations: For square images.
        augment_support: Changes the support inputs of training tasks.
        augment_query: Changes the query inputs of training tasks.

    Raises:
        ShapeError: The data, or the labels, are not of a kind or shape listed above.
        DataError: A value is not finite, or a file or an item cannot be read.
        TaskError: A value is missing, or a class is in two splits.
        SettingsError: The settings do not fit the data, or a package of an extra is missing.
    """
    if length is not None:
        length = check_int("length", length)
    _warn_of_other_order(data, labels)
    key = description_key or (labels if is_name(labels) else None)
    settings = TableSettings(inputs, labels, splits, length, characters, tokens, in_memory)
    if is_hugging_face(data):
        source, labels, splits, columns = load_hugging_face(data, settings)
    elif is_table(data):
        source, labels, splits, columns = load_table(data, settings)
    else:
        (source, labels), columns = _load(data, settings), None
    if labels is None:
        raise SettingsError("Expected `labels`, the class of each example; got none.")
    if isinstance(splits, str):
        raise SettingsError(
            f"Expected the split of each example or of each class, got {splits!r}; only tables "
            "have a column of splits."
        )
    numbered = number_labels(labels, len(source))
    parts = split_labels(numbered, splits, seed)
    described = None
    if descriptions is not None:
        described = class_descriptions(numbered.names, descriptions, key)
    pool = ExamplePool(source, numbered.order, numbered.counts, numbered.names, described)
    return FewShot(
        pool, parts, way, shots, queries,
        part=first_split(parts),
        rotations=rotations, small_classes=small_classes, min_images=min_images,
        fewest_shots=fewest_shots, augment_support=augment_support, augment_query=augment_query,
        columns=columns,
    )  # fmt: skip


def _warn_of_other_order(data: Any, labels: Any) -> None:
    """Warns if the labels have the rows of a data frame in another order."""
    if not (hasattr(data, "columns") and hasattr(data, "iloc") and hasattr(labels, "iloc")):
        return
    first, second = data.index, labels.index
    if len(first) == len(second) and not first.equals(second) and first.isin(second).all():
        warnings.warn(
            "The index of the labels has the rows of the data in another order. Labels are taken "
            "by position: pass labels.loc[data.index], or labels.to_numpy() if they are right.",
            RuntimeWarning,
            stacklevel=3,
        )


def _load(data: Any, settings: TableSettings) -> Loaded:
    """Returns the examples and labels of arrays, lists and data sets of torch."""
    length, tokens = settings.length, settings.tokens
    if hasattr(data, "iloc") and hasattr(data, "to_numpy"):  # a column of pandas
        data = data.to_numpy()
    has_labels = not (settings.labels is None or isinstance(settings.labels, str))
    if (isinstance(data, list | tuple) and has_labels) or (
        isinstance(data, np.ndarray) and data.dtype.kind in "OUT"
    ):
        return Loaded(_from_list(list(data), settings), settings.labels)
    if hasattr(data, "toarray"):  # of scipy
        raise ShapeError(
            f"Expected a dense array, got a sparse {type(data).__name__}; convert it by "
            "`data.toarray()`."
        )
    if isinstance(data, Tensor) or _is_array(data):
        _check_no_names(settings)
        return Loaded(_from_array(data, settings), settings.labels)
    if not is_dataset(data) or isinstance(data, Mapping | os.PathLike):
        raise ShapeError(
            f"Expected an array, a list of sequences or strings, a table or a data set with "
            f"__getitem__ and __len__, got {type(data).__name__}. What can only be iterated over "
            "has to be read into an array or a table first."
        )
    inputs = settings.inputs
    if not (inputs is None or isinstance(inputs, str)):
        raise SettingsError(
            f"Expected one name as `inputs` of a data set, got {short_repr(inputs)}; a table takes "
            "several columns."
        )
    return load_dataset(
        data, inputs, settings.labels, length=length, tokens=tokens, in_memory=settings.in_memory
    )


def _from_array(data: Any, settings: TableSettings) -> Source:
    if isinstance(data, Tensor) and not data.requires_grad:
        data = plain_tensor(data, "data")
    on_disk = isinstance(data, np.memmap) or not isinstance(data, Tensor | np.ndarray)
    if len(data) == 0:
        raise ShapeError(f"Expected examples [M, *example], got none, {tuple(data.shape)}.")
    if on_disk or not settings.in_memory:
        name = type(data).__name__
        if isinstance(data, Tensor):
            raise SettingsError("A tensor is in memory; leave in_memory=True.")
        length = settings.length
        if length is not None and len(data.shape) >= 2 and data.shape[1] >= length:
            rows = ArrayRows(data, length)
            return RowReader(rows, len(data), None, settings.tokens, name, sequences=True)
        return RowReader(ArrayRows(data), len(data), length, settings.tokens, name)
    values = as_tensor(data, "data")
    return array_source(values, settings.length, settings.tokens)


def _from_list(data: list[Any], settings: TableSettings) -> Source:
    if not data:
        raise ShapeError("Expected a list of examples, got an empty one.")
    if any(map(is_image, data)):
        return TensorSource(torch.from_numpy(image_arrays(data, "data")), settings.tokens)
    texts = [isinstance(value, str) for value in data]
    if all(texts):
        return settings.text_source(data)
    if any(texts):
        raise ShapeError("Expected all examples of the list to be strings, or none of them.")
    tensors = [as_tensor(value, f"data, example {i}") for i, value in enumerate(data)]
    if settings.length is None and len({tensor.shape for tensor in tensors}) == 1:
        check_one_type({tensor.dtype for tensor in tensors}, "data")
        return TensorSource(torch.stack(tensors), settings.tokens)
    return sequence_source(tensors, settings.length, settings.tokens)


def _is_array(data: Any) -> bool:
    """Returns whether the data are an array of NumPy, or on disk with its interface."""
    return hasattr(data, "shape") and hasattr(data, "dtype") and hasattr(data, "__getitem__")


def _check_no_names(settings: TableSettings) -> None:
    if settings.inputs is not None or isinstance(settings.labels, str):
        raise SettingsError(
            "Arrays have no named columns: leave out `inputs`, and pass the class of each example "
            "as `labels`."
        )
