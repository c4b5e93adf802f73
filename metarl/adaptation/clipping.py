"""Clipping of the gradients of the inner loop, task by task."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.models.base import Params, task_rows


def clip_per_task(grads: Params, max_norm: float) -> Params:
    """Scales the gradient of each task to a norm of at most `max_norm`, differentiably.

    g <- g * min(1, max_norm / |g|), where |g| is the norm over all parameters of one task
    (Pascanu et al. 2013, arXiv:1211.5063, algorithm 1). A gradient that is not finite stays so.

    Args:
        grads: The gradients, [T, *shape] per name.
        max_norm: The largest norm, above 0.
    """
    rows = [task_rows(_real(g)) for g in grads.values() if g.numel()]
    # Squares of large numbers overflow: |g| = m * |g / m| with the largest magnitude m.
    largest = torch.stack([row.detach().abs().amax(1) for row in rows]).amax(0)
    tiny = torch.finfo(largest.dtype).tiny
    largest = largest.clamp(min=tiny)
    squares = torch.stack([(row / largest.unsqueeze(1)).square().sum(1) for row in rows]).sum(0)
    # The square root has no derivative at 0; the clamps cut it off there.
    ratio = (largest / max_norm) * squares.clamp(min=tiny).sqrt()
    scale = ratio.clamp(min=1).reciprocal()
    return {
        n: g * scale.to(_real(g).dtype).view(-1, *[1] * (g.dim() - 1)) for n, g in grads.items()
    }


def _real(grad: Tensor) -> Tensor:
    """Returns complex numbers as their real and imaginary parts, real ones as they are."""
    return torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad
