"""The rates of an optimiser's groups, as the schedules of MetaRL set them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from metarl.training.optimizers import ENDING
from metarl.training.settings import TrainingSettings


class Rates:
    """Scales the rates of an optimiser by the schedule of the settings.

    A rate that the optimiser itself or the user has changed since the last step is kept: the
    schedule scales it from then on.

    Args:
        optimizer: The optimiser, before its first step.
        settings: The schedule.
        given: Whether the optimiser is the user's. The first of its rates above 0 then replaces
            `outer_lr`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: TrainingSettings, given: bool
    ) -> None:
        self._optimizer = optimizer
        self._settings = settings
        self._given = self._present()
        self._bases, self._written = list(self._given), list(self._given)
        self._first = settings.outer_lr
        if given:
            self._first = next((rate for rate in self._given if rate > 0), settings.outer_lr)
        if settings.final_lr and settings.schedule not in ENDING:
            warnings.warn(
                f"`final_lr` {settings.final_lr:g} has no effect: the schedule "
                f"{settings.schedule} does not end there, as {' and '.join(ENDING)} do.",
                stacklevel=3,
            )

    def set(self, iteration: int) -> None:
        """Gives each group its rate at an iteration, counted from 0."""
        self._notice()
        for k, group in enumerate(self._optimizer.param_groups):
            group["lr"] = self._written[k] = self.at(iteration, k)

    def at(self, iteration: int, group: int = 0) -> float:
        """Returns the rate of a group at an iteration."""
        base, rate = self._bases[group], outer_rate(self._settings, iteration, self._first)
        return rate if base == self._first else base * (rate / self._first)

    def state(self) -> dict[str, Any] | None:
        """Returns what a resumed run needs to know; None unless rates were changed."""
        self._notice()
        return None if self._bases == self._given else {"given": self._given, "now": self._bases}

    def load(self, state: dict[str, Any] | None) -> None:
        """Restores changed rates, unless the optimiser was built with other rates than then."""
        self._written = self._present()
        self._bases = list(self._given)
        if state is not None and state["given"] == self._given:
            self._bases = list(state["now"])

    def _present(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _notice(self) -> None:
        """Takes over rates that were changed since the last `set`."""
        for k, rate in enumerate(self._present()):
            written = self._written[k]
            if rate == written:
                continue
            is_scaled = written != 0 and written != self._bases[k]
            self._bases[k] = self._bases[k] * (rate / written) if is_scaled else rate
            self._written[k] = rate


def outer_rate(settings: TrainingSettings, iteration: int, first: float | None = None) -> float:
    """Returns the outer rate at an iteration, counted from 0, by the schedules of MetaRL.

    Args:
        settings: The schedule.
        iteration: Meta-iterations done so far.
        first: The rate that the schedule starts from; None for `outer_lr`.
    """
    s = settings
    rate = s.outer_lr if first is None else first
    if s.schedule in ENDING:
        done = iteration / max(s.iterations, 1)
        left = 1 - done if s.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        rate = s.final_lr + (rate - s.final_lr) * left
    return rate * (iteration + 1) / s.warmup if iteration < s.warmup else rate
