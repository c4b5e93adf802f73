"""Pools of examples, sorted by class, that episodes are drawn from by index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import ShapeError, short_repr

QUARTERS = 4  # rotations by 0, 90, 180 and 270 degrees


class Reading(NamedTuple):
    """Examples that were read.

    Attributes:
        values: Shape [*, *example], float32, or int64 for indices such as those of characters.
        mask: True where an element of a padded sequence is real, shape [*, L], bool; None where
            nothing is padded.
    """

    values: Tensor
    mask: Tensor | None = None


class Source(Protocol):
    """Interface of examples that are read by their row numbers.

    A source that is not in memory reads only the rows that are asked for.
    """

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example, padding included."""
        ...

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def read(self, rows: Tensor) -> Reading:
        """Reads examples.

        Args:
            rows: Row numbers, shape [n], int64; they may repeat.

        Returns:
            Values [n, *example] and mask on the device of `rows`.

        Raises:
            DataError: A value is not finite or cannot be read.
        """
        ...

    def to(self, device: torch.device | str) -> Source:
        """Returns the source with what it holds in memory on `device`."""
        ...


class Pool(Protocol):
    """Interface of examples sorted by class."""

    @property
    def counts(self) -> Tensor:
        """The number of examples of each class, shape [K], int64."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        ...

    @property
    def offsets(self) -> Tensor:
        """The index of the first example of each class, shape [K], int64."""
        ...

    @property
    def descriptions(self) -> Tensor | None:
        """A description of each class, shape [K, D], float32, or None."""
        ...

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    def read(self, index: Tensor, rotations: Tensor | None) -> Reading:
        """Reads examples.

        Args:
            index: Indices into the pool, shape [T, way, n], int64, on any device.
            rotations: Number of counter-clockwise rotations by 90 degrees of the images of each
                class, 4 to 7 those of the mirror image, shape [T, way], int64; None for none.

        Returns:
            Values [T, way, n, *example] on the device of `index`.
        """
        ...

    def to(self, device: torch.device | str) -> Pool:
        """Returns the pool with what it holds in memory on `device`."""
        ...


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Images sorted by class, on any device.

    Attributes:
        images: Shape [M, C, H, W], or [M, H, W] for one channel (stored as [M, 1, H, W]), uint8.
        counts: Number of images of each class, shape [K], int64; the `counts[k]` images of class
            k are consecutive.
        names: The name of each class; "alphabet/character" for written characters.
        offsets: The index of the first image of each class, shape [K], int64.
        descriptions: A description of each class, shape [K, D], float32, or None; see
            `with_descriptions`.
    """

    images: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    offsets: Tensor = field(init=False, repr=False)
    descriptions: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks the shapes and computes the offsets."""
        images = self.images.unsqueeze(1) if self.images.dim() == 3 else self.images
        if images.dim() != 4 or images.dtype != torch.uint8 or 0 in images.shape[1:]:
            raise ShapeError(
                f"Expected uint8 images [M, C, H, W] or [M, H, W], got {images.dtype} "
                f"{tuple(self.images.shape)}. `FewShotData` takes examples of any shape and type."
            )
        _check_counts(self.counts, self.names, len(images), "images")
        _check_descriptions(self.descriptions, self.names)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "offsets", self.counts.cumsum(0) - self.counts)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""
        return tuple(self.images.shape[1:])

    def read(self, index: Tensor, rotations: Tensor | None) -> Reading:
        """Reads images, float32 in [0, 1]; see `Pool.read`."""
        images = self.images.index_select(0, index.flatten().to(self.images.device))
        images = images.to(index.device).view(*index.shape, *self.images.shape[1:])
        return Reading(rotated(images, rotations).to(torch.float32).div_(255.0))

    def to(self, device: torch.device | str) -> ImagePool:
        """Returns the pool on `device`; `self` if it is already there.

        Args:
            device: See `metarl.devices.resolve_device`.
        """
        device = resolve_device(device)
        if self.images.device == device:
            return self
        return ImagePool(
            self.images.to(device), self.counts.to(device), self.names,
            _moved(self.descriptions, device),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ExamplePool:
    """Examples of any shape, sorted by class.

    Attributes:
        source: Reads the examples by their row numbers.
        order: The row number of each example, sorted by class, shape [M], int64.
        counts: Number of examples of each class, shape [K], int64.
        names: The name of each class.
        descriptions: A description of each class, shape [K, D], float32, or None.
        offsets: The index into `order` of the first example of each class, shape [K], int64.
    """

    source: Source = field(repr=False)
    order: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    descriptions: Tensor | None = field(default=None, repr=False)
    offsets: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the shapes and computes the offsets."""
        _check_counts(self.counts, self.names, len(self.order), "examples")
        _check_descriptions(self.descriptions, self.names)
        object.__setattr__(self, "offsets", self.counts.cumsum(0) - self.counts)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.source.example_shape

    def read(self, index: Tensor, rotations: Tensor | None) -> Reading:
        """Reads examples; see `Pool.read`."""
        rows = self.order.to(index.device)[index.flatten()]
        values, mask = self.source.read(rows)
        values = values.view(*index.shape, *values.shape[1:])
        if mask is not None:
            mask = mask.view(*index.shape, *mask.shape[1:])
        return Reading(rotated(values, rotations), mask)

    def to(self, device: torch.device | str) -> ExamplePool:
        """Returns the pool with what it holds in memory on `device`; see `resolve_device`."""
        device = resolve_device(device)
        return ExamplePool(
            self.source.to(device), self.order.to(device), self.counts.to(device), self.names,
            _moved(self.descriptions, device),
        )  # fmt: skip


def rotated(images: Tensor, rotations: Tensor | None) -> Tensor:
    """Rotates images [T, way, n, C, H, W], H = W, the images of each class alike.

    Args:
        images: Of any type.
        rotations: See `Pool.read`; None returns the images.
    """
    if rotations is None:
        return images
    height, width = images.shape[-2:]
    grid = torch.arange(height * width, device=images.device).view(height, width)
    # For each orientation, the pixel of the upright image at each pixel of the rotated one.
    sources = torch.stack(
        [g.rot90(k).flatten() for g in (grid, grid.flip(1)) for k in range(QUARTERS)]
    )
    flat = images.flatten(4).flatten(2, 3)  # [T, way, n * C, H * W]
    source = sources[rotations].unsqueeze(2).expand(flat.shape)
    return flat.gather(3, source).view(images.shape)


def _moved(values: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if values is None else values.to(device)


def _check_descriptions(descriptions: Tensor | None, names: tuple[str, ...]) -> None:
    if descriptions is not None and (descriptions.dim() != 2 or len(descriptions) != len(names)):
        raise ShapeError(
            f"Expected descriptions [{len(names)}, D], one for every class, got "
            f"{tuple(descriptions.shape)}."
        )


def _check_counts(counts: Tensor, names: tuple[str, ...], number: int, kind: str) -> None:
    if counts.dim() != 1 or counts.dtype != torch.int64 or (counts < 0).any():
        raise ShapeError(
            f"Expected the number of {kind} of each class, int64 [K] of at least 0, got "
            f"{counts.dtype} {short_repr(counts.tolist())}."
        )
    total = int(counts.sum())
    if len(names) != len(counts) or total != number:
        raise ShapeError(
            f"Expected a name and a count for every class and counts that add up to the "
            f"{number} {kind}, got {len(names)} names, {len(counts)} counts, sum {total}."
        )
