"""The conjugate gradient method, for linear systems that are given by matrix-vector products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class _Iterate(NamedTuple):
    """The solution x, the residual r = b - A x and the next direction p, [P] each; r^T r, []."""

    solution: Tensor
    residual: Tensor
    direction: Tensor
    residual_sq: Tensor


class CGResult(NamedTuple):
    """The result of `conjugate_gradient`.

    Attributes:
        solution: The approximate solution x, [P]; always finite.
        residual: The residual r = b - A x, [P], as updated by the iterations. It provides the
            curvature x^T A x = x^T (b - r) without another product.
        iterations: Number of iterations in the solution; an int64 tensor on CUDA. 0 means that no
            direction was usable and that the solution is zero.
    """

    solution: Tensor
    residual: Tensor
    iterations: int | Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    iterations: int = 10,
    tolerance: float = 1e-5,
) -> CGResult:
    """Solves A x = b for a symmetric positive definite A, starting from x = 0.

    Implements Hestenes & Stiefel 1952. Stops early, and returns the last good solution, if A is
    not positive along a search direction or if a value is NaN or infinite.

    On CUDA the host decides nothing: all products are computed, and the last good solution is kept
    by masks. The result is the same.

    Args:
        product: Maps v [P] to A v [P].
        target: The right-hand side b, shape [P], float.
        iterations: Maximum number of products.
        tolerance: Stops when |r| <= tolerance * |b|, in Euclidean norm.

    Returns:
        The solution, its residual and the number of iterations.
    """
    if target.is_cuda:
        return solve_by_masks(product, target, iterations, tolerance)
    iterate = _start(target)
    threshold = tolerance**2 * iterate.residual_sq
    for iteration in range(iterations):
        if not iterate.residual_sq > threshold:
            return CGResult(iterate.solution, iterate.residual, iteration)
        new, usable = _next(product, iterate)
        if not usable:
            return CGResult(iterate.solution, iterate.residual, iteration)
        iterate = new
    return CGResult(iterate.solution, iterate.residual, iterations)


def solve_by_masks(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    iterations: int = 10,
    tolerance: float = 1e-5,
) -> CGResult:
    """Solves as `conjugate_gradient`, by a fixed number of products, without the host.

    The arguments are those of `conjugate_gradient`; `iterations` of the result is a tensor.
    """
    iterate = _start(target)
    threshold = tolerance**2 * iterate.residual_sq
    running = torch.ones((), dtype=torch.bool, device=target.device)
    done = torch.zeros((), dtype=torch.int64, device=target.device)
    for _ in range(iterations):
        new, usable = _next(product, iterate)
        running = running & (iterate.residual_sq > threshold) & usable
        pairs = zip(new, iterate, strict=True)
        iterate = _Iterate(*(torch.where(running, after, before) for after, before in pairs))
        done = done + running
    return CGResult(iterate.solution, iterate.residual, done)


def _start(target: Tensor) -> _Iterate:
    return _Iterate(torch.zeros_like(target), target, target, target.dot(target))


def _next(product: Callable[[Tensor], Tensor], iterate: _Iterate) -> tuple[_Iterate, Tensor]:
    """Returns the next iterate and whether it is usable, [] bool, by one product."""
    solution, residual, direction, residual_sq = iterate
    image = product(direction)
    # alpha = r^T r / (p^T A p);  x' = x + alpha p;  r' = r - alpha A p
    curvature = direction.dot(image)
    alpha = residual_sq / curvature
    new_solution, new_residual = solution + alpha * direction, residual - alpha * image
    new_residual_sq = new_residual.dot(new_residual)
    usable = (curvature > 0) & new_solution.isfinite().all() & new_residual_sq.isfinite()
    # beta = r'^T r' / (r^T r);  p' = r' + beta p
    new_direction = new_residual + (new_residual_sq / residual_sq) * direction
    return _Iterate(new_solution, new_residual, new_direction, new_residual_sq), usable
