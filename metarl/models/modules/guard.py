"""Compares a second derivative of a module with finite differences of its first one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.models.modules.passes import Pass
from metarl.models.modules.reference import Sample, projection, tensors_of
from metarl.models.modules.routes import Route

TOLERANCE = 1e-4  # relative; torch's norms under vmap are wrong by 1e-3 to 2e-2
STEPS = (1e-4, 1e-6, 1e-8)  # relative to the parameters; large ones cross kinks of ReLUs
DIRECTIONS = 2


def check_second_derivative(route: Route, sample: Sample, name: str) -> None:
    """Compares v^T H u of a loss, by autograd and by differences of gradients, in float64.

    Args:
        route: How the module runs.
        sample: A few examples of at most 4 tasks.
        name: Of the module, for the message.

    Raises:
        SettingsError: They differ in all directions tried, or there is no second derivative.
    """
    params = sample.leaves()
    moving = [p for p in dict.fromkeys(params.values()) if p.requires_grad]
    if not moving:
        return

    def gradients(values: list[Tensor], create_graph: bool) -> tuple[Tensor, ...] | None:
        replaced = {id(p): v for p, v in zip(moving, values, strict=True)}
        given = {n: replaced.get(id(p), p) for n, p in params.items()}
        outputs = route(given, sample.buffers, sample.inputs, sample.mask, Pass())
        loss = projection(tensors_of(outputs))
        if not loss.requires_grad:
            return None
        found = torch.autograd.grad(loss, values, create_graph=create_graph, allow_unused=True)
        pairs = zip(values, found, strict=True)
        return tuple(torch.zeros_like(v) if g is None else g for v, g in pairs)

    worst = 0.0
    for seed in range(DIRECTIONS):
        generator = torch.Generator().manual_seed(seed)
        u, v = ([_direction(p, generator) for p in moving] for _ in range(2))
        found = _second(gradients, moving, u, v, name)
        if found is None:
            return
        worst = min(_distance(found, _differences(gradients, moving, u, v, step)) for step in STEPS)
        if worst < TOLERANCE:
            return
    raise SettingsError(
        f"The second derivative of {name} is wrong by a share of {worst:.1e}, compared with finite "
        "differences of its gradient: a function in it has a wrong or missing double backward. "
        "Train with `first_order=True`, replace that function, or switch the check off: "
        "from_module(net, check_derivatives=False)."
    )


def _direction(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a direction of the size of the parameter."""
    drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return drawn.to(parameter.device) * (parameter.detach().square().mean().sqrt() + 1e-3)


Gradients = Callable[[list[Tensor], bool], tuple[Tensor, ...] | None]


def _second(
    gradients: Gradients, moving: list[Tensor], u: list[Tensor], v: list[Tensor], name: str
) -> float | None:
    """Returns d/de <gradient at theta + e v, u> by a second backward pass."""
    try:
        grads = gradients(moving, True)
        if grads is None:
            return None
        along = sum((g * d).sum() for g, d in zip(grads, u, strict=True))
        assert isinstance(along, Tensor)
        if not along.requires_grad:
            return 0.0
        second = torch.autograd.grad(along, moving, allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise SettingsError(
            f"{name} has no second derivative: {error}. Train with `first_order=True` and "
            "from_module(net, check_derivatives=False), or replace the function that it names."
        ) from error
    return sum((h * d).sum().item() for h, d in zip(second, v, strict=True) if h is not None)


def _differences(
    gradients: Gradients, moving: list[Tensor], u: list[Tensor], v: list[Tensor], step: float
) -> float:
    """Returns the same by central differences."""
    sides = []
    for sign in (1, -1):
        values = [
            (p + sign * step * d).detach().requires_grad_() for p, d in zip(moving, v, strict=True)
        ]
        grads = gradients(values, False)
        assert grads is not None
        sides.append(sum((g * d).sum().item() for g, d in zip(grads, u, strict=True)))
    return (sides[0] - sides[1]) / (2 * step)


def _distance(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-8)
