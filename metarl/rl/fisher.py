"""Fisher-vector products of adapted policies, differentiated through the adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.rl.distributions import Distribution
from metarl.trees import filled, map_tensors, tensors_of


def fisher_product(
    distribution: Distribution, weights: Tensor, params: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Returns the function v -> F v, where F = J^T M J is the Fisher matrix of a distribution.

    J is the Jacobian of the distribution's fields z with respect to `params`, and M is the Hessian
    of the weighted KL divergence from `distribution` with respect to z. F is the whole Hessian of
    this divergence with respect to `params`: where the old and the new distribution are equal, the
    gradient of the divergence is zero, and with it the term that contains the second derivatives
    of the adaptation (Martens 2020, "New insights and perspectives on the natural gradient
    method", section 9).

    J v is computed by reverse-mode differentiation: it is the gradient of v^T (J^T u) with respect
    to u.

    Args:
        distribution: Fields [T, ...] that are differentiable functions of `params`.
        weights: Weight of each element of the batch in the mean divergence, shaped as a
            log-probability.
        params: Parameters with P elements in total.

    Returns:
        A function from vectors [P] to vectors [P].
    """
    outputs = tensors_of(distribution)
    leaves = [o.detach().requires_grad_() for o in outputs]
    new = filled(distribution, leaves)
    old = map_tensors(torch.Tensor.detach, distribution)
    divergence = (old.kl(new) * weights).sum()
    kl_gradients = torch.autograd.grad(divergence, leaves, create_graph=True)  # d KL / d z
    u = [torch.zeros_like(o, requires_grad=True) for o in outputs]
    jt_u = _vector_jacobian(outputs, params, u, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        v = unflatten(vector, params)
        j_v = _vector_jacobian(jt_u, u, v)  # J v = d (v^T J^T u) / du
        m_j_v = _vector_jacobian(kl_gradients, leaves, j_v)  # M J v
        return flatten(_vector_jacobian(outputs, params, m_j_v))  # J^T M J v

    return product


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates the elements of all tensors into one vector."""
    return torch.cat([t.flatten() for t in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Splits a vector into tensors of the shapes of `like`."""
    parts = vector.split([t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]


def _vector_jacobian(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    create_graph: bool = False,
) -> list[Tensor]:
    """Returns vector-Jacobian products, zeros for inputs that the outputs do not depend on."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    return list(
        torch.autograd.grad(
            [o for o, _ in pairs], list(inputs), [c for _, c in pairs],
            retain_graph=True, create_graph=create_graph, materialize_grads=True,
        )
    )  # fmt: skip
