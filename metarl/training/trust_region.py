"""The outer update of MAML-TRPO: the longest step within a trust region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl import ranks
from metarl.adaptation.learner import Learner
from metarl.cuda_graphs import Driver, graphs_allowed
from metarl.errors import SettingsError
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range, check_fields
from metarl.rl.conjugate_gradient import CGResult, conjugate_gradient, solve_by_masks
from metarl.rl.fisher import fisher_product, flatten, unflatten
from metarl.rl.policy_inputs import PolicyInputs
from metarl.rl.policy_learner import PolicyLearner
from metarl.training.captured_trust_region import CapturedTrustRegion, search_metrics
from metarl.training.compilation import Capture, CompiledFunction, CompiledProduct
from metarl.training.meta_gradient import MetaGradient
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import cut_tasks


@dataclass(frozen=True)
class TrustRegionSettings(UpdateSettings):
    """Settings of the TRPO outer update (Schulman et al. 2015, appendix C)."""

    max_kl: float = 0.01
    """Bound on the mean divergence KL(old, new) of the adapted policies, in nats; above 0."""
    cg_iterations: int = 10
    """Iterations of the conjugate gradient."""
    damping: float = 1e-5
    """Added to the diagonal of the Fisher matrix, at least 0."""
    backtrack_ratio: float = 0.8
    """Factor between two tries of the line search, in (0, 1)."""
    max_backtracks: int = 15
    """Tries of the line search; if none is accepted, the parameters do not change."""
    fisher_trajectories: int | None = None
    """Rollouts of each adapted policy from which the Fisher matrix is estimated. None: all."""
    fisher_support: int | None = None
    """Rollouts per adaptation step that the derivative of the adaptation is estimated from in the
    Fisher matrix. None: all. The matrix is always that of the policies that adapted on all."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        check_fields(
            self,
            max_kl=POSITIVE, cg_iterations=COUNT, damping=NOT_NEGATIVE,
            backtrack_ratio=Range(0, 1, False, False), max_backtracks=COUNT,
            fisher_trajectories=COUNT, fisher_support=COUNT,
        )  # fmt: skip

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
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


def _count_rollouts(inputs: PolicyInputs) -> int:
    """Returns the number of rollouts per task, in all adaptation steps together."""
    return sum(batch.rollouts.rewards.shape[1] for batch in inputs.experience)


_OPTIMISER_SETTINGS = (
    "optimizer", "outer_lr", "schedule", "final_lr", "max_grad_norm", "optimizer_options",
    "rate_factors", "weight_decay", "no_decay", "schedule_options", "warmup",
)  # fmt: skip


def _refuse_rates(training: TrainingSettings) -> None:
    """Raises SettingsError for settings of optimisers, which a trust region ignores."""
    defaults = TrainingSettings()
    for name in _OPTIMISER_SETTINGS:
        value = getattr(training, name)
        if value != getattr(defaults, name):
            raise SettingsError(
                f"A trust region finds the length of its step by `max_kl`: {name}={value} would "
                "change nothing. Leave it out, or choose an algorithm with an optimiser (promp)."
            )


