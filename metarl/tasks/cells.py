"""Uniform numbers of which each split gets its own, disjoint from those of the others."""

from __future__ import annotations

from torch import Tensor

from metarl.tasks.base import SPLITS, Split

# The unit interval is cut into fine cells, dealt to the splits in turn: each split is uniform over
# the whole range to within a cell and shares no number with the others.
CELLS_PER_SPLIT = 1024


def split_uniform(cell: Tensor, inside: Tensor, part: Split) -> Tensor:
    """Returns numbers of a split, uniform in [0, 1] to within a cell.

    Args:
        cell: Uniform draws in [0, 1) that choose the cells.
        inside: Uniform draws in [0, 1) that choose the places inside, of the same shape.
        part: The split.
    """
    number = (cell * CELLS_PER_SPLIT).floor() * len(SPLITS) + SPLITS.index(part)
    # Margins: rounding must not move a number into the cell before or after.
    return (number + 0.001 + 0.998 * inside) / (CELLS_PER_SPLIT * len(SPLITS))
