"""The outer update of ProMP: several optimiser steps on one batch of rollouts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

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

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: There is not one epoch.
        """
        if self.epochs < 1:
            raise SettingsError(f"Expected at least 1 epoch, got {self.epochs}.")

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """See `UpdateSettings.build`."""
        return ProximalUpdate(MetaStep(learner, training), self)


class ProximalUpdate(OuterUpdate):
    """Takes several optimiser steps, each through the adaptation anew, on the same rollouts.

    How far they go is bounded by the objective, not here: the clipped ratio of the adapted
    policies and the penalty on the divergence of those before (`PolicyGradientSettings.clip` and
    `inner_kl`; Rothfuss et al. 2019, equation 14).

    Args:
        step: One optimiser step.
        settings: See `ProximalSettings`.
    """

    def __init__(self, step: MetaStep, settings: ProximalSettings) -> None:
        self.step = step
        self.settings = settings

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """See `OuterUpdate.__call__`; gives the numbers of the first step, and the last KL."""
        before = [p.detach().clone() for p in self.step.params]
        optimizer = copy.deepcopy(self.step.state_dict())
        first = result = self.step(inputs, iteration)
        for _ in range(1, self.settings.epochs):
            if not result.finite:
                break
            result = self.step(inputs, iteration)
        if not result.finite:
            with torch.no_grad():
                for p, old in zip(self.step.params, before, strict=True):
                    p.copy_(old)
            self.step.load_state_dict(optimizer)
            return result
        last = {tag: result.metrics[tag] for tag in ("meta/kl",) if tag in result.metrics}
        return first._replace(metrics={**first.metrics, **last})

    def rate(self, iteration: int) -> float:
        """See `OuterUpdate.rate`."""
        return self.step.rate(iteration)

    def state_dict(self) -> dict[str, Any]:
        """See `OuterUpdate.state_dict`: that of the optimiser."""
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `OuterUpdate.load_state_dict`."""
        self.step.load_state_dict(state)
