"""Baselines: a network trained on all tasks at once, and tasks learned from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.parameter_names import adapted_params
from metarl.adaptation.update_rules import Adam, GradientDescent
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class PretrainedAlgorithm(GradientAlgorithm):
    """Baseline: trained on all tasks at once, then fine-tuned (Finn et al. 2017, section 5.1)."""

    inner_lr: float = 0.01
    """Rate of the fine-tuning, above 0."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        rule = GradientDescent(self.inner_lr)
        return Adaptation(network, rule, QueryLoss(), steps=0, frozen=self.frozen)


@dataclass(frozen=True)
class ScratchAlgorithm(GradientAlgorithm):
    """Baseline: each task learned alone, from random parameters; there is nothing to meta-train."""

    meta_trains: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("update",)

    inner_lr: float = 0.01
    """Rate of Adam, above 0."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        rule = Adam(adapted_params(network, self.frozen), self.inner_lr)
        return Adaptation(network, rule, QueryLoss(), steps=0, fresh_start=True, frozen=self.frozen)


Pretrained = as_function(PretrainedAlgorithm)
Scratch = as_function(ScratchAlgorithm)
