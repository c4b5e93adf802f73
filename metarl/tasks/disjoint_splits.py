"""Uniform numbers of which each split gets its own, disjoint from those of the others."""

from __future__ import annotations

from torch import Tensor

from metarl.tasks.base import SPLITS, Split

# The unit interval is cut into fine cells, dealt to the splits in turn: each split is uniform over
# the whole range to within a cell and shares no number with the others.
CELLS_PER_SPLIT = 1024


def split_uniform(
    cell: Tensor, inside: Tensor, part: Split, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Returns numbers of a split, uniform in [low, high] to within a cell.

    Args:
        cell: Uniform draws in [0, 1) that choose the cells.
        inside: Uniform draws in [0, 1) that choose the places inside, of the same shape.
        part: The split.
        low: Lower end of the range.
        high: Its upper end.
    """
    width = (high - low) / (CELLS_PER_SPLIT * len(SPLITS))
    number = (cell * CELLS_PER_SPLIT).floor_()
    # Margins: rounding must not move a number into the cell before or after.
    first = low + (SPLITS.index(part) + 0.001) * width
    return number.mul_(len(SPLITS) * width).add_(first).add_(inside, alpha=0.998 * width)
