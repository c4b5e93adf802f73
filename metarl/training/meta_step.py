"""The outer update by an optimiser of torch."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from metarl import ranks
from metarl.adaptation.learner import Learner
from metarl.console import say
from metarl.cuda_graphs import Driver, graphs_allowed
from metarl.errors import SettingsError
from metarl.training.captured_iteration import CapturedIteration, Update
from metarl.training.given_options import OF_SCHEDULERS, GivenOptions, check_step, equal_values
from metarl.training.masked_step import MaskedStep, MissingStateError, plain_step, refusal
from metarl.training.meta_gradient import MetaGradient
from metarl.training.optimizer_state import UnsavedState
from metarl.training.optimizers import (
    OF_THE_DEVICE,
    OptimizerFactory,
    SchedulerFactory,
    check_modes,
    check_scheduler,
    given_optimizer,
    given_scheduler,
    make_optimizer,
    make_scheduler,
    training_mode,
    whole_step,
)
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.rates import Rates
from metarl.training.settings import TrainingSettings
from metarl.training.untrained import UntrainedSettings


class MetaStep(OuterUpdate):
    """Computes the meta-gradient and hands it to an optimiser.

    Args:
        learner: The learner to train.
        settings: Outer optimiser, rate, schedule, clipping, chunks, compilation.
        optimizer: An optimiser of the learner's parameters, or a function that makes one of named
            parameters (`torch.optim.AdamW`, or a `partial` of it); its rates then replace
            `outer_lr`, and the schedule of the settings scales them. None: that of the settings.
        scheduler: A function that makes a scheduler of the optimiser, or one of an optimiser that
            is given; stepped once per update (with the mean loss, if it is a `ReduceLROnPlateau`).
            None: the schedule of the settings.
        driver: Captures an iteration as a graph; None for CUDA, if the learner is on a GPU.

    Attributes:
        captured: Computes gradient and step without waiting for the device; None on a CPU, where
            workers or several processes share the tasks, and for optimisers that cannot.

    Raises:
        SettingsError: The optimiser has other parameters than the learner trains, needs a closure,
            or there are two optimisers or schedules. In a step: the scheduler fails, or sets a
            rate that is not finite or below 0.
    """

    def __init__(
        self,
        learner: Learner,
        settings: TrainingSettings,
        optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        driver: Driver | None = None,
    ) -> None:
        self.settings = settings
        self.gradient = MetaGradient(learner, settings, driver)
        self.gradient.check()
        self.params = self.gradient.params
        named = [(n, p) for n, p in learner.named_parameters() if p.requires_grad]
        if optimizer is None:
            self.optimizer = make_optimizer(named, settings)
        else:
            _check_one_optimizer(settings)
            self.optimizer = given_optimizer(optimizer, named)
        self._unsaved = UnsavedState(self.optimizer)
        self._given = GivenOptions(self.optimizer)
        check_modes(self.optimizer, learner)
        if scheduler is not None:
            _check_one_schedule(settings)
        self._rates = Rates(self.optimizer, settings, given=optimizer is not None)
        if scheduler is None:
            self.scheduler = make_scheduler(self.optimizer, settings)
        else:
            self.scheduler = given_scheduler(scheduler, self.optimizer)
        check_scheduler(self.scheduler, settings.iterations)
        self._given.scheduled_by(self.scheduler)
        self._rate = self._rates.at(0)
        plain = optimizer is None and self.scheduler is None
        self._step = plain_step(self.optimizer) if plain else whole_step
        self._masked: MaskedStep | None = None
        self.captured = self._captured(driver)
        self._reads_late = False

    def _captured(self, driver: Driver | None) -> CapturedIteration | None:
        if self.gradient.graphed is None or ranks.count() > 1:
            return None
        reason = refusal(self.optimizer, self.scheduler)
        if reason is not None:
            if graphs_allowed():
                say(f"The outer optimiser runs outside of the CUDA graphs: {reason}")
            return None
        self._masked = MaskedStep(self.optimizer, self.params, self.settings.max_grad_norm)
        return CapturedIteration(self.gradient, self._masked, driver)

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        self._set_rate(iteration)
        if self.captured is not None and self._masked is not None:
            if self._masked.ready():
                with suppress(MissingStateError):  # made by a step of the optimiser
                    return self._on_device(self.captured(inputs))
            self.gradient.captures = bool(self.optimizer.state)  # not for one step only
        with training_mode(self.optimizer):
            result, norm, finite = self.gradient(inputs)
            if finite:
                if self.settings.max_grad_norm is not None:
                    nn.utils.clip_grads_with_norm_(self.params, self.settings.max_grad_norm, norm)
                self._step(self.optimizer)
                self._step_scheduler(result.losses)
        return MetaResult(result.losses, result.metrics, result.carry, norm, finite)

    def _on_device(self, update: Update) -> MetaResult:
        """Returns the result of an update; reads its flag where the learner needs to know it."""
        (losses, metrics, carry), norm, finite = update
        if self._reads_late and (not carry or self.gradient.learner.stores_in_buffers):
            return MetaResult(losses, metrics, carry, norm, finite)
        is_finite = bool(finite)
        if not is_finite:
            self._allow_steps()
        return MetaResult(losses, metrics, carry, norm, is_finite)

    def read_late(self) -> None:
        self._reads_late = True
        self._allow_steps()

    def _allow_steps(self) -> None:
        if self._masked is not None:
            self._masked.reset()

    def rate(self, iteration: int) -> float:
        """Returns the rate of the first group; that of the last update if torch schedules it."""
        if self.scheduler is not None:
            return self._rate
        return self._rates.at(iteration)

    def state_dict(self) -> dict[str, Any]:
        self._unsaved.warn()
        state = self.optimizer.state_dict()
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
            state["rate"] = self._rate
        elif (rates := self._rates.state()) is not None:
            state["changed_rates"] = rates
        state["given_options"] = self._given.state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        scheduler, self._rate = state.pop("scheduler", None), state.pop("rate", self._rate)
        rates, given = state.pop("changed_rates", None), state.pop("given_options", None)
        if "param_groups" not in state:
            raise ValueError(f"its optimiser is not {type(self.optimizer).__name__}")
        if (scheduler is None) != (self.scheduler is None):
            raise ValueError(f"its schedule is not {self.settings.schedule}")
        ours = [_form(group) for group in self.optimizer.state_dict()["param_groups"]]
        if ours != [_form(group) for group in state["param_groups"]]:
            name = type(self.optimizer).__name__
            raise ValueError(f"its optimiser is not {name}, or has other groups of parameters")
        groups = zip(self.optimizer.param_groups, state["param_groups"], strict=True)
        saved = [
            {**theirs, **{name: ours[name] for name in OF_THE_DEVICE if name in ours}}
            for ours, theirs in groups
        ]
        state["param_groups"] = self._given.groups(saved, given)
        if self._masked is None:
            self.optimizer.load_state_dict(state)
        else:
            self._masked.load(state)
        if not equal_values(state["param_groups"], saved):
            check_step(self.optimizer)
        self._rates.load(rates)
        if self.scheduler is not None:
            self._given.load_schedule(scheduler, given)

    def _step_scheduler(self, losses: Tensor) -> None:
        if self.scheduler is None:
            return
        measured = isinstance(self.scheduler, ReduceLROnPlateau)
        arguments = (losses.mean().item(),) if measured else ()
        try:
            self.scheduler.step(*arguments)
        except Exception as error:  # with some options, those of torch raise anything too
            raise SettingsError(
                f"{type(self.scheduler).__name__}.step() raises {type(error).__name__}: {error}. "
                "Give it other options."
            ) from error

    def _set_rate(self, iteration: int) -> None:
        if self.scheduler is None:
            self._rates.set(iteration)
            return
        self._rate = float(self.optimizer.param_groups[0]["lr"])
        if not 0 <= self._rate < math.inf:
            raise SettingsError(
                "Expected a scheduler that sets finite rates of at least 0, got "
                f"{self._rate:g} from {type(self.scheduler).__name__} at iteration {iteration}. "
                "Give it other options."
            )


def _form(group: dict[str, Any]) -> tuple[set[str], int]:
    """Returns what a parameter group must have to take the state of another."""
    return set(group) - set(OF_SCHEDULERS), len(group["params"])


def _check_one_schedule(settings: TrainingSettings) -> None:
    """Raises SettingsError for settings of the schedule next to a `scheduler`."""
    if settings.schedule == "constant" and not settings.warmup:
        return
    other = f"{settings.warmup} iterations of `warmup`"
    if settings.schedule != "constant":
        other = f"the schedule {settings.schedule}"
    raise SettingsError(f"Expected one schedule, got a `scheduler` and {other}.")


def _check_one_optimizer(settings: TrainingSettings) -> None:
    """Raises SettingsError for settings of the optimiser next to an `optimizer`."""
    defaults = TrainingSettings()
    for name in ("optimizer", "optimizer_options", "rate_factors", "weight_decay", "no_decay"):
        if getattr(settings, name) != getattr(defaults, name):
            raise SettingsError(
                f"Expected one optimiser, got an `optimizer` and the setting {name} "
                f"{getattr(settings, name)}; give the optimiser all its options."
            )


def chosen_update(
    learner: Learner,
    settings: TrainingSettings,
    update: OuterUpdate | UpdateSettings | None,
    optimizer: torch.optim.Optimizer | OptimizerFactory | None,
    scheduler: SchedulerFactory | None,
) -> OuterUpdate:
    """Returns the update that an outer loop is given, or that of an optimiser.

    Raises:
        SettingsError: There are both, or the update is of another type.
    """
    if update is None and (optimizer is not None or scheduler is not None):
        return MetaStep(learner, settings, optimizer, scheduler)
    if update is None:
        return default_update(learner, settings)
    if not (optimizer is None and scheduler is None):
        raise SettingsError("Expected `optimizer` and `scheduler`, or an `update`; got both.")
    made = update.build(learner, settings) if isinstance(update, UpdateSettings) else update
    if not isinstance(made, OuterUpdate):
        raise SettingsError(
            f"Expected `update` to be an OuterUpdate of the learner, or UpdateSettings that build "
            f"one, got {_described(made)}. Subclass metarl.training.outer_update.OuterUpdate; an "
            "optimiser of torch is given as `optimizer`."
        )
    return made


def _described(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def default_update(learner: Learner, settings: TrainingSettings) -> OuterUpdate:
    """Returns the optimiser of the settings, or no update for a learner without parameters."""
    if any(p.requires_grad for p in learner.parameters()):
        return MetaStep(learner, settings)
    return UntrainedSettings().build(learner, settings)


@dataclass(frozen=True)
class GradientUpdateSettings(UpdateSettings):
    """The outer optimiser of the training settings; it has no settings."""

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        return MetaStep(learner, training)
