"""The outer update of ProMP: several optimiser steps on one batch of rollouts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.training.meta_step import MetaStep
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class ProximalSettings(UpdateSettings):
    """Settings of the PPO outer update (Rothfuss et al. 2019, algorithm 1)."""

    epochs: int = 5
    """Optimiser steps on the same rollouts, at least 1; the gradients' `clip` bounds them."""
    max_kl: float | None = None
    """Most that the adapted policies may move in these steps: mean divergence, old from new, in
    nats. The step that goes further is taken back and ends the epochs; the next one tells, so the
    last goes unjudged. None: no bound."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: There is not one epoch, or no divergence is allowed.
        """
        if self.epochs < 1:
            raise SettingsError(f"Expected at least 1 epoch, got {self.epochs}.")
        if self.max_kl is not None and not self.max_kl > 0:
            raise SettingsError(f"Expected a max_kl above 0 or None, got {self.max_kl}.")

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """See `UpdateSettings.build`."""
        return ProximalUpdate(MetaStep(learner, training), self)


class ProximalUpdate(OuterUpdate):
    """Takes several optimiser steps, each through the adaptation anew, on the same rollouts.

    How far they go is bounded by the objective (the clipped ratio of the adapted policies and the
    penalty on the divergence of those before: `PolicyGradientSettings.clip` and `inner_kl`;
    Rothfuss et al. 2019, equation 14), which does not hold where policies have become sure of their
    actions; then `max_kl` does.

    Args:
        step: One optimiser step.
        settings: See `ProximalSettings`.
    """

    def __init__(self, step: MetaStep, settings: ProximalSettings) -> None:
        self.step = step
        self.settings = settings

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """See `OuterUpdate.__call__`.

        Gives the numbers of the first step, the last KL, and as "meta/epochs" how many steps were
        kept.
        """
        start = before = self._snapshot()
        first = last = self.step(inputs, iteration)
        kept = 1
        while last.finite and kept < self.settings.epochs:
            now = before if self.settings.max_kl is None else self._snapshot()
            result = self.step(inputs, iteration)
            if self._too_far(result):  # where the step before it led
                self._return_to(before)
                kept -= 1
                break
            before, last = now, result
            kept += 1
        if not last.finite:
            self._return_to(start)
            return last
        shown = {tag: last.metrics[tag] for tag in ("meta/kl",) if tag in last.metrics}
        shown["meta/epochs"] = torch.full_like(first.losses, kept)
        return first._replace(metrics={**first.metrics, **shown})

    def rate(self, iteration: int) -> float:
        """See `OuterUpdate.rate`."""
        return self.step.rate(iteration)

    def state_dict(self) -> dict[str, Any]:
        """See `OuterUpdate.state_dict`: that of the optimiser."""
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `OuterUpdate.load_state_dict`."""
        self.step.load_state_dict(state)

    def _too_far(self, result: MetaResult) -> bool:
        bound = self.settings.max_kl
        if bound is None or not result.finite:
            return False
        return bool(result.metrics["meta/kl"].mean() > bound)

    def _snapshot(self) -> tuple[list[Tensor], dict[str, Any]]:
        params = [p.detach().clone() for p in self.step.params]
        return params, copy.deepcopy(self.step.state_dict())

    def _return_to(self, snapshot: tuple[list[Tensor], dict[str, Any]]) -> None:
        params, optimizer = snapshot
        with torch.no_grad():
            for p, old in zip(self.step.params, params, strict=True):
                p.copy_(old)
        self.step.load_state_dict(optimizer)
