"""Compares a second derivative of a module with finite differences of its first one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.models.modules.observed import tensors_of
from metarl.models.modules.passes import Pass
from metarl.models.modules.reference import Reference, Sample, Traits, projection
from metarl.models.modules.routes import Route

TOLERANCE = 1e-4  # relative; torch's norms under vmap are wrong by 1e-3 to 2e-2
STEPS = (1e-4, 1e-6, 1e-8)  # relative to the parameters; large ones cross kinks of ReLUs
DIRECTIONS = 2
LARGE_STEPS = (1e-2, 1e-3)  # for numbers rounded to float32
LARGE_INPUTS = 1e8
NOISE = 3e4  # relative error of such differences, in rounding errors


def check_second_derivative(route: Route, sample: Sample, expected: Reference, name: str) -> None:
    """Compares v^T H u of a loss, by autograd and by differences of gradients, in float64.

    Differences do not show the derivative of a module that stops gradients on purpose, that rounds
    to float32, or whose derivative is not finite there. It is right if plain torch has the same.

    Args:
        route: How the module runs.
        sample: A few examples of at most 4 tasks.
        expected: What plain torch gives.
        name: Of the module, for the message.

    Raises:
        SettingsError: They differ in all directions tried, or there is no second derivative.
    """
    params = sample.leaves()
    moving = [p for p in dict.fromkeys(params.values()) if p.requires_grad]
    if not moving:
        return

    def run(given: dict[str, Tensor]) -> Any:
        return route(given, sample.buffers, sample.inputs, sample.mask, Pass())

    gradients = _gradients_of(run, params, moving)
    worst = 0.0
    for seed in range(DIRECTIONS):
        generator = torch.Generator().manual_seed(seed)
        u, v = ([_direction(p, generator) for p in moving] for _ in range(2))
        found = _second(gradients, moving, u, v, name)
        if found is None:
            return
        steps = STEPS + LARGE_STEPS if expected.traits.rounding else STEPS
        worst = min(_distance(found, _differences(gradients, moving, u, v, step)) for step in steps)
        if worst < TOLERANCE:
            return
        if _differences_mislead(expected.traits, found, worst):
            plain = _second(_gradients_of(expected.run, params, moving), moving, u, v, name)
            if plain is not None and _same(found, plain, expected.traits):
                return
    raise SettingsError(
        f"The second derivative of {name} is wrong by a share of {worst:.1e}, compared with finite "
        "differences of its gradient: a function in it has a wrong or missing double backward. "
        "Train with `first_order=True`, replace that function, or switch the check off: "
        f"from_module(net, check_derivatives=False).{_advice_on_scale(sample.inputs)}"
    )


def _advice_on_scale(inputs: Tensor) -> str:
    """Returns advice for inputs so large that differences of rounded numbers show nothing."""
    largest = float(inputs.abs().max()) if inputs.is_floating_point() else 0.0
    if largest < LARGE_INPUTS:
        return ""
    return f" Or standardise the inputs: they reach {largest:.1e}, where differences are rounding."


Gradients = Callable[[list[Tensor], bool], tuple[Tensor, ...] | None]


def _gradients_of(
    run: Callable[[dict[str, Tensor]], Any], params: dict[str, Tensor], moving: list[Tensor]
) -> Gradients:
    """Returns a function of the values of `moving`: the gradients of a loss of the outputs."""

    def gradients(values: list[Tensor], create_graph: bool) -> tuple[Tensor, ...] | None:
        replaced = {id(p): v for p, v in zip(moving, values, strict=True)}
        loss = projection(tensors_of(run({n: replaced.get(id(p), p) for n, p in params.items()})))
        if not loss.requires_grad:
            return None
        found = torch.autograd.grad(loss, values, create_graph=create_graph, allow_unused=True)
        pairs = zip(values, found, strict=True)
        return tuple(torch.zeros_like(v) if g is None else g for v, g in pairs)

    return gradients


def _differences_mislead(traits: Traits, found: float, worst: float) -> bool:
    if traits.stops_gradients or not math.isfinite(found):
        return True
    return worst < NOISE * traits.rounding


def _same(found: float, plain: float, traits: Traits) -> bool:
    if math.isnan(found) or math.isnan(plain):
        return math.isnan(found) and math.isnan(plain)
    return found == plain or _distance(found, plain) < max(TOLERANCE, traits.tolerance)


def _direction(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a direction of the size of the parameter."""
    drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return drawn.to(parameter.device) * (parameter.detach().abs().square().mean().sqrt() + 1e-3)


def _second(
    gradients: Gradients, moving: list[Tensor], u: list[Tensor], v: list[Tensor], name: str
) -> float | None:
    """Returns d/de <gradient at theta + e v, u> by a second backward pass."""
    try:
        grads = gradients(moving, True)
        if grads is None:
            return None
        along = sum((g * d.conj()).sum().real for g, d in zip(grads, u, strict=True))
        assert isinstance(along, Tensor)
        if not along.requires_grad:
            return 0.0
        second = torch.autograd.grad(along, moving, allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise SettingsError(
            f"{name} has no second derivative: {error}. Train with `first_order=True` and "
            "from_module(net, check_derivatives=False), or replace the function that it names."
        ) from error
    pairs = zip(second, v, strict=True)
    return sum((h * d.conj()).sum().real.item() for h, d in pairs if h is not None)


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
        pairs = zip(grads, u, strict=True)
        sides.append(sum((g * d.conj()).sum().real.item() for g, d in pairs))
    return (sides[0] - sides[1]) / (2 * step)


def _distance(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-8)
