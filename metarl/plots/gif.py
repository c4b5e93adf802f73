"""Animated GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_COLOURS = 64


def encode_gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """Returns frames as an animated GIF that repeats.

    Args:
        frames: Each [height, width, 3] uint8.
        fps: Frames per second.
    """
    images = [Image.fromarray(f).quantize(_COLOURS, dither=Image.Dither.NONE) for f in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], loop=0, duration=round(1000 / fps)
    )
    return buffer.getvalue()
