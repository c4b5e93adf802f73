"""Numeric derivatives that no autograd computed."""

import torch


def central_differences(function, base, epsilon=1e-5):
    """Derivatives [T, S, A] of function(logits) -> [T] at `base`, all tasks moved at once."""
    slopes = torch.zeros_like(base)
    for s in range(base.shape[1]):
        for a in range(base.shape[2]):
            moved = []
            for sign in (1, -1):
                logits = base.clone()
                logits[:, s, a] += sign * epsilon
                moved.append(function(logits.requires_grad_()).detach())
            slopes[:, s, a] = (moved[0] - moved[1]) / (2 * epsilon)
    return slopes


def check_gradient(loss, params, epsilon=1e-5):
    """Holds the gradient of loss() against its slope along a random direction of each parameter."""
    grads = torch.autograd.grad(loss(), params)
    generator = torch.Generator().manual_seed(3)
    for p, g in zip(params, grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * epsilon * direction)
            ends.append(loss().detach())
            with torch.no_grad():
                p.add_(-sign * epsilon * direction)
        numeric = (ends[0] - ends[1]) / (2 * epsilon)
        torch.testing.assert_close((g * direction).sum(), numeric, rtol=1e-5, atol=1e-8)
