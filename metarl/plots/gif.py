"""Animated GIFs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

_COLOURS = 64
_MOST_FPS = 50
"""Browsers show frames of less than 20 ms for 100 ms."""


def encode_gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """Returns frames as an animated GIF that repeats.

    Frames are left out where there are more than 50 per second.

    Args:
        frames: Each [height, width, 3] uint8.
        fps: Frames per second.
    """
    stride = math.ceil(fps / _MOST_FPS)
    frames = [*frames[:-1:stride], frames[-1]]
    milliseconds = 10 * round(100 * stride / fps)  # the unit of the format is 10 ms
    images = [Image.fromarray(f).quantize(_COLOURS, dither=Image.Dither.NONE) for f in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], loop=0, duration=milliseconds
    )
    return buffer.getvalue()
