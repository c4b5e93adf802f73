"""The inner loop: an update rule run for K steps on a batch of tasks in one go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.adaptation.clipping import clip_per_task
from metarl.adaptation.update_rules import State, UpdateRule
from metarl.errors import SettingsError
from metarl.models.base import Params

SupportLoss = Callable[[Params, int], Tensor]
"""Loss of each task, [T], given its parameters and the number of steps taken so far.

Supervised tasks compute it on their support set; control tasks collect rollouts with these very
parameters first. Task t's loss may depend on task t's parameters only.
"""


class Step(NamedTuple):
    """Where an adaptation stands after k steps.

    Attributes:
        params: The parameters of each task, [T, *shape] per name.
        state: The update rule's state.
        loss: Support loss [T] before the last step, detached; None before the first.
    """

    params: Params
    state: State
    loss: Tensor | None


def inner_loop(
    support_loss: SupportLoss,
    rule: UpdateRule,
    params: Params,
    steps: int,
    *,
    first_order: bool = False,
    state: State | None = None,
    frozen: Collection[str] = (),
    max_grad_norm: float | None = None,
    path: Sequence[Params] = (),
) -> Iterator[Step]:
    """Yields where the adaptation stands after 0, 1, ..., `steps` steps.

    Args:
        support_loss: The loss that each task descends.
        rule: The update rule.
        params: The parameters to start from, [T, *shape] per name.
        steps: Number of adaptation steps, at least 0.
        first_order: Takes the inner gradients as constants: no second derivatives (FOMAML). The
            path from initial to adapted parameters stays differentiable.
        state: The rule's state to continue from, for an adaptation that is unrolled in pieces.
        frozen: Names of parameters that stay as they are.
        max_grad_norm: Clips the gradient of each task to this norm; None does not clip.
        path: The values of the parameters after 1..`steps` steps, detached. They replace the
            values that the steps compute; the derivatives stay those of the steps. Empty: none.

    Raises:
        SettingsError: No parameter adapts.
    """
    differentiable = rule.differentiates_gradient and not first_order
    fixed = {n: p for n, p in params.items() if n in frozen}
    moving = {n: p for n, p in params.items() if n not in frozen}
    if not moving:
        raise SettingsError(
            "Expected parameters that adapt, but the inner loop leaves all of them as they are. "
            "Call `requires_grad_()` on those that shall adapt, or leave them out of `frozen`."
        )
    state = rule.init(moving) if state is None else state
    yield Step(params, state, None)
    for step in range(steps):
        grads, loss = task_gradients(
            lambda p, k=step: support_loss({**fixed, **p}, k), moving, differentiable
        )
        if max_grad_norm is not None:
            grads = clip_per_task(grads, max_grad_norm)
        moving, state = rule.update(grads, state, moving, loss)  # phi_{k+1} = U(phi_k, grad)
        if path:
            moving = {n: p + (path[step][n] - p).detach() for n, p in moving.items()}
        yield Step({**fixed, **moving}, state, loss.detach())


def task_gradients(
    loss: Callable[[Params], Tensor], params: Params, differentiable: bool
) -> tuple[Params, Tensor]:
    """Computes the gradient of each task's loss with respect to its own parameters.

    The tasks share nothing, so the gradient of the sum of the losses holds that of each.

    Args:
        loss: Maps parameters [T, *shape] to losses [T].
        params: Where to take the gradient.
        differentiable: Whether the gradient keeps its graph for a second derivative; it does not
            under `torch.no_grad`.

    Returns:
        The gradients, shaped like `params` (zeros for those that the loss does not depend on), and
        the losses, [T], constants too if not `differentiable`.

    Raises:
        SettingsError: The losses depend on none of the parameters.
    """
    check_inference_mode()
    differentiable = differentiable and torch.is_grad_enabled()
    if not differentiable:
        params = {n: p.detach() for n, p in params.items()}
    with torch.enable_grad():
        if not differentiable:
            params = {n: p.requires_grad_() for n, p in params.items()}
        losses = loss(params)
        if not losses.requires_grad:
            raise SettingsError(
                "Expected a loss that depends on the parameters that adapt, it depends on none of "
                f"{', '.join(list(params)[:3])}: the network does not use them, or detaches them."
            )
        grads = torch.autograd.grad(
            losses, list(params.values()), torch.ones_like(losses),
            create_graph=differentiable, allow_unused=True,
        )  # fmt: skip
    losses = losses if differentiable else losses.detach()  # whose graph is freed
    pairs = zip(params.items(), grads, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}, losses


def check_inference_mode() -> None:
    """Raises SettingsError inside of `torch.inference_mode`, where nothing has a gradient."""
    if torch.is_inference_mode_enabled():
        raise SettingsError(
            "Expected gradients, which an adaptation takes and `torch.inference_mode()` does not "
            "allow. Call it outside of that, or inside of `torch.no_grad()`."
        )


def detach_adapted(params: Params, frozen: Collection[str]) -> Params:
    """Returns parameters of which only the frozen ones have derivatives."""
    return {n: p if n in frozen else p.detach() for n, p in params.items()}
