"""The outer update of ProMP: several optimiser steps on one batch of rollouts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.ranges import COUNT, POSITIVE, check_fields
from metarl.training.meta_step import MetaStep
from metarl.training.optimizers import OWN_SCHEDULES, SCHEDULERS
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class ProximalSettings(UpdateSettings):
    """Settings of the PPO outer update (Rothfuss et al. 2019, algorithm 1)."""

    epochs: int = 5
    """Optimiser steps on the same rollouts, at least 1."""
    max_kl: float | None = None
    """Bound on the mean divergence KL(old, new) of the adapted policies in these steps, in nats. A
    step that exceeds it is undone and ends the epochs. It is measured in the step after it, so the
    last step is not checked. None: no bound."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: There is not one epoch, or no divergence is allowed.
        """
        check_fields(self, epochs=COUNT, max_kl=POSITIVE)

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        if training.schedule in SCHEDULERS:
            raise SettingsError(
                f"The schedule {training.schedule} counts optimiser steps, of which an update of "
                f"several epochs takes several; expected one of {', '.join(OWN_SCHEDULES)}."
            )
        return ProximalUpdate(MetaStep(learner, training), self)


class ProximalUpdate(OuterUpdate):
    """Takes several optimiser steps on the same rollouts; each repeats the adaptation.

    The objective limits the steps: it clips the ratio of the adapted policies and penalises the
    divergence of the earlier ones (`PolicyGradientSettings.clip` and `inner_kl`; Rothfuss et al.
    2019, equation 14). This fails for nearly deterministic policies, where `max_kl` limits them.

    Args:
        step: One optimiser step.
        settings: See `ProximalSettings`.
    """

    def __init__(self, step: MetaStep, settings: ProximalSettings) -> None:
        self.step = step
        self.settings = settings

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """Takes the steps.

        Returns:
            The result of the first step, with the last KL and the number of steps taken as
            "meta/epochs".
        """
        start = before = self._snapshot()
        first = last = self.step(inputs, iteration)
        epochs = 1
        while last.finite and epochs < self.settings.epochs:
            now = before if self.settings.max_kl is None else self._snapshot()
            result = self.step(inputs, iteration)
            if self._exceeds_bound(result):  # its KL is that of the step before
                self._restore(before)
                epochs -= 1
                break
            before, last = now, result
            epochs += 1
        if not last.finite:
            self._restore(start)
            return last
        metrics = {**first.metrics, "meta/epochs": torch.full_like(first.losses, epochs)}
        if "meta/kl" in last.metrics:
            metrics["meta/kl"] = last.metrics["meta/kl"]
        return first._replace(metrics=metrics)

    def rate(self, iteration: int) -> float:
        return self.step.rate(iteration)

    def state_dict(self) -> dict[str, Any]:
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step.load_state_dict(state)

    def _exceeds_bound(self, result: MetaResult) -> bool:
        bound = self.settings.max_kl
        if bound is None or not result.finite:
            return False
        return bool(result.metrics["meta/kl"].mean() > bound)

    def _snapshot(self) -> tuple[list[Tensor], dict[str, Any]]:
        params = [p.detach().clone() for p in self.step.params]
        return params, copy.deepcopy(self.step.state_dict())

    def _restore(self, snapshot: tuple[list[Tensor], dict[str, Any]]) -> None:
        params, optimizer = snapshot
        with torch.no_grad():
            for p, old in zip(self.step.params, params, strict=True):
                p.copy_(old)
        self.step.load_state_dict(optimizer)
