"""Examples in memory and on disk, read by their row numbers; see `pools.Source`."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import DataError, ShapeError
from metarl.tasks.data.plain import as_tensor, check_one_type, refuse_gradients
from metarl.tasks.pools import Reading, Source

SCALES = {torch.uint8: 255.0, torch.uint16: 65535.0}
"""Integers of images -> the largest value, which becomes 1."""
WIDE = frozenset({torch.int32, torch.int64, torch.uint32, torch.uint64})
"""Integers that float32 rounds."""
COARSE, NOISE = 1e-2, 1e-10
"""Rounding is refused above COARSE times the range of the values, unless this range is below NOISE
times the largest value: such values differ by rounding only."""
RELEASE_BYTES = 1 << 26
"""Bytes read of a memory-mapped file after which its pages are given back to the system."""


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Examples in one tensor, on any device.

    Attributes:
        values: Shape [M, *example]; uint8 and uint16 are read as floats in [0, 1], and of shape
            [M, H, W] as images of one channel. Others are read as float32.
        tokens: Whether the values are indices, such as those of characters, and stay int64.
        sequences: Whether the examples are sequences, which get no channel.
    """

    values: Tensor = field(repr=False)
    tokens: bool = False
    sequences: bool = False

    def __post_init__(self) -> None:
        """Checks the values and converts float64 to float32."""
        values = checked_tensor(self.values, self.tokens)
        object.__setattr__(self, "values", with_channel(values, self.tokens or self.sequences))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.values.shape[1:])

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.values)

    def read(self, rows: Tensor) -> Reading:
        """Reads examples; see `Source.read`."""
        values = self.values.index_select(0, rows.to(self.values.device)).to(rows.device)
        return Reading(as_inputs(values, self.tokens))

    def to(self, device: torch.device | str) -> TensorSource:
        """Returns the source on `device`."""
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True, eq=False)
class SequenceSource:
    """Sequences of unequal length, padded with zeros at the end and masked.

    Attributes:
        flat: The elements of all sequences one after the other, [sum of lengths, *element].
        starts: Index in `flat` of the first element of each sequence, [M], int64.
        lengths: Length of each sequence, at least 1, [M], int64.
        length: The length that sequences are padded or cut to.
        tokens: Whether the elements are indices, such as those of characters, and stay int64.
    """

    flat: Tensor = field(repr=False)
    starts: Tensor = field(repr=False)
    lengths: Tensor = field(repr=False)
    length: int
    tokens: bool = False

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one padded sequence, (length, *element)."""
        return (self.length, *self.flat.shape[1:])

    def __len__(self) -> int:
        """Returns the number of sequences."""
        return len(self.lengths)

    def read(self, rows: Tensor) -> Reading:
        """Reads sequences; see `Source.read`."""
        rows, device = rows.to(self.flat.device), rows.device
        steps = torch.arange(self.length, device=self.flat.device)
        mask = steps < self.lengths[rows].unsqueeze(1)
        index = (self.starts[rows].unsqueeze(1) + steps).where(mask, 0)
        values = as_inputs(self.flat[index], self.tokens)
        values.masked_fill_(~mask.view(*mask.shape, *(1,) * (values.dim() - 2)), 0)
        return Reading(values.to(device), mask.to(device))

    def to(self, device: torch.device | str) -> SequenceSource:
        """Returns the source on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in ("flat", "starts", "lengths")}
        return replace(self, **tensors)


