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
from metarl.trees import concatenate_tasks, map_tensors

_Snapshot = tuple[list[Tensor], dict[str, Any]]  # the parameters, and the state of the step
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
        parts = self._minibatches(inputs)
        start = before = self._snapshot()
        results = self._epoch(parts, iteration)
        self._check_measured(results[0])
        first, last, number = _joined(results, len(parts)), results[-1], len(results) - 1
        epochs, backtracks, bound = 1, 0, self.settings.max_kl
        while last.finite and epochs + backtracks < self.settings.epochs:
            now = before if bound is None else self._snapshot()
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
            before, last, number = now, results[-1], len(results) - 1
            epochs += 1
        if not last.finite:
            self._restore(start)
            total = ranks.total_tasks(inputs.tasks.num_tasks, self._total)
            return _among(last, number, len(parts), total)
        counts = {"meta/epochs": epochs}
        if bound is not None:
            counts["meta/backtracks"] = backtracks
        metrics = {n: torch.full_like(first.losses, count) for n, count in counts.items()}
        if "meta/kl" in last.metrics:
            metrics["meta/kl"] = last.metrics["meta/kl"].mean().expand_as(first.losses)
        self._warn_if_stuck(epochs)
        return first._replace(metrics={**first.metrics, **metrics})

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
        tasks = [torch.arange(k, inputs.tasks.num_tasks, count) for k in range(count)]
        return [map_tensors(lambda t, rows=rows: t[rows], inputs) for rows in tasks]

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
        """Takes a step for each part of the tasks, up to one that is not finite."""
        results: list[MetaResult] = []
        for part in parts:
            results.append(self.step(part, iteration))
            if not results[-1].finite:
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
        if bound is None or not result.finite:
            return False
        return bool(result.metrics["meta/kl"].mean() > bound)

    def _snapshot(self) -> _Snapshot:
        params = [p.detach().clone() for p in self.step.params]
        return params, copy.deepcopy(self.step.state_dict())

    def _restore(self, snapshot: _Snapshot) -> None:
        params, optimizer = snapshot
        with torch.no_grad():
            for p, old in zip(self.step.params, params, strict=True):
                p.copy_(old)
        self.step.load_state_dict(optimizer)


def _among(result: MetaResult, number: int, parts: int, total: int) -> MetaResult:
    """Returns the result of a minibatch as one of all tasks, with zeros for the others.

    Args:
        result: The result.
        number: Which of the minibatches it is of.
        parts: The number of minibatches.
        total: The number of tasks.
    """

    def placed(values: Tensor) -> Tensor:
        of_all = values.new_zeros(total)
        of_all[number::parts] = values
        return of_all

    losses, metrics = map_tensors(placed, (result.losses, result.metrics))
    return result._replace(losses=losses, metrics=metrics)


def _joined(results: list[MetaResult], parts: int) -> MetaResult:
    """Returns the results of an epoch as one, in the order of the tasks.

    Args:
        results: The results of the minibatches, fewer than `parts` if one is not finite.
        parts: The number of minibatches.

    Returns:
        The result, with the mean norm of the gradients.
    """
    if len(results) == 1:
        return results[0]
    norm = torch.stack([result.grad_norm for result in results]).mean()
    losses, metrics, carry = concatenate_tasks([result[:3] for result in results])
    if len(results) == parts:
        tasks = torch.arange(len(losses), device=losses.device)
        place = torch.cat([tasks[k::parts] for k in range(parts)]).argsort()
        losses, metrics, carry = map_tensors(lambda t: t[place], (losses, metrics, carry))
    finite = all(result.finite for result in results)
    return MetaResult(losses, metrics, carry, norm, finite)
