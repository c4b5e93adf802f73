"""The modified Hausdorff distance of Dubuisson & Jain 1994, exact and fast on drawings."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.errors import TaskError


def modified_hausdorff(training: Tensor, test: Tensor) -> Tensor:
    """Returns how far drawings are from each other; the baseline of Lake's one-shot runs.

    The ink of a drawing (above 0.5) is a set of points about their mean. The distance of two sets
    is the larger of the two mean distances from a point to the nearest point of the other set.

    Args:
        training: Shape [R, K, 1, H, W], ink 1.
        test: Shape [R, N, 1, H, W], ink 1.

    Returns:
        Distances [R, N, K], float64, in pixels.

    Raises:
        TaskError: A drawing has no ink.
    """
    distances = []
    for known, asked in zip(training.squeeze(2) > 0.5, test.squeeze(2) > 0.5, strict=True):
        if not (known.any(-1).any(-1).all() and asked.any(-1).any(-1).all()):
            raise TaskError("A drawing has no ink; expected ink 1 on paper 0 in every image.")
        there, back = _mean_nearest(asked, known), _mean_nearest(known, asked)
        distances.append(torch.maximum(there, back.mT))
    return torch.stack(distances)


def _mean_nearest(sources: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean distance [N, K] from the ink of sources to the nearest ink of targets.

    Args:
        sources: Shape [N, H, W], bool.
        targets: Shape [K, H, W], bool.
    """
    source, y, x = sources.nonzero(as_tuple=True)
    shift = _means(targets) - _means(sources)[:, None]  # [N, K, 2]
    where = torch.stack([y, x], 1)[:, None] + shift[source]  # [points, K, 2]
    target = torch.arange(len(targets), device=x.device).expand(where.shape[:2])
    at_y, at_x = where.flatten(0, 1).unbind(1)
    nearest = _nearest(at_y, at_x, target.flatten(), targets)
    sums = torch.zeros(shift.shape[:2], dtype=nearest.dtype, device=x.device)
    sums.index_add_(0, source, nearest.view(where.shape[:2]))
    return sums / sources.flatten(1).sum(1, keepdim=True)


def _means(ink: Tensor) -> Tensor:
    """Returns the mean (y, x) of the ink of images [N, H, W], shape [N, 2], float64."""
    image, y, x = ink.nonzero(as_tuple=True)
    sums = torch.zeros(len(ink), 2, dtype=torch.float64, device=ink.device)
    sums.index_add_(0, image, torch.stack([y, x], 1).double())
    return sums / ink.flatten(1).sum(1, keepdim=True)


def _nearest(y: Tensor, x: Tensor, image: Tensor, ink: Tensor) -> Tensor:
    """Returns the distance from points [P] to the nearest ink of their images.

    Looks at the rows above and below, ever further out. A point is done when the next rows are
    further away than the ink it has found, which is after a few rows for most.
    """
    left, right = _columns(ink)
    height, width = ink.shape[1:]
    row, column = y.floor().long(), x.floor().long().clamp(-1, width - 1) + 1
    start = image * (height + 2) * (width + 1) + column
    best = torch.full_like(y, torch.inf)
    active = torch.arange(len(y), device=y.device)
    for step in range(2 * height):
        if len(active) == 0:
            break
        found = best[active]
        at_x, at_y, at_row, at_start = x[active], y[active], row[active], start[active]
        for r in (at_row - step, at_row + 1 + step):
            place = at_start + (r.clamp(-1, height) + 1) * (width + 1)
            aside = torch.minimum(at_x - left.take(place), right.take(place) - at_x)
            found = torch.minimum(found, aside.square() + (at_y - r).square())
        best[active] = found
        active = active[found > (step + 1) ** 2]
    return best.sqrt()


def _columns(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the columns of the nearest ink to the left and right within each row.

    Both are float64 [N, H + 2, W + 1], with an empty row above and below: at [n, y + 1, x + 1] is
    the last ink at or before column x, or minus infinity, and the first ink after it, or infinity.
    """
    count, height, width = ink.shape
    padded = ink.new_zeros(count, height + 2, width + 1)
    padded[:, 1:-1, 1:] = ink
    columns = torch.arange(-1, width, dtype=torch.float64, device=ink.device).expand(padded.shape)
    left = columns.masked_fill(~padded, -torch.inf).cummax(-1).values
    first = columns.masked_fill(~padded, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    right = torch.full_like(first, torch.inf)
    right[..., :-1] = first[..., 1:]
    return left, right
