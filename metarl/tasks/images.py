"""Decoding of images and reading of zip archives, with errors that name the file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from metarl.errors import DataError
from metarl.tasks.files import check_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are opened, all decoded by Pillow itself. It passes others to other programs,
such as EPS to Ghostscript. The name of the file does not matter."""
MOST_PIXELS = 1 << 26
"""Upper bound on the pixels of an image, 8192 x 8192."""
MOST_BYTES = 1 << 30
"""Upper bound on the size of the members of an archive together, unpacked."""


def decode(
    data: bytes,
    name: str,
    size: int | None,
    mode: str = "L",
    formats: tuple[str, ...] = FORMATS,
) -> np.ndarray:
    """Decodes an image and resizes it to a square with a Lanczos filter.

    Bit depths, orientation, palettes and transparency: see `pixels.eight_bits`.

    Args:
        data: The content of a file in one of the formats.
        name: The file's name, for the error message.
        size: Height and width of the result in pixels; None keeps the image's size.
        mode: "L" for one channel, "RGB" for three.
        formats: The formats that it may have, under any name.

    Returns:
        Image of dtype uint8, shape [H, W] for "L" and [H, W, 3] for "RGB".

    Raises:
        DataError: If the image cannot be read, is in none of the formats, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    from metarl.tasks.pixels import eight_bits

    try:
        with Image.open(io.BytesIO(data), formats=formats) as file:
            if file.width * file.height > MOST_PIXELS:
                raise ValueError(f"{file.width} x {file.height} pixels are too many")
            # Converted before resizing: Pillow ignores the filter for images of one bit.
            image = eight_bits(file, mode)
    except UnidentifiedImageError as error:
        raise DataError(
            f"Cannot read the image {name}: it is damaged or none of {', '.join(formats)}. "
            "Replace or remove it."
        ) from error
    except Exception as error:  # decoders raise anything for damaged data
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
        DataError: If the archive is missing, corrupt, lacks a member, or unpacks to too many bytes.
    """
    with _opened(path) as archive:
        members = list(_files(archive) if names is None else names)
        # A member is read up to the size that it states.
        total = sum(archive.getinfo(name).file_size for name in members)
        if total > MOST_BYTES:
            raise DataError(
                f"The archive {path} unpacks to {total} bytes, expected at most {MOST_BYTES}; "
                "put the official archive there."
            )
        return {name: archive.read(name) for name in members}


def member_names(path: Path) -> list[str]:
    """Returns the names of the files in a zip archive.

    Raises:
        DataError: If the archive is missing or corrupt.
    """
    with _opened(path) as archive:
        return _files(archive)


def _files(archive: zipfile.ZipFile) -> list[str]:
    return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive; turns errors of reading it into DataErrors that name it."""
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise DataError(f"The archive {path} is missing.") from error
    except DataError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError,
    ) as error:  # fmt: skip
        raise DataError(
            f"The archive {path} is corrupt or cannot be read ({error}); delete it, so that it is "
            "downloaded again, or put a good copy there."
        ) from error
