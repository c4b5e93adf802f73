"""Conversion of what cameras, scanners and drawing programs store to 8 bits per channel."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255, 255)
HIGH_DEPTH = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")  # in which Pillow's mode "I" holds 16 bits
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
WHITE_IS_ZERO = 0


def eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image to 8 bits per channel, upright and without transparency.

    - The EXIF orientation is applied.
    - Grey of 9 to 16 bits is scaled to 8 bits; Pillow alone would cut it off at 255.
    - What is transparent becomes white; Pillow alone would show the colour stored behind it.
    - Palettes, one bit per pixel, CMYK and 16 bits per colour are converted by Pillow.

    Args:
        image: The image as it was opened; of several frames the first is taken.
        mode: "L" for one channel, "RGB" for three.

    Raises:
        ValueError: The range of the numbers is unknown, or the EXIF data are damaged.
    """
    turned = upright(image)
    opaque = _scaled(turned, image) if image.mode in HIGH_DEPTH else on_white(turned)
    return opaque.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    """Returns an image whose transparent pixels are white; others as they are."""
    if not image.has_transparency_data:
        return image
    opaque = {"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)  # without premultiplication
    paper = Image.new("RGBA", image.size, WHITE)
    return Image.alpha_composite(paper, image.convert(opaque).convert("RGBA"))


def upright(image: Image.Image) -> Image.Image:
    """Returns an image turned as its EXIF orientation says; raises ValueError for damaged data."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error, KeyError, TypeError) as error:
        raise ValueError(f"its EXIF data are damaged ({error})") from error


def _scaled(pixels: Image.Image, file: Image.Image) -> Image.Image:
    """Returns grey of 9 to 16 bits as grey of 8 bits; `file` has the tags."""
    tags: Any = getattr(file, "tag_v2", {})
    bits = 16
    if file.mode == "F" or (file.mode == "I" and file.format not in SIXTEEN_BIT_FORMATS):
        raise ValueError(
            f"the range of its {'floating-point' if file.mode == 'F' else 'signed or 32-bit'} "
            "numbers is unknown; save it with 8 or 16 bits per channel"
        )
    if "transparency" in file.info:
        raise ValueError("it has 16 bits and a transparent colour; save it with 8 bits")
    if BITS_PER_SAMPLE in tags:
        bits = int(np.max(tags[BITS_PER_SAMPLE]))
    most = 2**bits - 1
    values = np.asarray(pixels).astype(np.int64).clip(0, most)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = most - values
    # round(255 v / (2^bits - 1))
    return Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8))
