"""Finds what an optimiser of the user's keeps outside of its state, which checkpoints lack."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

STORED = ("defaults", "state", "param_groups")
"""Attributes of every optimiser; its `state_dict` has what they hold."""


class UnsavedState:
    """Warns once of an optimiser that a resumed run could not continue to the bit.

    Args:
        optimizer: The optimiser, before its first step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._before = self._numbers()
        kind = type(optimizer)
        stores_itself = kind.state_dict is not torch.optim.Optimizer.state_dict
        self._is_known = kind.__module__.startswith("torch.optim") or stores_itself

    def warn(self) -> None:
        """Warns of attributes with tensors or optimisers, or with numbers that have changed."""
        if self._is_known:
            return
        values = {n: v for n, v in vars(self._optimizer).items() if n not in STORED}
        held = [name for name, value in values.items() if _holds_tensors(value)]
        now = self._numbers()
        changed = [name for name in now if now[name] != self._before.get(name, now[name])]
        if not held and not changed:
            return
        self._is_known = True
        name = type(self._optimizer).__name__
        warnings.warn(
            f"{name} keeps {', '.join(map(repr, held + changed))} as attributes, which its "
            "state_dict lacks: a resumed run would start them again, and differ. Keep them in "
            "`self.state[p]` or in the parameter groups, or give the class `state_dict` and "
            "`load_state_dict` that hold them.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _numbers(self) -> dict[str, float]:
        values = vars(self._optimizer).items()
        return {n: v for n, v in values if isinstance(v, int | float) and not isinstance(v, bool)}


def _holds_tensors(value: Any) -> bool:
    """Returns whether a value is or holds an optimiser, or tensors other than parameters."""
    if isinstance(value, torch.optim.Optimizer):
        return True
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_tensors, value))