class TrustRegionUpdate(OuterUpdate):
    """TRPO on the adapted policies (Finn et al. 2017, section 5.3, algorithm 3).

    The step solves F x = g by conjugate gradients, where g is the meta-gradient and F is the Fisher
    matrix of the policies after adaptation, differentiated through the adaptation and averaged over
    the tasks. Its length is that at which the quadratic model of the divergence reaches `max_kl`. A
    line search shortens it until the divergence is at most `max_kl` and the loss falls; every try
    adapts again, on the same rollouts. If no try is accepted, the parameters do not change.

    Args:
        learner: The learner to train.
        training: Settings of the outer loop; chunks of tasks bound the memory.
        settings: See `TrustRegionSettings`.
        driver: See `MetaGradient`.
    """

    def __init__(
        self,
        learner: PolicyLearner,
        training: TrainingSettings,
        settings: TrustRegionSettings,
        driver: Driver | None = None,
    ) -> None:
        self.learner = learner
        self.settings = settings
        self.gradient = MetaGradient(learner, training, driver)
        self.params = self.gradient.params
        self._fisher_of_chunk = partial(self._chunk_fisher_product, self.params)
        self._outcome_of_chunk = self._loss_and_divergence
        if training.compile:
            product = Capture(learner, self.params, self._multiply_by_chunk_fisher)
            self._fisher_of_chunk = CompiledProduct(product, self.params)
            self._outcome_of_chunk = CompiledFunction(
                Capture(learner, [], lambda _, chunk: self._loss_and_divergence(chunk))
            )
        self._captured = self._capturing()
        self._graphed_step = self.gradient.captured("natural gradients", self._step_of_all)
        self._graphed_outcome = self.gradient.captured(
            "line searches", lambda _, chunk: self._loss_and_divergence(chunk)
        )

    def _capturing(self) -> CapturedTrustRegion | None:
        if self.gradient.graphed is None or ranks.count() > 1:
            return None
        return CapturedTrustRegion(
            self.gradient,
            lambda leaves, g, inputs: self._step_of_all(leaves, g, self._thinned(inputs)[0]),
            self._outcome_of_chunk,
            self.settings.max_kl, self.settings.backtrack_ratio, self.settings.max_backtracks,
        )  # fmt: skip

    def __call__(self, inputs: PolicyInputs, iteration: int) -> MetaResult:
        del iteration
        captured, tasks = self._captured, inputs.tasks.num_tasks
        if captured is None or not graphs_allowed():
            return self._by_host(inputs)
        return self.gradient.fitting(
            lambda size: captured(inputs) if (size or tasks) >= tasks else self._by_host(inputs),
            self.gradient.settings_chunk_size(),
            tasks,
        )

    def _by_host(self, inputs: PolicyInputs) -> MetaResult:
        """Takes the step in chunks of tasks; the host decides which try is accepted."""
        result, norm, finite = self.gradient(inputs)
        metrics = dict(result.metrics)
        if finite:
            gradient = flatten(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
            )
            step = self._fitting_step(gradient, inputs)
            metrics |= self._line_search(step, result.losses.mean(), inputs)
        return MetaResult(result.losses, metrics, result.carry, norm, finite)

    def _fitting_step(self, gradient: Tensor, inputs: PolicyInputs) -> Tensor:
        """Returns `_natural_gradient_step`, by smaller chunks if the memory does not suffice."""
        if ranks.count() > 1:  # a second try would send messages that no other rank awaits
            return self._natural_gradient_step(gradient, inputs)
        return self.gradient.fitting(
            lambda _: self._natural_gradient_step(gradient, inputs),
            self.gradient.settings_chunk_size(),
            inputs.tasks.num_tasks,
        )

    def _natural_gradient_step(self, gradient: Tensor, inputs: PolicyInputs) -> Tensor:
        """Returns the longest step that the quadratic model of the divergence allows, [P]."""
        if self._graphed_step is not None and graphs_allowed() and ranks.count() == 1:
            thinned, size = self._thinned(inputs)
            if thinned.tasks.num_tasks <= size:
                return self._graphed_step(gradient, thinned)
        fisher = self._fisher_product(inputs)
        # x ~ F^-1 g  (Schulman et al. 2015, appendix C.1)
        solved = conjugate_gradient(fisher, gradient, self.settings.cg_iterations)
        return self._longest_step(gradient, solved)

    def _step_of_all(
        self, leaves: Sequence[Tensor], gradient: Tensor, thinned: PolicyInputs
    ) -> Tensor:
        """Computes `_natural_gradient_step` without the host, for tasks that fit into one chunk."""
        total = thinned.tasks.num_tasks
        if self.gradient.settings.compile:
            product = self._fisher_of_chunk(thinned, total)
        else:
            product = self._chunk_fisher_product(leaves, thinned, total)

        def fisher(vector: Tensor) -> Tensor:
            return product(vector) + self.settings.damping * vector

        solved = solve_by_masks(fisher, gradient, self.settings.cg_iterations)
        return self._longest_step(gradient, solved)

    def _longest_step(self, gradient: Tensor, solved: CGResult) -> Tensor:
        x = solved.solution
        x_f_x = x @ (gradient - solved.residual)  # x^T F x, as F x = g - residual
        # x^T F x <= 0 comes from rounding or a zero gradient: the parameters then do not move.
        # beta = sqrt(2 delta / x^T F x), delta = max_kl  (appendix C)
        beta = torch.where(x_f_x > 0, 2 * self.settings.max_kl / x_f_x, 0.0).sqrt()
        return -beta * x

    def _thinned(self, inputs: PolicyInputs) -> tuple[PolicyInputs, int]:
        """Returns the rollouts for the Fisher matrix, and the tasks of a chunk of them."""
        thinned = inputs.thinned(self.settings.fisher_trajectories, self.settings.fisher_support)
        # A chunk of thinned tasks has at most as many rollouts as one of whole tasks.
        total = inputs.tasks.num_tasks
        size = self.gradient.fitting.limited(self.gradient.settings_chunk_size(), total) or total
        return thinned, size * _count_rollouts(inputs) // _count_rollouts(thinned)

    def _fisher_product(self, inputs: PolicyInputs) -> Callable[[Tensor], Tensor]:
        """Returns the function v -> (F + damping I) v.

        If the tasks fit into one chunk, its graph is kept; otherwise the graph of each chunk is
        built again for each vector.
        """
        training, mine = self.gradient.settings, inputs.tasks.num_tasks
        total = self.gradient.total_tasks(inputs)
        thinned, size = self._thinned(inputs)

        def of_chunk(chunk: PolicyInputs) -> Callable[[Tensor], Tensor]:
            return self._fisher_of_chunk(chunk, total)

        fits = mine <= size
        chunks = cut_tasks(thinned, -(-mine // training.workers) if fits else size)
        products = list(self.gradient.map(of_chunk, chunks)) if fits else None
        damping = self.settings.damping if ranks.is_first() else 0.0  # added once

        def product(vector: Tensor) -> Tensor:
            if products is not None:
                parts = self.gradient.map(lambda multiply: multiply(vector), products)
            else:
                parts = self.gradient.map(lambda chunk: of_chunk(chunk)(vector), chunks)
            (result,) = ranks.add_up([sum(parts, start=damping * vector)])
            return result

        return product

    def _chunk_fisher_product(
        self, params: Sequence[Tensor], chunk: PolicyInputs, total: int
    ) -> Callable[[Tensor], Tensor]:
        """Returns the product with a chunk's share of the Fisher matrix, without damping."""
        path = () if self.settings.fisher_support is None else chunk.path
        distribution = self.learner.adapted_distribution(chunk, path)
        return fisher_product(distribution, chunk.experience[-1].weights / total, params)

    def _multiply_by_chunk_fisher(
        self, params: Sequence[Tensor], chunk: PolicyInputs, total: int, vector: Tensor
    ) -> Tensor:
        return self._chunk_fisher_product(params, chunk, total)(vector)

    @torch.no_grad()
    def _line_search(self, step: Tensor, loss: Tensor, inputs: PolicyInputs) -> dict[str, Tensor]:
        """Moves the parameters by the first share of the step that is accepted, or not at all.

        Args:
            step: The whole step, [P].
            loss: The loss before the step.
            inputs: The inputs of the meta-iteration.
        """
        before = [p.clone() for p in self.params]
        moves = unflatten(step, self.params)
        accepted, divergence, tries = False, torch.zeros(()), 0
        for tries in range(self.settings.max_backtracks):
            share = self.settings.backtrack_ratio**tries
            for p, old, move in zip(self.params, before, moves, strict=True):
                p.copy_(old + share * move)  # theta_new = theta + ratio^j * step
            new_loss, divergence = self._mean_loss_and_divergence(inputs)
            # L(theta_new) < L(theta) and KL <= delta; comparisons with NaN are false.
            accepted = bool((new_loss < loss) & (divergence <= self.settings.max_kl))
            if accepted:
                break
        if not accepted:
            for p, old in zip(self.params, before, strict=True):
                p.copy_(old)
        return search_metrics(accepted, tries + 1, divergence)

    def _mean_loss_and_divergence(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of the adapted policies, mean over the tasks.

        Stops at the first chunk at which the sum of the divergences, which are not negative,
        exceeds the bound; the result then covers the tasks up to there.
        """
        losses, divergences = self.gradient.fitting(
            lambda size: self._losses_and_divergences(inputs, size),
            self.gradient.settings_chunk_size(),
            inputs.tasks.num_tasks,
        )
        total = self.gradient.total_tasks(inputs)
        if ranks.count() == 1:
            return losses.mean(), divergences.sum() / total
        sums = ranks.add_up([losses.sum(), divergences.sum()])
        return sums[0] / total, sums[1] / total

    def _losses_and_divergences(
        self, inputs: PolicyInputs, size: int | None
    ) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of the tasks up to the chunk that exceeds the bound."""
        chunks = cut_tasks(inputs, size)
        bound = self.settings.max_kl * self.gradient.total_tasks(inputs)
        losses, divergences, total = [], [], 0.0
        outcome = self._outcome_of_chunk
        if self._graphed_outcome is not None and graphs_allowed():
            outcome = self._graphed_outcome
        for loss, divergence in self.gradient.map(outcome, chunks):
            losses.append(loss)
            divergences.append(divergence)
            total = total + float(divergence.sum())
            if total > 1.01 * bound:  # by more than rounding
                break
        return torch.cat(losses), torch.cat(divergences)

    @torch.no_grad()
    def _loss_and_divergence(self, chunk: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of the adapted policies of each task in a chunk, [T]."""
        result = self.learner(chunk)
        return result.losses, result.metrics["meta/kl"]

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict: a trust region has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError("it holds an optimiser's state, and a trust region has none")
