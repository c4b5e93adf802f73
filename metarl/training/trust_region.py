"""The outer update of MAML-TRPO: the largest step that a trust region allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.rl.conjugate_gradient import conjugate_gradient
from metarl.rl.fisher import fisher_product, flatten, unflatten
from metarl.rl.policy_learner import PolicyInputs, PolicyLearner
from metarl.training.compilation import Capture, CompiledFunction, CompiledProduct
from metarl.training.meta_gradient import MetaGradient
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import cut_tasks


@dataclass(frozen=True)
class TrustRegionSettings(UpdateSettings):
    """Settings of the TRPO outer update (Schulman et al. 2015, appendix C)."""

    max_kl: float = 0.01
    """Largest mean divergence of the adapted policies, old from new, in nats; above 0."""
    cg_iterations: int = 10
    """Iterations of the conjugate gradient."""
    damping: float = 1e-5
    """Added to the diagonal of the Fisher matrix."""
    backtrack_ratio: float = 0.8
    """Factor between two tries of the line search, in (0, 1)."""
    max_backtracks: int = 15
    """Tries of the line search; if none is accepted nothing changes."""
    fisher_trajectories: int | None = None
    """Rollouts per task that the Fisher matrix is estimated from. None: all."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        if not 0 < self.max_kl < math.inf:
            raise SettingsError(f"Expected a finite `max_kl` above 0, got {self.max_kl}.")
        if not 0 < self.backtrack_ratio < 1:
            raise SettingsError(
                f"Expected `backtrack_ratio` in (0, 1), got {self.backtrack_ratio}."
            )
        counts = (
            self.cg_iterations,
            self.max_backtracks,
            1 if self.fisher_trajectories is None else self.fisher_trajectories,
        )
        if min(counts) < 1 or self.damping < 0:
            raise SettingsError(
                "Expected counts of at least 1 and a `damping` of at least 0, got "
                f"cg_iterations={self.cg_iterations}, max_backtracks={self.max_backtracks}, "
                f"fisher_trajectories={self.fisher_trajectories}, damping={self.damping}."
            )

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """See `UpdateSettings.build`."""
        if not isinstance(learner, PolicyLearner):
            raise SettingsError(
                f"A trust region is for policies; got a {type(learner).__name__}. "
                "Choose an optimiser of the training settings."
            )
        steps = learner.adaptation.steps
        if not learner.adaptation.objective.weights(0, steps)[-1]:
            raise SettingsError(
                "A trust region needs a loss of the adapted policies, and "
                f"{type(learner.adaptation.objective).__name__} has none: expected another "
                "update, such as GradientUpdateSettings."
            )
        _refuse_rates(training)
        return TrustRegionUpdate(learner, training, self)


def _refuse_rates(training: TrainingSettings) -> None:
    """Raises where settings of optimisers are asked for: a trust region would not obey them."""
    usual = TrainingSettings()
    for name in ("optimizer", "outer_lr", "schedule", "final_lr", "max_grad_norm"):
        value = getattr(training, name)
        if value != getattr(usual, name):
            raise SettingsError(
                f"A trust region finds the length of its step by `max_kl`: {name}={value} would "
                "change nothing. Leave it out, or choose an algorithm with an optimiser (promp)."
            )


