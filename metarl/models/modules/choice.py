"""Chooses how to run a module for many tasks, and checks the choice against plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metarl.errors import MetarlError, SettingsError
from metarl.models.modules.checks import check_instance_norms
from metarl.models.modules.graph import GraphRoute
from metarl.models.modules.passes import Pass
from metarl.models.modules.reference import Reference, Sample, agree, reference, sample_of
from metarl.models.modules.routes import LoopRoute, Route, VmapRoute
from metarl.models.modules.second_derivative import check_second_derivative
from metarl.models.modules.tracing import NotTraceable

Way = Literal["task-batched", "vmap", "task by task"]
"""A way to run a module, to ask for instead of the fastest one."""

COST = {
    "graph": "as fast as MetaRL's own networks",
    "mixed": "as fast as MetaRL's own networks but for these",
    "vmap": "usually 1.5 to 3 times the time of task-batched layers",
    "loop": "T tasks take T times as long as one",
}


@dataclass(frozen=True)
class Choice:
    """How a module runs for many tasks.

    Attributes:
        kind: "graph", "mixed" (a graph with nodes by `vmap`), "vmap" or "loop".
        route: Runs it.
        mixes_examples: Whether the output for an example depends on the others of its batch.
        activation: Numbers of the largest activation of an example.
        drops: Whether a dropout is active, other than that of recurrent layers.
        explanation: The choice, its reason and its cost, in a line.
    """

    kind: str
    route: Route
    mixes_examples: bool
    activation: int
    drops: bool
    explanation: str


class _NotRight(Exception):  # noqa: N818
    """A route does not run the module, or not as plain torch does; the message is the reason."""


def choose(
    net: nn.Module, inputs: Tensor, mask: Tensor | None, check: bool, only: Way | None = None
) -> Choice:
    """Chooses the fastest way to run a module that gives what plain torch gives.

    It compares outputs and gradients on a few of the inputs, in float64, with changed weights.

    Args:
        net: The module.
        inputs: Shape [T, N, *input].
        mask: Shape [T, N, L], or None.
        check: Whether to compare a second derivative with finite differences, unless all of the
            module is task-batched.
        only: The way to run it; None: the fastest that is right.

    Raises:
        SettingsError: The module does not run, changes in place, depends on the number of examples
            or draws random numbers; or no way gives the right derivatives.
        ShapeError: It returns something else than tensors [N, *].
    """
    check_instance_norms(net)
    with torch.inference_mode(False), torch.no_grad():
        sample = sample_of(net, inputs.detach(), mask)
    with torch.inference_mode(False), torch.enable_grad():
        expected = reference(net, sample)
        kind, route, reason = _first_right(net, sample, expected, only)
        if check and kind != "graph" and sample.exact:
            check_second_derivative(route, sample, expected, type(net).__name__)
    unchecked = "" if sample.exact else " (derivatives not checked: it does not run in float64)"
    name = type(net).__name__
    text = f"{name}: {reason}; {COST[kind]}{unchecked}."
    size = expected.traits.activation
    return Choice(kind, route, expected.mixes_examples, size, expected.drops, text)


def _first_right(
    net: nn.Module, sample: Sample, expected: Reference, only: Way | None
) -> tuple[str, Route, str]:
    """Returns the kind, the route and the reason of the fastest right way."""
    try:
        if only not in (None, "task-batched"):
            raise _NotRight(f"`way` is {only!r}")
        if expected.traits.casts:
            raise _NotRight("it computes under `torch.autocast`")
        route = GraphRoute(net, sample.mask is not None)
        _check(route, sample, expected)
        if not route.by_vmap:
            return "graph", route, "task-batched, all its layers have a form for all tasks at once"
        some = ", ".join(dict.fromkeys(route.by_vmap))
        return "mixed", route, f"task-batched, and by vmap: {some}"
    except (NotTraceable, _NotRight) as error:
        reason = str(error)
    try:
        if only == "task by task":
            raise _NotRight(f"`way` is {only!r}")
        route = VmapRoute(net)
        _check(route, sample, expected)
        return "vmap", route, f"by vmap, because {reason}"
    except _NotRight as error:
        reason = str(error)
    try:
        route = LoopRoute(net)
        _check(route, sample, expected)
        return "loop", route, f"task by task, because {reason}"
    except _NotRight as error:
        raise SettingsError(
            f"Expected a module that gives with other parameters what it gives with its own; "
            f"{type(net).__name__} does not: {error}. Keep all that it computes with in parameters "
            "and buffers, change none of them in forward, and leave out `torch.utils.checkpoint`."
        ) from error


def _check(route: Route, sample: Sample, expected: Reference) -> None:
    """Raises _NotRight unless a route gives the outputs and gradients of plain torch."""
    try:
        found = sample.flat_results(
            lambda params: route(params, sample.buffers, sample.inputs, sample.mask, Pass())
        )
    except MetarlError:
        raise
    except Exception as error:  # a module raises anything under vmap or in a graph
        raise _NotRight(_first_line(error)) from error
    if not agree(found, expected.flat, expected.traits.tolerance):
        raise _NotRight("it gives other numbers than one task alone")


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"it raises {type(error).__name__}: {line[:200]}"
