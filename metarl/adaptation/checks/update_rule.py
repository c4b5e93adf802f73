"""Checks of an update rule on a few tasks, before training."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.update_rules import State, UpdateRule
from metarl.errors import MetarlError, SettingsError
from metarl.models.base import Params
from metarl.trees import close, in_place_changes, take_tasks


@torch.no_grad()
def check_rule(rule: UpdateRule, params: Params, second_order: bool = False) -> None:
    """Checks a rule by two steps with made-up gradients.

    A rule must return a parameter for each that it got, change nothing in place, give the same for
    the same arguments, and keep the tasks apart. It warns if a new parameter has no gradient with
    respect to the old one, which may be intended, and if a derivative is not finite where a
    gradient is 0, as for units that are never active.

    Args:
        rule: The rule.
        params: The parameters of two tasks that adapt, [2, *shape] per name.
        second_order: Whether the meta-gradient contains the derivative by the gradients.

    Raises:
        SettingsError: The rule does not meet these conditions.
    """
    name = type(rule).__name__
    grads = {n: _made_up(p) for n, p in params.items()}
    like = next(iter(params.values())).abs()  # real
    given = (grads, params, like.new_ones(2))
    before = in_place_changes(given)
    _step(rule, *given)
    if in_place_changes(given) != before:
        raise SettingsError(
            f"{name}.update changes its arguments in place: parameters before the first step are "
            "those of the start. Return new tensors, such as p - lr * grads[n]."
        )
    _warn_of_start(rule, *given)
    moved, again = _two_steps(rule, *given), _two_steps(rule, *given)
    if not close(moved, again):
        raise SettingsError(
            f"{name}.update gave other parameters for the same arguments: it draws random numbers, "
            "or keeps something in `self` between calls, which chunks of tasks, replays and "
            "resumed runs would change. Keep it in the state that `init` and `update` return."
        )
    alone = _two_steps(rule, *take_tasks(given, 0, 1))
    if not close(take_tasks(moved, 0, 1), alone):
        raise SettingsError(
            f"{name}.update mixes tasks: a task moved otherwise when another one was in the batch. "
            "Dimension 0 of gradients, parameters and losses is the task: reduce over the other "
            "dimensions only."
        )
    if second_order and rule.differentiates_gradient:
        _warn_of_zeros(rule, *given)


@torch.enable_grad()
def _warn_of_start(rule: UpdateRule, grads: Params, params: Params, loss: Tensor) -> None:
    """Warns if the step has no gradient with respect to where it starts."""
    leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    for n, value in _step(rule, grads, leaves, loss)[0].items():
        grad = None
        if value.requires_grad:
            grad = torch.autograd.grad(
                value.sum().abs(), leaves[n], allow_unused=True, retain_graph=True
            )[0]
        if grad is None:
            warnings.warn(
                f"{type(rule).__name__}.update returns {n!r} without a gradient with respect to "
                "where it starts: the meta-gradient lacks it. Unless it is meant, leave out "
                "`detach`, `.data`, `item`, NumPy and `torch.no_grad`.",
                RuntimeWarning,
                stacklevel=3,
            )
            return


@torch.enable_grad()
def _warn_of_zeros(rule: UpdateRule, grads: Params, params: Params, loss: Tensor) -> None:
    """Warns if the step has no finite derivative by gradients that are 0."""
    zeros = {n: torch.zeros_like(g).requires_grad_() for n, g in grads.items()}
    moved = _step(rule, zeros, params, loss)[0]
    total = sum(value.abs().sum() for value in moved.values())
    if not isinstance(total, Tensor) or not total.requires_grad or not total.isfinite():
        return
    found = torch.autograd.grad(total, list(zeros.values()), allow_unused=True)
    for n, grad in zip(zeros, found, strict=True):
        if grad is not None and not grad.isfinite().all():
            warnings.warn(
                f"The derivative of {type(rule).__name__}.update by the gradient of {n!r} is not "
                "finite where that is 0, as for units that are never active: the meta-gradient "
                "would be NaN. Keep roots away from 0: (v + eps).sqrt() in place of v.sqrt() + "
                "eps; or set `differentiates_gradient = False`.",
                RuntimeWarning,
                stacklevel=3,
            )
            return


def _two_steps(rule: UpdateRule, grads: Params, params: Params, loss: Tensor) -> Params:
    """Returns the parameters after two steps."""
    moved, state = _step(rule, grads, params, loss)
    others = {n: 0.5 * g for n, g in grads.items()}
    return _step(rule, others, moved, 0.5 * loss, state)[0]


def _step(
    rule: UpdateRule, grads: Params, params: Params, loss: Tensor, state: State | None = None
) -> tuple[Params, State]:
    """Returns the parameters and the state after a step; explains errors of the rule.

    Args:
        rule: The rule.
        grads: See `UpdateRule.update`.
        params: See `UpdateRule.update`.
        loss: See `UpdateRule.update`.
        state: What the step before returned; None for the first step.

    Raises:
        SettingsError: The rule raises an error, or returns something else than it should.
    """
    name = type(rule).__name__
    wanted = (
        f"Expected {name}.update(grads, state, params, loss) to return the parameters after the "
        "step, a tensor of the same shape and type for each name of `params`, and the new state"
    )
    try:
        state = rule.init(params) if state is None else state
        returned: Any = rule.update(grads, state, params, loss)
    except MetarlError:
        raise
    except Exception as error:  # code of the user may raise anything
        raise SettingsError(
            f"{wanted}. It raises {type(error).__name__}: {error}. Tensors have the tasks leading, "
            "and parameters may be views that cannot be changed in place."
        ) from error
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], dict)):
        kind = type(returned).__name__
        raise SettingsError(f"{wanted}: a tuple of two. It returned a {kind}.")
    moved = returned[0]
    if set(moved) != set(params):
        other = sorted(set(moved) ^ set(params), key=str)
        which = "lacks" if other[0] in params else "adds"
        raise SettingsError(f"{wanted}. What it returned {which} {other[0]!r}.")
    for n, p in params.items():
        value = moved[n]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (p.shape, p.dtype):
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{list(value.shape)} of {value.dtype}"
            raise SettingsError(f"{wanted}. For {n!r} {list(p.shape)} it returned {got}.")
    return moved, returned[1]


def _made_up(tensor: Tensor) -> Tensor:
    """Returns numbers without a pattern, other ones in each task."""
    places = torch.arange(tensor.numel(), device=tensor.device, dtype=torch.float64)
    return (1 + 3 * places).sin().view(tensor.shape).to(tensor.dtype)
