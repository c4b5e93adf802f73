"""Products of vectors with the Fisher matrix of adapted policies, through their adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.rl.distributions import Distribution
from metarl.trees import map_tensors


def fisher_product(
    distribution: Distribution, weights: Tensor, params: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Returns v -> F v, F = J^T M J: the Hessian of the mean KL divergence from `distribution`.

    J is the Jacobian of the distribution's numbers in `params`, M the Hessian of the divergence in
    these numbers. Where old and new distribution are equal, this is the whole Hessian: the
    gradient of the divergence is zero there, and with it the term of second derivatives of the
    adaptation (Martens 2020, "New insights and perspectives on the natural gradient method",
    section 9). J v comes from differentiating u -> J^T u, which is linear, in u.

    Args:
        distribution: Fields [T, ...] that depend on `params` differentiably.
        weights: Weight of each place in the mean, shaped as a log-probability.
        params: P numbers in all.

    Returns:
        A function from vectors [P] to vectors [P].
    """
    outputs: list[Tensor] = []
    map_tensors(lambda t: outputs.append(t) or t, distribution)
    points = [o.detach().requires_grad_() for o in outputs]
    queue = iter(points)
    new = map_tensors(lambda _: next(queue), distribution)
    old = map_tensors(torch.Tensor.detach, distribution)
    divergence = (old.kl(new) * weights).sum()
    slopes = torch.autograd.grad(divergence, points, create_graph=True)
    probes = [torch.zeros_like(o, requires_grad=True) for o in outputs]
    pulled = _gradients(outputs, params, probes, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        parts = unflatten(vector, params)
        moved = _gradients(pulled, probes, parts)  # J v
        scaled = _gradients(slopes, points, moved)  # M J v
        return flatten(_gradients(outputs, params, scaled))  # J^T M J v

    return product


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Returns all numbers in one vector."""
    return torch.cat([t.flatten() for t in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cuts a vector into tensors of the shapes of `like`."""
    parts = vector.split([t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    create_graph: bool = False,
) -> list[Tensor]:
    """Vector-Jacobian products; zeros where an input plays no part."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    return list(
        torch.autograd.grad(
            [o for o, _ in pairs], list(inputs), [c for _, c in pairs],
            retain_graph=True, create_graph=create_graph, materialize_grads=True,
        )
    )  # fmt: skip
