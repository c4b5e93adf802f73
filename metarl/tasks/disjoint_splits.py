"""Uniform random numbers that are disjoint between splits."""

from __future__ import annotations

from torch import Tensor

from metarl.tasks.base import SPLITS, Split

# The range is divided into narrow cells that are assigned to the splits in turn. Each split is
# then uniform over the whole range to within one cell, and no number is in two splits.
CELLS_PER_SPLIT = 1024


def split_uniform(
    cell: Tensor, inside: Tensor, part: Split, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Maps uniform draws to numbers of a split, uniform in [low, high] to within one cell.

    Args:
        cell: Uniform draws in [0, 1) that select the cells, any shape.
        inside: Uniform draws in [0, 1) that select the positions in the cells, the same shape.
        part: The split.
        low: Lower end of the range.
        high: Upper end of the range.

    Returns:
        The numbers, in the shape and type of `cell`.
    """
    width = (high - low) / (CELLS_PER_SPLIT * len(SPLITS))
    number = (cell * CELLS_PER_SPLIT).floor_()
    # Margins of 0.1 % of a cell: rounding must not move a number into a neighbouring cell.
    first = low + (SPLITS.index(part) + 0.001) * width
    # low + width * (number * splits + index + 0.001 + 0.998 * inside)
    return number.mul_(len(SPLITS) * width).add_(first).add_(inside, alpha=0.998 * width)
