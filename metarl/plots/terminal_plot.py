"""Line plots in a terminal, drawn with Braille characters of eight dots each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from rich.text import Text

from metarl.errors import SettingsError

# The bit of each dot of a character in Unicode's Braille block, by row and column.
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BLANK = 0x2800
_LARGEST = 1e100  # coordinate of a line


class TerminalPlot:
    """A canvas of characters with its own coordinate system.

    Args:
        width: Characters per row, at least 1.
        height: Number of rows, at least 1. A character is twice as high as wide, so that
            `width = 2 * height` is a square.
        low: Lower left corner (x, y), [2].
        high: Upper right corner (x, y), [2].

    Raises:
        SettingsError: The canvas has no characters or no area.
    """

    def __init__(self, width: int, height: int, low: np.ndarray, high: np.ndarray) -> None:
        self._low, self._high = np.asarray(low, float), np.asarray(high, float)
        if min(width, height) < 1 or not (self._high > self._low).all():
            raise SettingsError(
                f"Expected letters and an area to draw on, got {width} x {height} letters from "
                f"{low} to {high}."
            )
        self._dots = np.array([2 * width, 4 * height])
        self._bits = np.zeros((height, width), int)
        self._marks = np.full((height, width), " ", object)
        self._styles = np.full((height, width), "", object)

    def line(self, points: np.ndarray, style: str = "") -> None:
        """Draws a line through points and clips it to the canvas.

        Args:
            points: The points, [L, 2]. The line has a gap where one is not finite.
            style: A style of rich, such as a colour. Each character has the style that was drawn
                last.
        """
        ends = self._dot_coordinates(points)
        for start, end in pairwise(ends):
            piece = self._clipped(start, end)
            if piece is not None:
                count = int(np.abs(piece[1] - piece[0]).max()) + 2
                self._set(np.linspace(*piece, count), style)
        self._set(ends, style)

    def mark(self, point: np.ndarray, letter: str, style: str = "") -> None:
        """Writes a character at a point [2], on top of lines."""
        for x, y in self._inside(self._dot_coordinates(np.asarray(point)[None])):
            self._marks[y // 4, x // 2] = letter
            self._styles[y // 4, x // 2] = style

    def text(self) -> Text:
        """Returns the drawing as a text of rich."""
        drawing = Text(no_wrap=True)
        for y, row in enumerate(self._bits):
            drawing.append("\n" if y else "")
            for x, bits in enumerate(row):
                letter = self._marks[y, x]
                if letter == " ":
                    letter = chr(_BLANK + int(bits)) if bits else " "
                drawing.append(letter, self._styles[y, x])
        return drawing

    def _dot_coordinates(self, points: np.ndarray) -> np.ndarray:
        """Returns the dot coordinates (x, y) of points, [L, 2], from the upper left corner."""
        with np.errstate(over="ignore"):
            share = (np.asarray(points, float) - self._low) / (self._high - self._low)
            share[:, 1] = 1 - share[:, 1]
            return share * (self._dots - 1)

    def _clipped(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the ends of the part of a line that lies on the canvas; None if there is none."""
        if not (np.abs((start, end)) < _LARGEST).all():  # NaN is not, either
            return None
        step = end - start
        low, high = np.full(2, -0.5), self._dots - 0.5
        moves = step != 0
        if not ((low <= start) & (start <= high))[~moves].all():
            return None
        # The shares of the way at which the line meets the edges (Liang and Barsky 1984).
        edges = [(edge - start)[moves] / step[moves] for edge in (low, high)]
        first = max(0.0, *np.minimum(*edges))
        last = min(1.0, *np.maximum(*edges))
        return (start + first * step, start + last * step) if first <= last else None

    def _inside(self, places: np.ndarray) -> np.ndarray:
        """Returns the rounded dot coordinates of those places that lie on the canvas."""
        dots = np.rint(places[np.isfinite(places).all(1)])
        return dots[((dots >= 0) & (dots < self._dots)).all(1)].astype(int)

    def _set(self, places: np.ndarray, style: str) -> None:
        x, y = self._inside(places).T
        free = self._marks[y // 4, x // 2] == " "
        x, y = x[free], y[free]
        np.bitwise_or.at(self._bits, (y // 4, x // 2), _BITS[y % 4, x % 2])
        self._styles[y // 4, x // 2] = style
