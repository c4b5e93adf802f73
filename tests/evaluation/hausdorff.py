"""The modified Hausdorff distance of Dubuisson & Jain 1994 between drawings."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.errors import TaskError


def modified_hausdorff(training: Tensor, test: Tensor) -> Tensor:
    """Computes the distance of each test drawing to each training drawing of the same run.

    It is the baseline of Lake's one-shot runs. The ink of a drawing (above 0.5) is a set of points
    relative to their mean. The distance of two sets is the larger of the two mean distances from a
    point of one set to the nearest point of the other.

    Args:
        training: Shape [R, K, 1, H, W], ink 1.
        test: Shape [R, N, 1, H, W], ink 1.

    Returns:
        Distances [R, N, K], float64, in pixels.

    Raises:
        TaskError: If a drawing has no ink.
    """
    distances = []
    for a, b in zip(test.squeeze(2) > 0.5, training.squeeze(2) > 0.5, strict=True):
        if not (a.any(-1).any(-1).all() and b.any(-1).any(-1).all()):
            raise TaskError("A drawing has no ink; expected ink 1 on paper 0 in every image.")
        # d(A, B) = max(mean_a min_b |a - b|, mean_b min_a |a - b|)
        distances.append(torch.maximum(_mean_nearest(a, b), _mean_nearest(b, a).mT))
    return torch.stack(distances)


def _mean_nearest(sources: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean distance [N, K] from the ink of sources to the nearest ink of targets.

    Args:
        sources: Shape [N, H, W], bool.
        targets: Shape [K, H, W], bool.
    """
    source, y, x = sources.nonzero(as_tuple=True)
    shift = _means(targets) - _means(sources)[:, None]  # [N, K, 2]
    points = torch.stack([y, x], 1)[:, None] + shift[source]  # [points, K, 2]
    target = torch.arange(len(targets), device=x.device).expand(points.shape[:2])
    point_y, point_x = points.flatten(0, 1).unbind(1)
    nearest = _nearest(point_y, point_x, target.flatten(), targets)
    sums = torch.zeros(shift.shape[:2], dtype=nearest.dtype, device=x.device)
    sums.index_add_(0, source, nearest.view(points.shape[:2]))
    return sums / sources.flatten(1).sum(1, keepdim=True)


def _means(ink: Tensor) -> Tensor:
    """Returns the mean (y, x) of the ink of images [N, H, W], shape [N, 2], float64."""
    image, y, x = ink.nonzero(as_tuple=True)
    sums = torch.zeros(len(ink), 2, dtype=torch.float64, device=ink.device)
    sums.index_add_(0, image, torch.stack([y, x], 1).double())
    return sums / ink.flatten(1).sum(1, keepdim=True)


def _nearest(y: Tensor, x: Tensor, image: Tensor, ink: Tensor) -> Tensor:
    """Returns the distance from each of the points [P] to the nearest ink of its image.

    Searches the rows above and below each point, at increasing distance, until the next rows are
    further away than the nearest ink so far. Most points need only a few rows.
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
        nearest = best[active]
        active_x, active_y = x[active], y[active]
        active_row, active_start = row[active], start[active]
        for r in (active_row - step, active_row + 1 + step):
            index = active_start + (r.clamp(-1, height) + 1) * (width + 1)
            dx = torch.minimum(active_x - left.take(index), right.take(index) - active_x)
            nearest = torch.minimum(nearest, dx.square() + (active_y - r).square())
        best[active] = nearest
        active = active[nearest > (step + 1) ** 2]
    return best.sqrt()


def _columns(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the columns of the nearest ink to the left and to the right within each row.

    Both are float64 [N, H + 2, W + 1], with an empty row above and below. The entries at
    [n, y + 1, x + 1] are the last column of ink at or before column x (else minus infinity), and
    the first column of ink after it (else infinity).
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
