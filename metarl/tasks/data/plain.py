"""Numbers in tensors of any kind, masked arrays and images of Pillow, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from metarl.errors import DataError, ShapeError, short_repr

GREY = ("1", "L", "LA", "La")
"""Modes of Pillow that become one channel."""
NUMBERS = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Modes of Pillow that keep their numbers, in one channel."""


def as_tensor(values: Any, name: str) -> Tensor:
    """Returns an array, a tensor, an image or a list of numbers, if possible without a copy.

    Raises:
        ShapeError: It does not consist of numbers, or rows have unequal lengths.
        DataError: Values of a masked array are masked.
    """
    if isinstance(values, Tensor):
        if values.requires_grad:
            refuse_gradients(name)
        return plain_tensor(values, name)
    check_unmasked(values, name)
    if is_image(values):
        values = image_array(values)
    try:
        array = np.asarray(values)
    except ValueError as error:  # of unequal lengths
        raise ShapeError(f"Expected numbers of one shape in the {name}: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise ShapeError(
            f"Expected numbers in the {name}, got {array.dtype}; convert it to numbers (categories "
            "to indices or one-hot columns, dates to seconds)."
        )
    if array.dtype.itemsize > 8:  # long doubles
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(array))


def plain_tensor(values: Tensor, name: str) -> Tensor:
    """Returns a dense tensor without gradients, of a type that torch computes with.

    Raises:
        ShapeError: It is sparse, nested, quantised or without values.
    """
    remedy = _remedy(values)
    if remedy:
        raise ShapeError(f"Expected a dense tensor with values in the {name}, got {remedy}.")
    values = values.detach()
    is_small = values.is_floating_point() and values.element_size() == 1
    return values.float() if is_small else values


def tensor_array(values: Tensor, name: str) -> np.ndarray:
    """Returns a tensor as an array, bfloat16 as float32; raises as `plain_tensor`."""
    plain = plain_tensor(values, name).cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def check_unmasked(values: Any, name: str) -> None:
    """Raises DataError if values of a masked array are masked."""
    if np.ma.is_masked(values):
        raise DataError(
            f"Expected all values of the {name}, and some of the masked array are masked; drop "
            "these rows, or fill them in by `array.filled(value)`."
        )


def is_image(value: Any) -> bool:
    """Returns whether a value is an image of Pillow."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def image_array(image: Any, mode: str | None = None) -> np.ndarray:
    """Returns an image of Pillow as [C, H, W], uint8, upright; what is transparent is white.

    Images of 16 bits stay uint16, and those of 32 bits or floats keep their numbers.

    Args:
        image: The image.
        mode: "L" for one channel, "RGB" for three; None: one for grey images.

    Raises:
        ShapeError: Pillow cannot convert its mode, or its EXIF data are damaged.
    """
    from metarl.tasks.pixels import on_white, upright

    try:
        image = upright(image)
    except ValueError as error:
        raise ShapeError(f"Cannot read an image: {error}; save it without them.") from error
    if image.mode not in NUMBERS:
        mode = mode or ("L" if image.mode in GREY else "RGB")
        try:
            image = on_white(image).convert(mode)
        except ValueError as error:
            raise ShapeError(
                f"Expected images of the mode L or RGB, got {image.mode} ({error}); convert them."
            ) from error
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def image_arrays(images: Iterable[Any], name: str) -> np.ndarray:
    """Returns images of Pillow as [M, C, H, W]; raises ShapeError if shapes or types differ."""
    arrays = [image_array(v) if is_image(v) else as_tensor(v, name).numpy() for v in images]
    check_one_size({array.shape for array in arrays})
    check_one_type({array.dtype for array in arrays}, name)
    return np.stack(arrays)


def check_one_size(shapes: set[tuple[int, ...]]) -> None:
    """Raises ShapeError if images [C, H, W] have several shapes."""
    if len(shapes) > 1:
        raise ShapeError(
            f"Expected images of one size and mode, got {short_repr(sorted(shapes))}; resize and "
            "convert them first."
        )


def check_one_type(types: Iterable[np.dtype | torch.dtype], name: str) -> None:
    """Raises ShapeError if numbers of 8 or 16 bits, which become at most 1, are among others."""
    names = sorted({t.name if isinstance(t, np.dtype) else str(t)[6:] for t in types})
    if len(names) > 1 and {"uint8", "uint16"} & {*names}:
        raise ShapeError(
            f"Expected examples of one type in the {name}, got {', '.join(names)}: only uint8 and "
            "uint16 are divided by their largest value. Convert them to one type."
        )


def refuse_gradients(name: str) -> NoReturn:
    """Raises the ShapeError of a tensor that requires gradients."""
    raise ShapeError(
        f"Expected numbers without gradients in the {name}, got a tensor that requires them; pass "
        "`tensor.detach()`."
    )


def _remedy(values: Tensor) -> str:
    """Returns what is wrong with a tensor, and what to do; empty if nothing is."""
    if values.is_nested:
        return "a nested one; pass a list, `tensor.unbind()`"
    if values.is_meta:
        return "one of the meta device; make it on a device that stores values"
    if values.is_quantized:
        return "a quantised one; convert it by `tensor.dequantize()`"
    if values.layout != torch.strided:
        return f"one of the layout {values.layout}; convert it by `tensor.to_dense()`"
    return ""
