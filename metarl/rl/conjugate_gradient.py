"""Conjugate gradient: linear systems of which only products with a vector are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class CGResult(NamedTuple):
    """What conjugate gradient came to.

    Attributes:
        solution: The approximate solution, [P]; always finite.
        residual: target - A solution as the iterations keep it, [P]; solution . (target - residual)
            is the curvature along the solution without another product.
        iterations: Number of iterations that it holds. 0: no direction was usable, and the solution
            is zero.
    """

    solution: Tensor
    residual: Tensor
    iterations: int


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    iterations: int = 10,
    tolerance: float = 1e-5,
) -> CGResult:
    """Solves A x = target for a symmetric positive definite A, starting from zero.

    Hestenes & Stiefel 1952. Stops early with what it has where A turns out not to be positive
    along a direction, or where a number is infinite or none.

    Args:
        product: Maps v [P] to A v [P].
        target: Shape [P], float.
        iterations: Largest number of products.
        tolerance: Stops when the residual is this small against `target`, in Euclidean norm.
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    squared = target.dot(target)
    enough = tolerance**2 * squared
    for done in range(iterations):
        if not squared > enough:
            return CGResult(solution, residual, done)
        image = product(direction)
        curvature = direction.dot(image)
        step = squared / curvature
        moved, left = solution + step * direction, residual - step * image
        remaining = left.dot(left)
        if not (curvature > 0) & moved.isfinite().all() & remaining.isfinite():
            return CGResult(solution, residual, done)
        solution, residual = moved, left
        direction = residual + (remaining / squared) * direction
        squared = remaining
    return CGResult(solution, residual, iterations)
