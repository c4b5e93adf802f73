"""What an optimiser and its scheduler were built with: a resumed run takes other options."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metarl.training.optimizers import OF_THE_DEVICE, OPTIMIZERS

_NO_OPTIONS = ("params", "param_names", "lr", *OF_THE_DEVICE)  # `Rates` has the rates
OF_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "min_momentum")
"""What schedulers of torch add to parameter groups."""
_PROGRESS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_step_count", "_last_lr")


class GivenOptions:
    """Compares the options of an optimiser and a scheduler with those of a checkpoint.

    An option that is given another value than in the checkpoint's run takes the new value. One that
    is given the same value keeps that of the checkpoint: schedulers cycle the momentum, and users
    change options during a run.

    Args:
        optimizer: The optimiser, before its scheduler is made.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [_options(group) for group in optimizer.param_groups]
        self._scheduler: Any = None
        self._schedule: dict[str, Any] | None = None

    def scheduled_by(self, scheduler: Any) -> None:
        """Stores the scheduler and its state before its first step; None: no scheduler."""
        self._scheduler = scheduler
        if scheduler is not None:
            kept = copy.deepcopy(scheduler.state_dict())
            self._schedule = {"kind": type(scheduler).__name__, "state": kept}
        self._built = [{**g, "params": []} for g in self._optimizer.param_groups]

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run compares its options with."""
        return {"groups": self._groups, "schedule": self._schedule}

    def groups(
        self, saved: list[dict[str, Any]], given: dict[str, Any] | None
    ) -> list[dict[str, Any]]:
        """Returns the parameter groups of a checkpoint, with the options that are given otherwise.

        Args:
            saved: The parameter groups of the checkpoint, as many as those of the optimiser.
            given: What `state` returned then; None for runs of older versions.
        """
        if given is None:  # what older versions changed themselves is the scheduler's
            before = [_options(group) for group in saved] if self._scheduler is None else None
        else:
            before = given["groups"]
        if before is None or len(before) != len(self._groups):
            return saved
        merged = []
        for theirs, then, now in zip(saved, before, self._groups, strict=True):
            changed = {n: v for n, v in now.items() if not equal_values(v, then.get(n))}
            merged.append({**theirs, **copy.deepcopy(changed)})
        return merged

    def load_schedule(self, saved: dict[str, Any], given: dict[str, Any] | None) -> None:
        """Restores the scheduler, after the optimiser; with other options, it repeats its steps.

        Args:
            saved: Its state in the checkpoint.
            given: What `state` returned then; None for runs of older versions.

        Raises:
            ValueError: The scheduler is of another kind, which cannot take its steps again.
        """
        then = None if given is None else given["schedule"]
        if then is None or equal_values(then, self._schedule):
            self._scheduler.load_state_dict(saved)
        elif isinstance(self._scheduler, ReduceLROnPlateau) and then["kind"] == self._kind:
            progress = {name: saved[name] for name in _PROGRESS if name in saved}
            self._scheduler.load_state_dict({**self._scheduler.state_dict(), **progress})
        elif _replays(self._scheduler) and "last_epoch" in saved and "best" not in saved:
            self._replay(int(saved["last_epoch"]))
        else:
            raise ValueError(
                f"its scheduler is {then['kind']} with other options, and {self._kind} cannot "
                "take the steps so far again"
            )

    @property
    def _kind(self) -> str:
        return type(self._scheduler).__name__

    def _replay(self, steps: int) -> None:
        """Gives the groups the rates of a schedule that had these options from the start."""
        for group, built in zip(self._optimizer.param_groups, self._built, strict=True):
            group.update({**copy.deepcopy(built), "params": group["params"]})
        optimizer: Any = self._optimizer  # torch warns of a scheduler that steps before it
        taken, optimizer._opt_called = getattr(optimizer, "_opt_called", False), True
        for _ in range(steps):
            self._scheduler.step()
        optimizer._opt_called = taken


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {n: copy.deepcopy(v) for n, v in group.items() if n not in _NO_OPTIONS}


def _replays(scheduler: Any) -> bool:
    """Returns whether a scheduler's rates depend on nothing but the number of its steps."""
    return isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau)


def equal_values(one: Any, other: Any) -> bool:
    """Returns whether nested values are equal; tuples and lists are the same."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal_values(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal_values, one, other))
    return bool(one == other)


def check_step(optimizer: torch.optim.Optimizer) -> None:
    """Checks, on a copy, that an optimiser with a restored state can take a step.

    Raises:
        ValueError: Its present options need a state that the checkpoint lacks.
    """
    if type(optimizer) not in OPTIMIZERS.values():
        return  # copies of others may lack attributes
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    try:
        trial.step()
    except KeyError as error:
        raise ValueError(
            f"an option of {type(optimizer).__name__} that was changed needs the state {error} "
            "from the first iteration on"
        ) from error
