"""Steps of torch's optimisers on a GPU that change nothing if a number is not finite."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from metarl.training.meta_gradient import norm_of
from metarl.training.optimizers import OPTIMIZERS


class StepMemory(NamedTuple):
    """What a step reads and changes in place.

    Attributes:
        params: The parameters.
        states: The optimiser's tensors of each parameter, by name.
        rates: The rate of each group of parameters, [] float32.
        bad: 1 from the first gradient on that was not finite, else 0; [] float32.
    """

    params: list[Tensor]
    states: list[dict[str, Tensor]]
    rates: list[Tensor]
    bad: Tensor


class MissingStateError(RuntimeError):
    """A parameter has a gradient for the first time: the optimiser has no state of it yet."""


class MaskedStep:
    """Clips a gradient and takes a step of an optimiser, without reading a value on the host.

    From the first gradient or loss on that is not finite, neither the parameters nor the state of
    the optimiser change, until `reset`. The optimiser keeps its parameters, its state and its
    rates as numbers: a checkpoint does not depend on how the steps were taken.

    Args:
        optimizer: An optimiser for which `refusal` returns None.
        params: The parameters, in the order of the gradients.
        max_norm: The norm to which gradients are clipped; None for no clipping.
    """

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], max_norm: float | None
    ) -> None:
        self._optimizer: Any = optimizer
        # Else torch warns of steps outside of a graph, of which there are few.
        self._optimizer._warned_capturable_if_run_uncaptured = True
        self._params = list(params)
        self._max_norm = max_norm
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        self._step = plain_step(optimizer)
        device = self._params[0].device
        places = {id(p): place for place, p in enumerate(self._params)}
        self._groups = [[places[id(p)] for p in g["params"]] for g in optimizer.param_groups]
        self._rates = [torch.zeros((), device=device) for _ in self._groups]
        self._written = [0.0 for _ in self._groups]
        self._bad = torch.zeros((), device=device)

    def reset(self) -> None:
        """Allows steps after one that was not finite."""
        self._bad.zero_()

    def load(self, state: dict[str, Any]) -> None:
        """Loads a state of the optimiser into the memory of the present one, which graphs read."""
        before = {p: _tensors(kept) for p, kept in self._optimizer.state.items()}
        self._optimizer.load_state_dict(state)
        for p, tensors in before.items():
            kept = self._optimizer.state.get(p, {})
            for name, old in tensors.items():
                new = kept.get(name)
                if isinstance(new, Tensor) and _alike(new, old):
                    kept[name] = old.copy_(new)

    def ready(self) -> bool:
        """Returns whether the optimiser has its state, which its first step makes, and no hooks."""
        if _has_hooks(self._optimizer):
            return False
        return _keeps_no_state(self._optimizer) or bool(self._optimizer.state)

    def memory(self) -> StepMemory:
        """Returns the memory of the next step, with the present rates."""
        for k, group in enumerate(self._optimizer.param_groups):
            if self._written[k] != group["lr"]:
                self._written[k] = group["lr"]
                self._rates[k].fill_(group["lr"])
        state = self._optimizer.state
        states = [_tensors(state[p]) if p in state else {} for p in self._params]
        return StepMemory(list(self._params), states, self._rates, self._bad)

    def constants(self) -> tuple[Any, ...]:
        """Returns the optimiser's options, which a captured step does not read again."""
        return tuple(
            (name, value)
            for group in self._optimizer.param_groups
            for name, value in group.items()
            if name not in ("params", "lr", "initial_lr")
        )

    @torch.no_grad()
    def __call__(
        self,
        memory: StepMemory,
        grads: Sequence[Tensor | None],
        losses: Tensor,
        norm: Tensor | None = None,
        clip: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Takes a step on this memory; clips the gradients in place.

        Args:
            memory: See `StepMemory`.
            grads: The gradient of each parameter in its memory layout, None for those without one.
            losses: The losses, any shape.
            norm: The norm of all gradients; None computes it.
            clip: Whether the gradients are clipped; False if they are already.

        Returns:
            The norm before clipping, [], and whether all gradients and losses since `reset` are
            finite, [] bool.

        Raises:
            MissingStateError: A parameter has a gradient and no state. Nothing was changed.
        """
        self._check_states(memory, grads)
        params = [p.detach() for p in memory.params]  # the same memory
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        if norm is None:
            norm = norm_of([grad for grad in grads if grad is not None])
        if clip and self._max_norm is not None:
            nn.utils.clip_grads_with_norm_(params, self._max_norm, norm)
        number = losses.sum() + norm
        memory.bad.logical_or_((number - number) != 0)  # NaN unless the number is finite
        shadow = self._shadow(memory, params)
        if self._fused:  # the kernels leave everything as it is if `found_inf` is 1
            shadow.found_inf = memory.bad
            self._step(shadow)
        else:
            _masked(lambda: self._step(shadow), params, memory)
        return norm, memory.bad == 0

    def _shadow(self, memory: StepMemory, params: list[Tensor]) -> Any:
        """Returns the optimiser for tensors in other places, with rates on the device."""
        shadow: Any = copy.copy(self._optimizer)
        # Where torch works tensor by tensor, some optimisers read the rate on the host.
        options = {"capturable": True, "foreach": not self._fused}
        shadow.param_groups = [
            {**group, **options, "params": [params[place] for place in places], "lr": rate}
            for group, places, rate in zip(
                self._optimizer.param_groups, self._groups, memory.rates, strict=True
            )
        ]
        shadow.state = defaultdict(dict)
        for p, ours, tensors in zip(params, self._params, memory.states, strict=True):
            if tensors:
                shadow.state[p] = {**self._optimizer.state[ours], **tensors}
        return shadow

    def _check_states(self, memory: StepMemory, grads: Sequence[Tensor | None]) -> None:
        if _keeps_no_state(self._optimizer):
            return
        if any(grad is not None and not s for grad, s in zip(grads, memory.states, strict=True)):
            raise MissingStateError("the optimiser has no state of a parameter yet.")


def plain_step(optimizer: Optimizer) -> Callable[[Optimizer], Any]:
    """Returns `step` without torch's hooks and profiler label, which cost as much as the update."""
    step = type(optimizer).step
    return getattr(step, "__wrapped__", step)


def refusal(optimizer: Optimizer, scheduler: Any) -> str | None:
    """Returns why an optimiser cannot take a `MaskedStep`; None if it can.

    Args:
        optimizer: The optimiser, with its parameters on their device.
        scheduler: A scheduler of torch, or None.
    """
    name = type(optimizer).__name__
    if scheduler is not None:
        return f"the scheduler {type(scheduler).__name__} changes its options between steps."
    if type(optimizer) not in OPTIMIZERS.values():
        return f"{name} is no optimiser of torch.optim."
    if _has_hooks(optimizer):
        return f"{name} has hooks."
    groups = optimizer.param_groups
    if any(isinstance(group["lr"], Tensor) for group in groups):
        return f"{name} has a tensor as its rate."
    if not (all(g.get("fused") for g in groups) or all(g.get("capturable") for g in groups)):
        return f"{name} has neither `fused` nor `capturable`."
    if any(p.is_complex() for group in groups for p in group["params"]):
        return "a parameter is complex."
    return _failure(optimizer)


def _failure(optimizer: Optimizer) -> str | None:
    """Returns why a step with its rate on the device fails, in a trial on one number, or None."""
    like = optimizer.param_groups[0]["params"][0]
    p = nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device))
    p.grad = torch.zeros_like(p)
    trial: Any = copy.copy(optimizer)
    trial.param_groups = [{**optimizer.param_groups[0], "params": [p]}]
    trial.state = defaultdict(dict)
    try:
        step = MaskedStep(trial, [p], None)
        step._step(trial)  # makes the state
        step(step.memory(), [p.grad], torch.zeros_like(p))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        return f"{type(optimizer).__name__} takes no step with its rate on the device: {reason}"
    return None


def _masked(step: Any, params: list[Tensor], memory: StepMemory) -> None:
    """Takes a step, and takes it back where `memory.bad` is 1."""
    tensors = [*params, *(t for state in memory.states for t in state.values())]
    before = [t.clone() for t in tensors]
    step()
    keep = memory.bad == 0
    torch._foreach_copy_(
        tensors, [torch.where(keep, t, b) for t, b in zip(tensors, before, strict=True)]
    )


def _tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def _has_hooks(optimizer: Optimizer) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _keeps_no_state(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, SGD) and not any(g["momentum"] for g in optimizer.param_groups)
