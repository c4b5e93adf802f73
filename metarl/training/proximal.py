"""The outer update of ProMP: several optimiser steps on one batch of rollouts."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl import ranks
from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.ranges import COUNT, POSITIVE, check_fields
from metarl.training.meta_step import MetaStep
from metarl.training.optimizers import OWN_SCHEDULES, SCHEDULERS
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import concatenate_tasks, map_tensors, tensors_of

_Snapshot = tuple[list[Tensor], dict[str, Any]]  # the parameters, and the state of the step
_Taken = tuple[list[MetaResult], dict[str, int]]  # the results of all steps, and what is counted
BACKTRACK = 0.25
"""Factor on a first step that exceeds the bound."""
STUCK = 10
"""So many updates in a row that are undone are reported."""


@dataclass(frozen=True)
class ProximalSettings(UpdateSettings):
    """Settings of the PPO outer update (Rothfuss et al. 2019, algorithm 1)."""

    epochs: int = 5
    """Passes over the same rollouts, at least 1."""
    minibatches: int = 1
    """Parts of the tasks, each with an optimiser step in every epoch, at least 1. 1: all tasks
    together."""
    max_kl: float | None = None
    """Bound on the mean divergence KL(old, new) of the adapted policies in these epochs, in nats.
    An epoch that exceeds it is undone and ends them; the first one is shortened to a quarter, if
    need be several times, which takes as many passes. It is measured in the step after it, so the
    last epoch is not checked. None: no bound."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: There is not one epoch, or no divergence is allowed.
        """
        check_fields(self, epochs=COUNT, minibatches=COUNT, max_kl=POSITIVE)

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        if training.schedule in SCHEDULERS:
            raise SettingsError(
                f"The schedule {training.schedule} counts optimiser steps, of which an update of "
                f"several epochs takes several; expected one of {', '.join(OWN_SCHEDULES)}."
            )
        if self.max_kl is not None and self.epochs == 1:
            warnings.warn(
                "`max_kl` has no effect with one epoch: each epoch is measured in the one after it."
                " Take 2 or more `epochs`.",
                stacklevel=2,
            )
        return ProximalUpdate(MetaStep(learner, training), self)


class ProximalUpdate(OuterUpdate):
    """Takes several optimiser steps on the same rollouts; each repeats the adaptation.

    The objective limits the steps: it clips the ratio of the adapted policies and penalises the
    divergence of the earlier ones (`PolicyGradientSettings.clip` and `inner_kl`; Rothfuss et al.
    2019, equation 14). This fails for nearly deterministic policies, where `max_kl` limits them.
    Updates that are undone one after another are reported by a warning.

    Args:
        step: One optimiser step.
        settings: See `ProximalSettings`.

    Raises:
        SettingsError: Several processes cannot share the minibatches equally.
    """

    def __init__(self, step: MetaStep, settings: ProximalSettings) -> None:
        self.step = step
        self.settings = settings
        self._undone = 0
        self._share_minibatches()

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """Takes the steps.

        Returns:
            The result of the first step, with the last KL, the number of epochs that were kept as
            "meta/epochs" and, with a bound, how often the first was shortened as
            "meta/backtracks".
        """
        parts, start = self._minibatches(inputs), self._snapshot()
        count = len(parts)  # what is kept to be read later does not hold the rollouts
        if self.settings.max_kl is None:
            steps, counted = self._all_epochs(parts, iteration)
        else:
            steps, counted = self._bounded_epochs(parts, iteration, start)
        total = ranks.total_tasks(inputs.tasks.num_tasks, self._total)

        def failed() -> MetaResult:
            number = next(k for k, step in enumerate(steps) if not step.finite)
            return _among(steps[number], number % count, count, total)

        finite = self._kept_if(steps[-1].finite, start)
        if finite is False:
            return failed()
        first, last = _joined(steps[:count]), steps[-1]
        metrics = {n: torch.full_like(first.losses, number) for n, number in counted.items()}
        if "meta/kl" in last.metrics:
            metrics["meta/kl"] = last.metrics["meta/kl"].mean().expand_as(first.losses)
        late = None if finite is True else failed
        return first._replace(metrics={**first.metrics, **metrics}, finite=finite, failed=late)

    def read_late(self) -> None:
        """Lets the host read later, without a bound: with one, it waits for each divergence."""
        if self.settings.max_kl is None:
            self.step.read_late()

    def _all_epochs(self, parts: list[Any], iteration: int) -> _Taken:
        """Takes the steps of all epochs, or up to one that is known not to be finite."""
        steps: list[MetaResult] = []
        for _ in range(self.settings.epochs):
            steps += self._epoch(parts, iteration)
            if steps[-1].finite is False:
                break
        return steps, {"meta/epochs": self.settings.epochs}

    def _bounded_epochs(self, parts: list[Any], iteration: int, start: _Snapshot) -> _Taken:
        """Takes the steps of the epochs that the bound allows, or up to one that is not finite."""
        before, steps = start, self._epoch(parts, iteration)
        self._check_measured(steps[0])
        epochs, backtracks = 1, 0
        while steps[-1].finite and epochs + backtracks < self.settings.epochs:
            now = self._snapshot()
            results = self._epoch(parts[:1], iteration)
            if self._exceeds_bound(results[0]):  # its KL is that of the epoch before
                # A shorter first step is measured by a further pass.
                if epochs == 1 and backtracks + 2 < self.settings.epochs:
                    self._restore(now)
                    self._shorten(start)
                    backtracks += 1
                    continue
                self._restore(before)
                epochs -= 1
                break
            if results[0].finite:
                results += self._epoch(parts[1:], iteration)
            steps += results
            before = now
            epochs += 1
        if steps[-1].finite:
            self._warn_if_stuck(epochs)
        return steps, {"meta/epochs": epochs, "meta/backtracks": backtracks}

    def _shorten(self, start: _Snapshot) -> None:
        """Leaves a quarter of the way of the parameters from an earlier state."""
        with torch.no_grad():
            for p, old in zip(self.step.params, start[0], strict=True):
                p.lerp_(old, 1 - BACKTRACK)

    def _warn_if_stuck(self, epochs: int) -> None:
        """Warns once if many updates in a row were undone: nothing is learned."""
        self._undone = 0 if epochs else self._undone + 1
        if self._undone == STUCK:
            warnings.warn(
                f"The last {STUCK} updates were undone, because their first steps exceeded "
                f"max_kl={self.settings.max_kl:g}: nothing is learned. Lower "
                "`--training.outer-lr`, or raise `--update.max-kl`.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _minibatches(self, inputs: Any) -> list[Any]:
        """Returns every P-th task, P times: the parts of several ranks are those of one."""
        count = min(self.settings.minibatches, inputs.tasks.num_tasks)
        if count == 1:
            return [inputs]
        return [map_tensors(lambda t, k=k: t[k::count].contiguous(), inputs) for k in range(count)]

    def _share_minibatches(self) -> None:
        """Checks that all ranks have equal minibatches, and sets their size in the gradient."""
        gradient, parts = self.step.gradient, self.settings.minibatches
        self._total = gradient.batch_size
        if ranks.count() > 1 and parts > 1:
            if gradient.batch_size % (parts * ranks.count()):
                raise SettingsError(
                    f"Expected a meta-batch size that {ranks.count()} processes x {parts} "
                    f"minibatches divide, got {gradient.batch_size}: change "
                    "--training.meta-batch-size or --update.minibatches."
                )
            gradient.batch_size //= parts

    def _epoch(self, parts: list[Any], iteration: int) -> list[MetaResult]:
        """Takes a step for each part of the tasks, up to one that is known not to be finite."""
        results: list[MetaResult] = []
        for part in parts:
            results.append(self.step(part, iteration))
            if results[-1].finite is False:
                break
        return results

    def rate(self, iteration: int) -> float:
        return self.step.rate(iteration)

    def state_dict(self) -> dict[str, Any]:
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step.load_state_dict(state)

    def _check_measured(self, result: MetaResult) -> None:
        """Raises SettingsError if there is a bound on a divergence that the learner lacks."""
        if self.settings.max_kl is not None and "meta/kl" not in result.metrics:
            raise SettingsError(
                "`max_kl` bounds the divergence of policies from those that collected the "
                f"rollouts, and {type(self.step.gradient.learner).__name__} measures none with "
                "this algorithm: leave it out."
            )

    def _exceeds_bound(self, result: MetaResult) -> bool:
        bound = self.settings.max_kl
        assert bound is not None
        return bool(result.finite and result.metrics["meta/kl"].mean() > bound)

    def _snapshot(self) -> _Snapshot:
        params = [p.detach().clone() for p in self.step.params]
        return params, copy.deepcopy(self.step.state_dict())

    def _kept_if(self, finite: bool | Tensor, start: _Snapshot) -> bool | Tensor:
        """Restores an earlier state unless all was finite; returns whether it was.

        It is restored on the device if the flag is there, without reading it, unless the optimiser
        has made its state since.
        """
        if isinstance(finite, Tensor):
            now = tensors_of((list(self.step.params), self.step.state_dict()["state"]))
            before = tensors_of((start[0], start[1]["state"]))
            if len(now) == len(before):
                with torch.no_grad():
                    kept = [torch.where(finite, *pair) for pair in zip(now, before, strict=True)]
                    torch._foreach_copy_(now, kept)
                return finite
        if not finite:
            self._restore(start)
        return bool(finite)

    def _restore(self, snapshot: _Snapshot) -> None:
        params, optimizer = snapshot
        with torch.no_grad():
            for p, old in zip(self.step.params, params, strict=True):
                p.copy_(old)
        self.step.load_state_dict(optimizer)


def _among(result: MetaResult, number: int, parts: int, total: int) -> MetaResult:
    """Returns a result that is not finite as one of all tasks, with zeros for the others.

    Args:
        result: The result of a minibatch.
        number: Which of the minibatches it is of.
        parts: The number of minibatches.
        total: The number of tasks.
    """

    def placed(values: Tensor) -> Tensor:
        of_all = values.new_zeros(total)
        of_all[number::parts] = values
        return of_all

    losses, metrics = map_tensors(placed, (result.losses, result.metrics))
    return result._replace(losses=losses, metrics=metrics, finite=False)


def _joined(results: list[MetaResult]) -> MetaResult:
    """Returns the results of the minibatches of an epoch as one, in the order of the tasks.

    It has the mean norm of the gradients, and the flag of the last minibatch.
    """
    if len(results) == 1:
        return results[0]
    norm = torch.stack([result.grad_norm for result in results]).mean()
    losses, metrics, carry = concatenate_tasks([result[:3] for result in results])
    tasks = torch.arange(len(losses), device=losses.device)
    place = torch.cat([tasks[k :: len(results)] for k in range(len(results))]).argsort()
    losses, metrics, carry = map_tensors(lambda t: t[place], (losses, metrics, carry))
    return MetaResult(losses, metrics, carry, norm, results[-1].finite)