@dataclass(frozen=True, eq=False)
class RowReader:
    """Examples that a function reads, such as those of a file; nothing stays in memory.

    Attributes:
        fetch: Reads the examples of increasing row numbers [n], int64: an array [n, *example], or a
            list of n arrays of unequal lengths, which needs `length`.
        size: Number of examples.
        length: The length that sequences are padded or cut to; None for examples of one shape.
        tokens: Whether the values are indices and stay int64.
        name: What is read, for error messages.
        sequences: Whether examples of one shape are sequences, which get no channel.
    """

    fetch: Callable[[np.ndarray], Any] = field(repr=False)
    size: int
    length: int | None = None
    tokens: bool = False
    name: str = "data"
    sequences: bool = False
    _shape: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Reads the first example, whose shape all must have."""
        values, _ = self._read(np.zeros(1, dtype=np.int64))
        object.__setattr__(self, "_shape", tuple(values.shape[1:]))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._shape

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.size

    def read(self, rows: Tensor) -> Reading:
        """Reads examples; each row is read once, in the order of the file."""
        unique, inverse = np.unique(rows.cpu().numpy(), return_inverse=True)
        values, mask = self._read(unique)
        if tuple(values.shape[1:]) != self._shape:
            raise self._differing(tuple(values.shape[1:]))
        order = torch.from_numpy(inverse.reshape(-1))
        parts = (None if part is None else part[order].to(rows.device) for part in (values, mask))
        return Reading(*parts)  # pyright: ignore[reportArgumentType]

    def to(self, device: torch.device | str) -> RowReader:
        """Returns itself: batches are copied to the device of the generator."""
        del device
        return self

    def _read(self, rows: np.ndarray) -> Reading:
        try:
            fetched = self.fetch(rows)
        except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"Cannot read rows {_listed(rows)} of the {self.name}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if len(fetched) != len(rows):
            raise DataError(
                f"Expected {len(rows)} rows of the {self.name} for rows {_listed(rows)}, got "
                f"{len(fetched)}."
            )
        if self.length is not None:
            source = sequence_source(list(fetched), self.length, self.tokens, self.name)
            return source.read(torch.arange(len(source)))
        if isinstance(fetched, list) and len({np.shape(part) for part in fetched}) > 1:
            raise self._differing(*sorted({np.shape(part) for part in fetched})[:2])
        values = as_tensor(fetched, self.name)
        values = with_channel(values, self.tokens or self.sequences)
        if self.tokens:
            _check_tokens(values, self.name)
        inputs = as_inputs(values, self.tokens)
        check_finite(inputs, self.name, rows)
        return Reading(inputs)

    def _differing(self, *shapes: tuple[int, ...]) -> DataError:
        found = " and ".join(map(str, shapes if len(shapes) > 1 else (*shapes, self._shape)))
        return DataError(
            f"Expected examples of one shape in the {self.name}, got {found}. Bring all to one "
            "shape (images of one size and mode), or give `length` for sequences."
        )


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Reads rows of an array on disk: a NumPy memory map, or an array with NumPy's indexing.

    Attributes:
        array: The array, [M, *example].
        length: The elements that are read of each example; None for all.
    """

    array: Any = field(repr=False)
    length: int | None = None
    _since: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the rows, and gives back the pages of a memory map that is only read."""
        values = np.asarray(self.array[rows])
        values = values if self.length is None else values[:, : self.length]
        self._since[0] += values.nbytes
        mapped = getattr(self.array, "_mmap", None)
        if mapped is not None and self.array.mode == "r" and self._since[0] > RELEASE_BYTES:
            self._since[0] = 0
            with contextlib.suppress(OSError, AttributeError, ValueError):  # not on all systems
                mapped.madvise(mmap.MADV_DONTNEED)
        return values


def array_source(values: Tensor, length: int | None, tokens: bool) -> Source:
    """Returns the source of examples [M, *example], cut or padded to `length` elements each."""
    if length is not None and values.dim() > 1:
        if values.shape[1] < length:
            return sequence_source(list(values), length, tokens)
        values = values[:, :length]
    return TensorSource(values, tokens, sequences=length is not None)


def sequence_source(
    sequences: Sequence[Any], length: int | None, tokens: bool, name: str = "data"
) -> SequenceSource:
    """Returns the source of sequences [L_i, *element] of unequal lengths L_i.

    Args:
        sequences: Arrays, tensors or lists of numbers.
        length: The length that they are padded or cut to; None for the longest one.
        tokens: Whether the elements are indices and stay int64.
        name: What they are, for error messages.

    Raises:
        ShapeError: A sequence is empty, or their elements differ in shape or type.
    """
    tensors = [as_tensor(s, f"{name}, sequence {i}") for i, s in enumerate(sequences)]
    first = tensors[0]
    for number, tensor in enumerate(tensors):
        if tensor.dim() < 1 or len(tensor) == 0:
            raise ShapeError(f"The sequence {number} of the {name} is empty; leave it out.")
        if tensor.shape[1:] != first.shape[1:]:
            raise ShapeError(
                f"Expected sequences [L, *element] with elements of one shape, "
                f"{tuple(first.shape[1:])} as in the first, got {tuple(tensor.shape[1:])} in "
                f"sequence {number} of the {name}."
            )
    check_one_type({tensor.dtype for tensor in tensors}, name)
    kinds = {tensor.is_floating_point() for tensor in tensors}
    if len(kinds) > 1:  # lists such as [1, 2] next to [0.5, 1]
        tensors = [tensor.to(torch.float32) for tensor in tensors]
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    flat = checked_tensor(torch.cat(tensors), tokens, name)
    return flat_source(flat, lengths, length, tokens)


def flat_source(flat: Tensor, lengths: Tensor, length: int | None, tokens: bool) -> SequenceSource:
    """Returns the source of sequences that lie one after the other in `flat`."""
    starts = lengths.cumsum(0) - lengths
    longest = int(lengths.max()) if length is None else length
    return SequenceSource(flat, starts, lengths, longest, tokens)


def checked_tensor(values: Tensor, tokens: bool, name: str = "data") -> Tensor:
    """Returns values in memory, float64 as float32.

    Raises:
        ShapeError: They are complex, not strided, or no integers though they are tokens.
        DataError: A value is not finite.
    """
    if values.is_complex() or values.layout != torch.strided:
        raise ShapeError(
            f"Expected real numbers in a dense tensor, got {values.dtype} {values.layout} in the "
            f"{name}."
        )
    if values.requires_grad:
        refuse_gradients(name)
    if tokens:
        _check_tokens(values, name)
    if values.is_floating_point():
        if values.dtype == torch.float64:
            check_resolution(values, name)
            values = values.to(torch.float32)
        check_finite(values, name)
    elif not tokens and values.dtype in WIDE:
        check_resolution(values, name)
    return values


def _check_tokens(values: Tensor, name: str) -> None:
    """Raises ShapeError unless values are indices."""
    if values.is_floating_point() or values.dtype == torch.bool:
        raise ShapeError(f"Expected indices (integers) in the {name}, got {values.dtype}.")
    if (values.long() < 0).any():
        raise ShapeError(
            f"Expected indices of at least 0 in the {name}, got {int(values.amin())}; sequences "
            "of unequal length are a list of arrays without padding."
        )


def check_resolution(values: Tensor, name: str) -> None:
    """Checks that numbers [M, *] stay apart in float32, such as times in seconds since 1970.

    Raises:
        DataError: In a column, float32 rounds by more than a hundredth of the range.
    """
    if not len(values):
        return
    columns = values.reshape(len(values), -1)
    if values.dtype in (torch.uint32, torch.uint64):  # torch has no minimum of these
        columns = columns.to(torch.float64)
    low, high = columns.aminmax(dim=0)
    spread = (high - low).to(torch.float64)  # of integers exact
    low, high = low.to(torch.float64), high.to(torch.float64)
    largest = torch.maximum(low.abs(), high.abs())
    rounding = largest * 2.0**-24
    noise = NOISE * largest if values.is_floating_point() else 0.0
    bad = (rounding > COARSE * spread) & (spread > noise) & largest.isfinite()
    if bad.any():
        column = int(bad.nonzero()[0])
        raise DataError(
            f"The {name} has numbers from {low[column].item():.15g} to {high[column].item():.15g}, "
            "which float32 hardly tells apart; subtract a constant, such as the smallest, first."
        )


def check_finite(values: Tensor, name: str, rows: np.ndarray | None = None) -> None:
    """Raises DataError unless all values are finite; it names the first bad row."""
    if not values.is_floating_point() or bool(values.isfinite().all()):
        return
    bad = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
    first = int(bad.nonzero()[0])
    raise DataError(
        f"The {name} has values that are missing, infinite or too large for float32, first in row "
        f"{first if rows is None else rows[first]}; drop these rows or fill them in."
    )


def with_channel(values: Tensor, keep: bool) -> Tensor:
    """Returns integer images [M, H, W] as [M, 1, H, W], and other values as they are.

    Args:
        values: The examples.
        keep: Whether they are no images and keep their shape.

    Raises:
        ShapeError: The values are one number per example, or images with the channels last.
    """
    shape = tuple(values.shape)
    if len(shape) < 2:
        raise ShapeError(
            f"Expected examples [M, *example], got {shape}; give single features a dimension, "
            "`x[:, None]`."
        )
    if keep or values.dtype not in SCALES:
        return values
    if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise ShapeError(
            f"Expected images [M, C, H, W], got {shape}, whose channels seem to be the last "
            "dimension; move them: `x.transpose(0, 3, 1, 2)` of an array, `x.permute(0, 3, 1, 2)` "
            "of a tensor."
        )
    return values.unsqueeze(1) if len(shape) == 3 else values


def as_inputs(values: Tensor, tokens: bool) -> Tensor:
    """Returns values as a network gets them: float32, of images in [0, 1], or int64 tokens."""
    if tokens:
        return values.long()
    scale = SCALES.get(values.dtype)
    floats = values.to(torch.float32, copy=True)
    return floats if scale is None else floats.div_(scale)


def _listed(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:3].tolist()))
    return f"{shown}, ... ({len(rows)})" if len(rows) > 3 else shown