class TrustRegionUpdate(OuterUpdate):
    """TRPO on the adapted policies (Finn et al. 2017, section 5.3, algorithm 3).

    The step solves F x = g, where F is the Fisher matrix of the policies after adaptation, taken
    through the adaptation and averaged over the tasks, by conjugate gradients, and has the length
    at which the quadratic model of the divergence reaches `max_kl`. A line search shortens it
    until the true divergence is within `max_kl` and the loss falls; adaptation is computed anew
    from each try, on the same rollouts. If no try is good, the parameters stay, to the bit.

    Args:
        learner: What is trained.
        training: Settings of the outer loop; chunks of tasks bound the memory.
        settings: See `TrustRegionSettings`.
    """

    def __init__(
        self, learner: PolicyLearner, training: TrainingSettings, settings: TrustRegionSettings
    ) -> None:
        self.learner = learner
        self.settings = settings
        self.gradient = MetaGradient(learner, training)
        self.params = self.gradient.params
        self._product, self._outcome = partial(self._made_product, self.params), self._judged
        if training.compile:
            product = Capture(learner, self.params, self._multiplied)
            self._product = CompiledProduct(product, self.params)
            self._outcome = CompiledFunction(
                Capture(learner, [], lambda _, chunk: self._judged(chunk))
            )

    def __call__(self, inputs: PolicyInputs, iteration: int) -> MetaResult:
        """See `OuterUpdate.__call__`."""
        del iteration
        result, norm, finite = self.gradient(inputs)
        metrics = dict(result.metrics)
        if finite:
            slope = flatten(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
            )
            step = self._step(slope, inputs)
            metrics |= self._line_search(step, result.losses.mean(), inputs)
        return MetaResult(result.losses, metrics, result.carry, norm, finite)

    def _step(self, slope: Tensor, inputs: PolicyInputs) -> Tensor:
        """Returns the step to try first: down the natural gradient, as far as the model allows."""
        product = self._fisher(inputs)
        solved = conjugate_gradient(product, slope, self.settings.cg_iterations)
        direction = solved.solution
        curvature = direction @ (slope - solved.residual)
        # Not a curved direction: rounding, or no gradient at all. Then nothing moves.
        safe = curvature > 0
        scale = torch.where(safe, 2 * self.settings.max_kl / curvature, 0.0).sqrt()
        return -scale * direction

    def _fisher(self, inputs: PolicyInputs) -> Callable[[Tensor], Tensor]:
        """Returns the damped product; graphs beyond one chunk's are made anew for each vector."""
        training, total = self.gradient.settings, inputs.tasks.num_tasks
        thinned, size = inputs, training.task_chunk_size or total
        if self.settings.fisher_trajectories is not None:
            thinned = inputs.thinned(self.settings.fisher_trajectories)
            # A chunk of thinned rollouts holds as many as one of whole tasks.
            size *= max(self.learner.settings.trajectories // self.settings.fisher_trajectories, 1)

        def of_chunk(chunk: PolicyInputs) -> Callable[[Tensor], Tensor]:
            return self._product(chunk, total)

        fits = total <= size
        chunks = cut_tasks(thinned, -(-total // training.workers) if fits else size)
        kept = list(self.gradient.map(of_chunk, chunks)) if fits else None

        def product(vector: Tensor) -> Tensor:
            if kept is not None:
                parts = self.gradient.map(lambda made: made(vector), kept)
            else:
                parts = self.gradient.map(lambda chunk: of_chunk(chunk)(vector), chunks)
            return sum(parts, start=self.settings.damping * vector)

        return product

    def _made_product(
        self, params: Sequence[Tensor], chunk: PolicyInputs, total: int
    ) -> Callable[[Tensor], Tensor]:
        """Returns the product with a chunk's share of the Fisher matrix, not damped."""
        distribution = self.learner.adapted_distribution(chunk)
        return fisher_product(distribution, chunk.experience[-1].weights / total, params)

    def _multiplied(
        self, params: Sequence[Tensor], chunk: PolicyInputs, total: int, vector: Tensor
    ) -> Tensor:
        return self._made_product(params, chunk, total)(vector)

    @torch.no_grad()
    def _line_search(self, step: Tensor, loss: Tensor, inputs: PolicyInputs) -> dict[str, Tensor]:
        before = [p.clone() for p in self.params]
        moves = unflatten(step, self.params)
        accepted, divergence, tries = False, torch.zeros(()), 0
        for tries in range(self.settings.max_backtracks):
            share = self.settings.backtrack_ratio**tries
            for p, old, move in zip(self.params, before, moves, strict=True):
                p.copy_(old + share * move)
            new_loss, divergence = self._judge(inputs)
            # Comparisons with NaN are false: a step into it is refused.
            accepted = bool((new_loss < loss) & (divergence <= self.settings.max_kl))
            if accepted:
                break
        if not accepted:
            for p, old in zip(self.params, before, strict=True):
                p.copy_(old)
        return {
            "meta/line_search/accepted": torch.tensor(float(accepted)),
            "meta/line_search/tries": torch.tensor(tries + 1.0),
            "meta/kl": divergence if accepted else torch.zeros(()),
        }

    def _judge(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of the adapted policies, mean over the tasks.

        Of a step that goes too far it looks at no more tasks than show that it does: divergences
        are not negative, so what the others might add is left out.
        """
        chunks = cut_tasks(inputs, self.gradient.settings.task_chunk_size)
        most = self.settings.max_kl * inputs.tasks.num_tasks
        losses, divergences, total = [], [], 0.0
        for loss, divergence in self.gradient.map(self._outcome, chunks):
            losses.append(loss)
            divergences.append(divergence)
            total = total + float(divergence.sum())
            if total > 1.01 * most:  # by more than rounding
                break
        return torch.cat(losses).mean(), torch.cat(divergences).sum() / inputs.tasks.num_tasks

    @torch.no_grad()
    def _judged(self, chunk: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of the adapted policies of a chunk's tasks, [T] each."""
        result = self.learner(chunk)
        return result.losses, result.metrics["meta/kl"]

    def state_dict(self) -> dict[str, Any]:
        """See `OuterUpdate.state_dict`; there is nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `OuterUpdate.load_state_dict`."""
        if state:
            raise ValueError("it holds an optimiser's state, and a trust region has none")
