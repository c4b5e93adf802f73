"""Settings of each algorithm: frozen dataclasses that build its learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch

from metarl.adaptation import algorithms
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.models.base import Adaptable


class LearnerSettings(ABC):
    """Interface: settings that build a learner around a model."""

    @abstractmethod
    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """Builds the learner; what its rule learns starts from draws of `generator`."""


@dataclass(frozen=True)
class MAMLSettings(LearnerSettings):
    """MAML and FOMAML (Finn et al. 2017)."""

    inner_lr: float = 0.01
    """Rate of the inner gradient descent, above 0."""
    steps: int = 1
    """Adaptation steps in training."""
    first_order: bool = False
    """Drops second derivatives (FOMAML)."""
    frozen: tuple[str, ...] = ()
    """Name patterns of parameters that the inner loop leaves alone."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        del generator
        return algorithms.MAML(model, **asdict(self))


@dataclass(frozen=True)
class MetaSGDSettings(LearnerSettings):
    """Meta-SGD (Li et al. 2017)."""

    steps: int = 1
    """Adaptation steps in training."""
    low: float = 0.005
    """Lower end of the initial rates."""
    high: float = 0.1
    """Upper end of the initial rates."""
    frozen: tuple[str, ...] = ()
    """Name patterns of parameters that the inner loop leaves alone."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        return algorithms.MetaSGD(model, generator, **asdict(self))


@dataclass(frozen=True)
class MAMLPlusPlusSettings(LearnerSettings):
    """MAML++'s rates per layer and step and its multi-step loss (Antoniou et al. 2019)."""

    inner_lr: float = 0.1
    """Initial rate of all layers and steps, above 0."""
    steps: int = 5
    """Adaptation steps in training, each with rates of its own."""
    multi_step_iterations: int = 0
    """Meta-iterations in which the loss after every step counts; 0 leaves that out."""
    frozen: tuple[str, ...] | None = None
    """Name patterns of parameters that the inner loop leaves alone. None: the normalisation."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        del generator
        return algorithms.MAMLPlusPlus(model, **asdict(self))


@dataclass(frozen=True)
class ReptileSettings(LearnerSettings):
    """Reptile (Nichol et al. 2018)."""

    inner_lr: float = 1e-3
    """Rate of the inner Adam, above 0."""
    steps: int = 5
    """Inner steps in training."""
    batch_size: int | None = 10
    """Examples per inner step. None: all."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        del generator
        return algorithms.Reptile(model, **asdict(self))


@dataclass(frozen=True)
class LSTMMetaLearnerSettings(LearnerSettings):
    """LSTM meta-learner (Ravi & Larochelle 2017)."""

    steps: int = 12
    """Adaptation steps in training."""
    units: int = 20
    """Width of its first layer."""
    batch_size: int | None = None
    """Examples per step. None: all."""
    statistics_momentum: float = 0.9
    """Weight of the newest batch in an episode's batch-norm statistics, in (0, 1]."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        return algorithms.LSTMMetaLearner(model, generator, **asdict(self))


@dataclass(frozen=True)
class LearnedOptimizerSettings(LearnerSettings):
    """Learned optimiser (Andrychowicz et al. 2016)."""

    steps: int = 100
    """Adaptation steps in training."""
    unroll: int = 20
    """Steps per meta-iteration; parameters and state are carried to the next."""
    units: int = 20
    """Width of each of its two layers."""
    batch_size: int | None = None
    """Examples per step. None: all."""
    fresh_start: bool = False
    """Starts each task from random parameters, as the paper does, not from a learned start."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        return algorithms.LearnedOptimizer(model, generator, **asdict(self))


@dataclass(frozen=True)
class PretrainedSettings(LearnerSettings):
    """Baseline: trained on all tasks at once, then fine-tuned."""

    inner_lr: float = 0.01
    """Rate of the fine-tuning, above 0."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        del generator
        return algorithms.Pretrained(model, **asdict(self))


@dataclass(frozen=True)
class ScratchSettings(LearnerSettings):
    """Baseline: each task learned alone, from random parameters."""

    inner_lr: float = 0.01
    """Rate of Adam, above 0."""

    def build(self, model: Adaptable, generator: torch.Generator) -> GradientLearner:
        """See `LearnerSettings.build`."""
        del generator
        return algorithms.Scratch(model, **asdict(self))
