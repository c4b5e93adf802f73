"""The learner of control tasks: gradient-based adaptation of a policy on its own rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.inner_loop import Step, detach_adapted, inner_loop
from metarl.adaptation.learner import MetaLoss
from metarl.errors import SettingsError
from metarl.models.base import Params, task_params
from metarl.rl.control_learner import ControlLearner
from metarl.rl.distributions import Distribution
from metarl.rl.experience import Experience, experience
from metarl.rl.policies import Policy
from metarl.rl.rollouts import RolloutNoise, Rollouts, collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import SURROGATES, exploration_term, proximal
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.trees import concatenate_tasks, cut_tasks, map_tensors


@dataclass(frozen=True)
class PolicyInputs:
    """All that one meta-iteration computes on; every tensor has the tasks leading.

    Attributes:
        tasks: The tasks.
        experience: Rollouts of the policies after 0, 1, ..., K adaptation steps.
        weights: Weight of the outer surrogate after 0..K steps, [T, K + 1].
        query_steps: The numbers of steps after which it counts.
        credit: How much better than others a task did after adaptation, per step of an episode as
            the outer surrogate counts it, [T]; E-MAML's term.
        environment_steps: How many each task took in all its rollouts, [T] int64.
        start: Parameters to adapt from, where they are not theta.
    """

    tasks: ControlTasks
    experience: tuple[Experience, ...]
    weights: Tensor
    query_steps: tuple[int, ...]
    credit: Tensor
    environment_steps: Tensor
    start: Params | None = None

    def thinned(self, trajectories: int) -> PolicyInputs:
        """Keeps the first rollouts of each task, as many as given, of every adaptation step."""
        kept = map_tensors(lambda t: t[:, :trajectories], self.experience)
        kept = tuple(
            e._replace(weights=e.weights / e.weights.sum((1, 2), keepdim=True)) for e in kept
        )
        return replace(self, experience=kept)


class PolicyLearner(ControlLearner):
    """Adapts a policy by an update rule whose gradients come from rollouts.

    Rollouts are collected anew before every adaptation step, with the parameters of that step.
    `collect` adapts and collects; `forward` goes through the same adaptation again on the stored
    rollouts, differentiably, from whatever theta is by then: so several outer updates, a line
    search or a Fisher product can use one set of rollouts.

    Args:
        adaptation: Policy, update rule, objective, steps: any of `metarl.adaptation`'s algorithms
            built around a `Policy` (`MAML(policy, inner_lr=0.1)`).
        family: Where the tasks come from.
        settings: See `PolicyGradientSettings`.
        task_chunk_size: Tasks whose rollouts are made at once. None: all.
        observe_task: Tells the policy the task (the oracle); it then sees `task_vector` behind
            the observation.

    Raises:
        SettingsError: The adaptation is one that only supervised tasks know: with batches of
            examples or truncated unrolls.
    """

    worlds: Worlds

    def __init__(
        self,
        adaptation: Adaptation,
        family: TaskFamily,
        settings: PolicyGradientSettings | None = None,
        *,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(adaptation.network, Policy):
            raise SettingsError(
                f"Expected an algorithm around a Policy, got one around a "
                f"{type(adaptation.network).__name__}; see `metarl.rl.policy_for`."
            )
        if adaptation.batch_size is not None:
            raise SettingsError(
                "A policy adapts on all rollouts of a step: set the learner's `batch_size` to None."
            )
        if adaptation.unroll not in (None, adaptation.steps):
            raise SettingsError(
                f"Policies unroll the whole adaptation: expected `unroll` = {adaptation.steps}, "
                f"the steps, got {adaptation.unroll}."
            )
        self.adaptation = adaptation
        self.policy = adaptation.network
        self.rule = adaptation.rule
        self._frozen = adaptation.frozen_names
        if adaptation.fresh_start:
            self.policy.requires_grad_(False)
        self.register_load_state_dict_pre_hook(_rename_old_weights)
        self.family = family
        self.settings = settings or PolicyGradientSettings()
        self.task_chunk_size = task_chunk_size
        self.worlds = Worlds(family, observe_task)

    # Training

    def collect(
        self, tasks: ControlTasks, generator: torch.Generator, iteration: int
    ) -> PolicyInputs:
        """See `Learner.collect`: adapts, and keeps the rollouts of every step."""
        steps = self.adaptation.steps
        weights = self.adaptation.objective.weights(iteration, steps)
        start = self._fresh(tasks.num_tasks, generator)
        noises = self._noises(tasks.num_tasks, steps + 1, generator)
        parts = [
            tuple(e for _, e in self._collect_path(*part))
            for part in cut_tasks((tasks, noises, start), self.task_chunk_size)
        ]
        kept = concatenate_tasks(parts) if len(parts) > 1 else parts[0]
        row = torch.tensor(weights, device=generator.device).expand(tasks.num_tasks, -1)
        query_steps = tuple(k for k, w in enumerate(weights) if w != 0)
        credit = _credit(kept[-1].rollouts, self.settings.normalize_advantages)
        counts = torch.stack([e.rollouts.steps() for e in kept]).long().sum(0)
        return PolicyInputs(tasks, kept, row, query_steps, credit, counts, start)

    def forward(self, inputs: PolicyInputs) -> MetaLoss:
        """See `Learner.forward`: the outer surrogate on the rollouts of the adapted policies."""
        last = len(inputs.experience) - 1
        losses = inputs.weights.new_zeros(inputs.tasks.num_tasks)
        metrics: dict[str, Tensor] = {}
        step = None
        for k, step in enumerate(self._path(inputs)):
            seen = inputs.experience[k]
            metrics[f"train/return/step_{k}"] = seen.rollouts.returns()
            if step.loss is not None:
                metrics[f"inner/loss/step_{k - 1}"] = step.loss
            if k < last and self.settings.exploration:
                log_probs = self._log_probs(step.params, seen.rollouts)[1]
                losses = losses + exploration_term(log_probs, inputs.credit, seen.rollouts.mask)
            if k < last and self.settings.inner_kl:
                distribution = self._log_probs(step.params, seen.rollouts)[0]
                losses = losses + self.settings.inner_kl * _divergence(distribution, seen)
            if k in inputs.query_steps:
                loss, divergence = self._outer_loss(step.params, seen)
                losses = losses + inputs.weights[:, k] * loss
                metrics["meta/kl"] = divergence.detach()
        assert step is not None
        start = inputs.start or task_params(self.policy, inputs.tasks.num_tasks)
        distance = self._distance(start, step.params, inputs.experience[-1])
        losses = losses if distance is None else losses + distance
        carry: dict[str, Any] = {"environment_steps": inputs.environment_steps}
        if self.rule.carries:
            carry["state"] = step.state
        return MetaLoss(losses, metrics, map_tensors(torch.Tensor.detach, carry))

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; counts the steps of the rollouts."""
        self.environment_steps += int(carry["environment_steps"].sum())
        if self.rule.carries:
            self.rule.carry(carry["state"])

    def extra_state(self) -> dict[str, Any]:
        """See `Learner.extra_state`."""
        return {"environment_steps": self.environment_steps}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Learner.load_extra_state`."""
        self.environment_steps = state["environment_steps"]

    def adapted_distribution(self, inputs: PolicyInputs) -> Distribution:
        """Returns what the adapted policies do where they were, differentiable in theta.

        Each field is [T, N, H, *]: the distribution at every observation of the last rollouts.
        """
        *_, step = self._path(inputs)
        return self._log_probs(step.params, inputs.experience[-1].rollouts)[0]

    # Evaluation

    @property
    def adaptation_cost(self) -> int:
        """See `ControlLearner.adaptation_cost`."""
        return self.settings.trajectories * self.family.horizon

    def returns(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[Tensor]:
        """See `ControlLearner.returns`; `scales` and `trajectories` are those of `rollouts`."""
        for rollouts in self.rollouts(tasks, steps, generator, scales, trajectories):
            yield rollouts.returns()

    def rollouts(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[Rollouts]:
        """Yields the rollouts of the policies after 0..steps adaptation steps.

        Args:
            tasks: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness.
            scales: Factor on the inner loss of each step, 1 beyond the end; of gradient descent
                it scales the rate (the ICML protocol halves it after the first step).
            trajectories: Rollouts per task and step; None takes those of the settings.
        """
        start = self._fresh(tasks.num_tasks, generator)
        noises = self._noises(tasks.num_tasks, steps + 1, generator, trajectories)
        paths = [
            self._collect_path(*part, scales)
            for part in cut_tasks((tasks, noises, start), self.task_chunk_size)
        ]
        for parts in zip(*paths, strict=True):
            yield concatenate_tasks([seen.rollouts for _, seen in parts])

    def adapted(
        self, tasks: ControlTasks, steps: int, generator: torch.Generator
    ) -> tuple[Params, Rollouts]:
        """Adapts to tasks, and returns what came of it and rollouts of that.

        Args:
            tasks: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness.

        Returns:
            The parameters of each task's policy, [T, *shape] per name, without derivatives; and
            the rollouts that `rollouts` yields last.
        """
        start = self._fresh(tasks.num_tasks, generator)
        noises = self._noises(tasks.num_tasks, steps + 1, generator)
        *_, (params, seen) = self._collect_path(tasks, noises, start)
        return map_tensors(torch.Tensor.detach, params), seen.rollouts

    # Parts

    @torch.no_grad()  # not a block: that would leave gradients off for whoever is yielded to
    def _collect_path(
        self,
        tasks: ControlTasks,
        noises: Sequence[RolloutNoise],
        start: Params | None,
        scales: Sequence[float] = (),
    ) -> Iterator[tuple[Params, Experience]]:
        """Yields parameters and experience after 0..K steps, K + 1 being the number of noises."""
        latest: list[Experience] = []

        def gather(params: Params, step: int) -> Experience:
            held = map_tensors(torch.Tensor.detach, params)
            env = self.worlds.get(noises[step])
            rollouts = collect(env, self.policy, held, tasks.values, noises[step])
            return experience(rollouts, self.settings)

        def support_loss(params: Params, step: int) -> Tensor:
            return self._inner_loss(params, latest[-1]) * (
                scales[step] if step < len(scales) else 1.0
            )

        steps = len(noises) - 1
        path = self._inner_loop(support_loss, start, tasks.num_tasks, steps, first_order=True)
        for k, step in enumerate(path):
            latest = [gather(step.params, k)]
            yield step.params, latest[0]

    def _path(self, inputs: PolicyInputs) -> Iterator[Step]:
        """The adaptation on stored rollouts, differentiable where gradients are on."""
        first_order = self.adaptation.first_order or not torch.is_grad_enabled()
        return self._inner_loop(
            lambda params, step: self._inner_loss(params, inputs.experience[step]),
            inputs.start, inputs.tasks.num_tasks, len(inputs.experience) - 1,
            first_order=first_order,
        )  # fmt: skip

    def _inner_loop(
        self,
        support_loss: Callable[[Params, int], Tensor],
        start: Params | None,
        num_tasks: int,
        steps: int,
        *,
        first_order: bool,
    ) -> Iterator[Step]:
        return inner_loop(
            support_loss, self.rule, start or task_params(self.policy, num_tasks), steps,
            first_order=first_order, frozen=self._frozen,
        )  # fmt: skip

    def _inner_loss(self, params: Params, seen: Experience) -> Tensor:
        log_probs = self._log_probs(params, seen.rollouts)[1]
        surrogate = SURROGATES.get(self.settings.surrogate)
        return surrogate(log_probs, seen.advantages, seen.weights, self.settings, seen.log_probs)

    def _outer_loss(self, params: Params, seen: Experience) -> tuple[Tensor, Tensor]:
        """The (clipped) likelihood ratio and the mean KL of each task."""
        distribution, log_probs = self._log_probs(params, seen.rollouts)
        numbers = (log_probs, seen.log_probs, seen.advantages, seen.weights)
        return proximal(*numbers, self.settings.clip), _divergence(distribution, seen)

    def _distance(self, theta: Params, phi: Params, seen: Experience) -> Tensor | None:
        """The objective's distance, and the loss that trains what the distance does not, [T]."""
        objective = self.adaptation.objective
        distance = objective.distance(theta, phi)
        if distance is not None and self._frozen and not objective.trains_frozen:
            distance = distance + self._outer_loss(detach_adapted(phi, self._frozen), seen)[0]
        return distance

    def _log_probs(self, params: Params, rollouts: Rollouts) -> tuple[Distribution, Tensor]:
        distribution = self.policy.distribution(params, rollouts.observations)
        return distribution, distribution.log_prob(rollouts.actions)

    def _noises(
        self,
        num_tasks: int,
        count: int,
        generator: torch.Generator,
        trajectories: int | None = None,
    ) -> tuple[RolloutNoise, ...]:
        n = trajectories or self.settings.trajectories
        return tuple(
            draw_noise(self.policy, self.family, num_tasks, n, generator) for _ in range(count)
        )

    def _fresh(self, num_tasks: int, generator: torch.Generator) -> Params | None:
        if not self.adaptation.fresh_start:
            return None
        return self.policy.initial(generator, num_tasks)


def _rename_old_weights(learner: PolicyLearner, weights: dict[str, Any], *_: Any) -> None:
    """Renames the weights of checkpoints made by MetaRL 0.1."""
    del learner
    for name in [n for n in weights if n.startswith("adaptation.")]:
        new = name.removeprefix("adaptation.").replace("model.", "policy.", 1)
        weights[new] = weights.pop(name)


def _credit(rollouts: Rollouts, normalize: bool) -> Tensor:
    """Return of each task, [T], less the mean of the others: a baseline that is independent.

    In the units of the outer surrogate: that is a mean over steps, not a sum, and where advantages
    have deviation 1, so have the returns of the tasks.
    """
    returns = rollouts.returns()
    steps, count = rollouts.mask.sum(2).mean(1), returns.shape[0]
    if count == 1:
        return returns / steps
    better = (returns - returns.mean()) * (count / (count - 1))
    return better / (steps * (returns.std() + 1e-8) if normalize else steps)


def _divergence(new: Distribution, seen: Experience) -> Tensor:
    """Mean KL of each task from the policy that made the rollouts to `new`, [T]."""
    return (seen.rollouts.behaviour.kl(new) * seen.weights).sum((1, 2))
