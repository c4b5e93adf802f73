"""Examples of map-style data sets: of torch, and of Hugging Face's `datasets`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from metarl.errors import DataError, SettingsError, short_repr
from metarl.registry import check_choice
from metarl.tasks.data.plain import (
    as_tensor,
    check_one_size,
    check_one_type,
    tensor_array,
)
from metarl.tasks.data.sources import RowReader, TensorSource, sequence_source
from metarl.tasks.pools import Source

MOST_BYTES = 4 << 30
"""Upper bound on the size of a data set that is read into memory unasked."""
READS = 8
"""Times that the first item is read: a random flip leaves it as it was every second time."""
LABEL_ATTRIBUTES = ("targets", "labels")
"""Attributes in which torchvision's data sets keep the labels of all items."""


class Loaded(NamedTuple):
    """Examples and their labels.

    Attributes:
        source: Reads the examples.
        labels: The label of each example, as it came.
    """

    source: Source
    labels: Any


class ItemReader:
    """Reads one part of the items of a map-style data set.

    Args:
        dataset: A data set with `__getitem__` and `__len__`; items are (input, label, ...), or
            mappings.
        key: The position or the name of the part.
    """

    def __init__(self, dataset: Any, key: int | str) -> None:
        self.dataset = dataset
        self.key = key
        self._types: set[np.dtype] = set()

    def __call__(self, rows: np.ndarray) -> list[np.ndarray] | np.ndarray:
        """Returns the part of the items of these rows, stacked if their shapes are equal."""
        parts = [input_array(self.part(self.item(int(row)))) for row in rows]
        self._types.update(part.dtype for part in parts)
        check_one_type(self._types, "data set")
        return np.stack(parts) if len({part.shape for part in parts}) == 1 else parts

    def item(self, row: int) -> Any:
        """Returns an item; raises DataError, which names it, for any error of the data set."""
        try:
            return self.dataset[row]
        except Exception as error:  # code of the user's
            raise DataError(
                f"Cannot read item {row} of the data set: {type(error).__name__}: {error}"
            ) from error

    def part(self, item: Any) -> Any:
        """Returns the part of an item; raises DataError if the item has none."""
        if isinstance(item, Mapping) == isinstance(self.key, int):
            expected = "pairs (input, label)" if isinstance(self.key, int) else "mappings"
            keys = f" with the names {short_repr(list(item))}" if isinstance(item, Mapping) else ""
            raise DataError(
                f"Expected {expected} as items of the data set, got {type(item).__name__}{keys}; "
                "name the parts of mappings with `inputs` and `labels`."
            )
        if isinstance(item, Mapping):
            check_choice("part of the items", str(self.key), map(str, item))
        elif not isinstance(item, Sequence) or len(item) <= int(self.key):
            raise DataError(
                f"Expected items (input, label) of the data set, got {short_repr(item)}; pass "
                "`labels` for a data set of inputs alone."
            )
        return item[self.key]  # pyright: ignore[reportArgumentType, reportCallIssue]


def is_dataset(data: Any) -> bool:
    """Returns whether the data can be read item by item."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def load_dataset(
    dataset: Any,
    inputs: str | None,
    labels: Any,
    *,
    length: int | None,
    tokens: bool,
    in_memory: bool,
) -> Loaded:
    """Returns the examples and labels of a data set.

    Args:
        dataset: A map-style data set.
        inputs: The name of the input in items that are mappings; None: items are pairs.
        labels: The name of the label in items that are mappings, the labels of all items, or None.
        length: The length that sequences are padded or cut to.
        tokens: Whether inputs are indices.
        in_memory: Whether all items are read at once.

    Raises:
        DataError: An item cannot be read or is of another form.
        SettingsError: The data set is empty, or too large to be read into memory unasked.
        ShapeError: Items have other shapes than the first.
    """
    if not is_dataset(dataset):
        raise SettingsError(
            f"Expected a data set with __getitem__ and __len__, got {type(dataset).__name__}; a "
            "data set that is only iterated over has to be read into arrays first."
        )
    if len(dataset) == 0:
        raise SettingsError("The data set has no items.")
    is_tensors = isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2
    if is_tensors and labels is None and length is None:
        return Loaded(TensorSource(dataset.tensors[0], tokens), dataset.tensors[1])
    reader = ItemReader(dataset, inputs or 0)
    if not (labels is None or isinstance(labels, str)) and _is_input(reader.item(0)):
        reader = ItemReader(_Wrapped(dataset), 0)
    if in_memory:
        return _read_all(reader, labels, length, tokens)
    _warn_of_random_items(reader)
    source = RowReader(reader, len(dataset), length, tokens, "data set")
    return Loaded(source, _known_labels(reader, labels))


def input_array(value: Any) -> np.ndarray:
    """Returns a copy of an input as an array; an image of Pillow as [C, H, W].

    It is a copy because data sets may read all items into one buffer.
    """
    if isinstance(value, Tensor):
        return tensor_array(value, "items").copy()
    return as_tensor(value, "items").numpy().copy()


class _Wrapped:
    """A data set of inputs alone, whose items are given as (input,)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Any]:
        return (self.dataset[row],)


