"""The outer update by an optimiser of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.training.meta_gradient import MetaGradient
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings


class MetaStep(OuterUpdate):
    """Computes the meta-gradient and hands it to an optimiser.

    Args:
        learner: The learner to train.
        settings: Outer optimiser, rate, schedule, clipping, chunks, compilation.
    """

    def __init__(self, learner: Learner, settings: TrainingSettings) -> None:
        self.settings = settings
        self.gradient = MetaGradient(learner, settings)
        self.params = self.gradient.params
        self.optimizer = _optimizer(self.params, settings)
        # Without torch's hooks and profiler label, which cost as much as the update itself.
        step = type(self.optimizer).step
        self._update = getattr(step, "__wrapped__", step)

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        self._set_rate(iteration)
        result, norm, finite = self.gradient(inputs)
        if finite:
            if self.settings.max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(self.params, self.settings.max_grad_norm, norm)
            self._update(self.optimizer)
        return MetaResult(result.losses, result.metrics, result.carry, norm, finite)

    def rate(self, iteration: int) -> float:
        return outer_rate(self.settings, iteration)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        options = set(self.optimizer.state_dict()["param_groups"][0])
        if "param_groups" not in state or options != set(state["param_groups"][0]):
            raise ValueError(f"its optimiser is not {self.settings.optimizer}")
        self.optimizer.load_state_dict(state)

    def _set_rate(self, iteration: int) -> None:
        rate = self.rate(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def outer_rate(settings: TrainingSettings, iteration: int) -> float:
    """Returns the outer rate at an iteration, counted from 0."""
    s = settings
    if s.schedule == "constant":
        return s.outer_lr
    done = iteration / s.iterations
    left = 1 - done if s.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return s.final_lr + (s.outer_lr - s.final_lr) * left


def _optimizer(params: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(params, settings.outer_lr, fused=True)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(params, settings.outer_lr, fused=True)
    raise SettingsError(f"Unknown outer optimizer {settings.optimizer!r}; known: adam, sgd.")


@dataclass(frozen=True)
class GradientUpdateSettings(UpdateSettings):
    """The outer optimiser of the training settings; it has no settings of its own."""

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        return MetaStep(learner, training)
