"""Decoding of images and reading of zip archives, with errors that name the file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from metarl.errors import DataError
from metarl.tasks.pixels import eight_bits


def decode(data: bytes, name: str, size: int | None, mode: str = "L") -> np.ndarray:
    """Decodes an image and resizes it to a square with a Lanczos filter.

    Bit depths, orientation, palettes and transparency: see `pixels.eight_bits`.

    Args:
        data: The content of a file in any format that Pillow reads.
        name: The file's name, for the error message.
        size: Height and width of the result in pixels; None keeps the image's size.
        mode: "L" for one channel, "RGB" for three.

    Returns:
        Image of dtype uint8, shape [H, W] for "L" and [H, W, 3] for "RGB".

    Raises:
        DataError: If the image cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            # Converted before resizing: Pillow ignores the filter for images of one bit.
            image = eight_bits(file, mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"Cannot read the image {name}: {error}. Replace or remove it.") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def read_members(path: Path, names: Iterable[str] | None = None) -> dict[str, bytes]:
    """Reads files from a zip archive.

    Args:
        path: The archive.
        names: The members to read; None reads all files.

    Returns:
        Member name -> content.

    Raises:
        DataError: If the archive is missing, corrupt, or lacks a member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if names is None:
                names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            return {name: archive.read(name) for name in names}
    except FileNotFoundError as error:
        raise DataError(f"The archive {path} is missing.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError) as error:
        raise DataError(
            f"The archive {path} is corrupt or cannot be read ({error}); delete it, so that it is "
            "downloaded anew, or put a good copy there."
        ) from error