def _is_input(item: Any) -> bool:
    """Returns whether an item is an input alone: neither a mapping nor a tuple of parts."""
    return not isinstance(item, Mapping | tuple)


def _read_all(reader: ItemReader, labels: Any, length: int | None, tokens: bool) -> Loaded:
    dataset = reader.dataset
    label_key = labels if isinstance(labels, str) else 1
    label_reader = ItemReader(dataset, label_key)
    parts: list[np.ndarray] = []
    found: list[Any] = []
    for row in range(len(dataset)):
        item = reader.item(row)
        parts.append(input_array(reader.part(item)))
        if row == 0 and parts[0].nbytes * len(dataset) > MOST_BYTES:
            raise SettingsError(
                f"The {len(dataset)} items of the data set have about "
                f"{parts[0].nbytes * len(dataset) / 2**30:.0f} GiB; read them when they are needed "
                "with in_memory=False, and in the background with `Background`."
            )
        if labels is None or isinstance(labels, str):
            found.append(_one_label(label_reader.part(item), row))
    _warn_of_random_items(reader)
    if length is None and len({part.shape for part in parts}) == 1:
        check_one_type({part.dtype for part in parts}, "data set")
        source: Source = TensorSource(as_tensor(np.stack(parts), "data set"), tokens)
    else:
        source = _sequences(parts, length, tokens)
    return Loaded(source, found or labels)


def _warn_of_random_items(reader: ItemReader) -> None:
    """Warns if the first item has other values when it is read again."""
    first, *others = (input_array(reader.part(reader.item(0))) for _ in range(READS))
    if not all(
        np.array_equal(first, other, equal_nan=first.dtype.kind in "fc") for other in others
    ):
        warnings.warn(
            "An item of the data set has other values when it is read again, as by a random "
            "transform. In memory, each example keeps its first draw; with in_memory=False, test "
            "tasks are transformed, too, and the same seed gives other tasks. Leave what is random "
            "out of the data set, and pass it as `augment_support` and `augment_query`: functions "
            "of the inputs [T, N, *] and a generator.",
            RuntimeWarning,
            stacklevel=2,
        )


def _sequences(parts: list[np.ndarray], length: int | None, tokens: bool) -> Source:
    shapes = {part.shape for part in parts}
    if any(len(shape) == 3 for shape in shapes):
        check_one_size(shapes)
    return sequence_source(parts, length, tokens, "data set")


def _known_labels(reader: ItemReader, labels: Any) -> Any:
    """Returns the labels of a data set whose items stay on disk."""
    dataset = reader.dataset
    if labels is not None and not isinstance(labels, str):
        return labels
    for name in LABEL_ATTRIBUTES if labels is None else ():
        known = _attribute(dataset, name)
        if known is not None and len(known) == len(dataset):
            _check_ends(dataset, known, name)
            return known
    raise SettingsError(
        "The labels of a data set whose items stay on disk have to be known at the start: pass "
        "`labels`, one for each item, or give the data set an attribute `targets`."
    )


def _check_ends(dataset: Any, known: Any, name: str) -> None:
    """Raises DataError if the first or last item has another label than an attribute says."""
    for row in (0, len(dataset) - 1):
        reader = ItemReader(dataset, 1)
        label = _plain_label(reader.part(reader.item(row)))
        if _plain_label(known[row]) != label:
            raise DataError(
                f"The label of item {row} of the data set is {label!r}, its `{name}` has "
                f"{known[row]!r}; pass `labels`, one for each item."
            )


def _attribute(dataset: Any, name: str) -> Any:
    """Returns an attribute with a value for each item of a data set, or of a subset of one."""
    if not isinstance(dataset, Subset):
        known = getattr(dataset, name, None)
        # Columns of pandas are indexed by position here.
        return known if known is None or not hasattr(known, "to_numpy") else known.to_numpy()
    known = _attribute(dataset.dataset, name)
    return None if known is None else [_plain_label(known[row]) for row in dataset.indices]


def _one_label(label: Any, row: int) -> Any:
    """Returns the label of an item as a number or a string of Python."""
    if isinstance(label, Tensor | np.ndarray) and math.prod(label.shape) != 1:
        raise DataError(
            f"Expected one label for item {row} of the data set, got values of shape "
            f"{tuple(label.shape)}. Items are (input, label), in this order; one-hot labels become "
            "numbers by argmax."
        )
    return _plain_label(label)


def _plain_label(label: Any) -> Any:
    return label.item() if isinstance(label, Tensor | np.generic | np.ndarray) else label
