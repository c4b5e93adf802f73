"""The conjugate gradient method, for linear systems that are given by matrix-vector products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class CGResult(NamedTuple):
    """The result of `conjugate_gradient`.

    Attributes:
        solution: The approximate solution x, [P]; always finite.
        residual: The residual r = b - A x, [P], as updated by the iterations. It provides the
            curvature x^T A x = x^T (b - r) without another product.
        iterations: Number of iterations in the solution. 0 means that no direction was usable and
            that the solution is zero.
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
    """Solves A x = b for a symmetric positive definite A, starting from x = 0.

    Implements Hestenes & Stiefel 1952. Stops early, and returns the last good solution, if A is
    not positive along a search direction or if a value is NaN or infinite.

    Args:
        product: Maps v [P] to A v [P].
        target: The right-hand side b, shape [P], float.
        iterations: Maximum number of products.
        tolerance: Stops when |r| <= tolerance * |b|, in Euclidean norm.

    Returns:
        The solution, its residual and the number of iterations.
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    residual_sq = target.dot(target)
    threshold = tolerance**2 * residual_sq
    for iteration in range(iterations):
        if not residual_sq > threshold:
            return CGResult(solution, residual, iteration)
        image = product(direction)
        # alpha = r^T r / (p^T A p);  x' = x + alpha p;  r' = r - alpha A p
        curvature = direction.dot(image)
        alpha = residual_sq / curvature
        new_solution, new_residual = solution + alpha * direction, residual - alpha * image
        new_residual_sq = new_residual.dot(new_residual)
        if not (curvature > 0) & new_solution.isfinite().all() & new_residual_sq.isfinite():
            return CGResult(solution, residual, iteration)
        solution, residual = new_solution, new_residual
        # beta = r'^T r' / (r^T r);  p' = r' + beta p
        direction = residual + (new_residual_sq / residual_sq) * direction
        residual_sq = new_residual_sq
    return CGResult(solution, residual, iterations)
