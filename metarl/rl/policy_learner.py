"""The learner of control tasks: a policy adapts by gradients on its own rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl import ranks
from metarl.adaptation.adaptation import Adaptation, Frozen
from metarl.adaptation.inner_loop import Step, detach_adapted, inner_loop
from metarl.adaptation.learner import MetaLoss
from metarl.adaptation.objectives import distance_of, weights_of
from metarl.adaptation.update_rules import State
from metarl.chunks import FittingChunks
from metarl.models.base import Params, task_params
from metarl.rl.adaptation_checks import check_fits, check_samples, checked_policy, warn_of_unused
from metarl.rl.captured_path import CapturedPath
from metarl.rl.control_learner import ControlLearner, nan_where_undefined
from metarl.rl.distributions import Distribution
from metarl.rl.experience import Experience, estimate_advantages
from metarl.rl.moments import merged_steps
from metarl.rl.old_weights import adapt_old_weights
from metarl.rl.policy_inputs import PolicyInputs
from metarl.rl.rollouts import RolloutNoise, Rollouts, draw_noise
from metarl.rl.sampling_terms import credit_of, sampling_terms
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import SURROGATES, proximal
from metarl.rl.unit_checks import UnitMonitor
from metarl.rl.units import starting_generator
from metarl.rl.worlds import Worlds, check_policy_type
from metarl.sim.family import ControlTasks, TaskFamily, check_control
from metarl.trees import concatenate_tasks, cut_tasks, map_tensors


class PolicyLearner(ControlLearner):
    """Adapts a policy by an update rule whose gradients come from rollouts.

    It collects rollouts before every adaptation step, with the parameters of that step. `collect`
    adapts and stores the rollouts. `forward` repeats the adaptation on the stored rollouts,
    differentiably, from the current theta. Several outer updates, a line search or Fisher products
    can therefore use one set of rollouts.

    Args:
        adaptation: Policy, update rule, objective and number of steps: what an algorithm returns,
            such as `MAML(policy, inner_lr=0.1)`.
        family: The family of the tasks.
        settings: See `PolicyGradientSettings`.
        task_chunk_size: Tasks whose rollouts are collected at once. None: all.
        observe_task: Whether the `task_vector` is appended to the observations (an oracle).

    Raises:
        SettingsError: See `checked_policy` and `check_fits`.
    """

    collects_own = True
    stores_in_buffers = True
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
        self.policy = checked_policy(adaptation)
        self.adaptation = adaptation
        self.rule = adaptation.rule
        self._frozen = Frozen(adaptation)
        if adaptation.fresh_start:
            self.policy.requires_grad_(False)
        self.register_load_state_dict_pre_hook(adapt_old_weights)
        self.family = family
        self.settings = settings or PolicyGradientSettings()
        warn_of_unused(self.settings)
        check_fits(self.policy, family, observe_task)
        self.task_chunk_size = task_chunk_size
        self.worlds = Worlds(family, observe_task)
        self._monitor = UnitMonitor(family.action_space, family.observation_space)
        self._fitting = FittingChunks("rollouts")
        self._path_of = CapturedPath(self, self.worlds, self._collect_path)

    # Training

    def collect(
        self, tasks: ControlTasks, generator: torch.Generator, iteration: int
    ) -> PolicyInputs:
        """Adapts to this rank's tasks and stores the rollouts of every step."""
        check_samples(self.family, self.settings)
        steps, total = self.adaptation.steps, tasks.num_tasks
        weights = weights_of(self.adaptation.objective, iteration, steps)
        self._calibrate(tasks, generator)
        start = self._fresh(total, generator)
        noises = self._noises(total, steps + 1, generator)
        tasks, noises, start = ranks.own((tasks, noises, start), total)
        path, experience = self._fitting.map(
            self._path_of, (tasks, noises, start), self.task_chunk_size, tasks.num_tasks
        )
        first = experience[0].rollouts
        metrics = self._monitor.metrics(
            self.policy.units, first.observations, first.actions, first.rewards, first.mask,
            iteration,
        )  # fmt: skip
        moments = merged_steps([e.rollouts.moments for e in experience])
        row = torch.tensor(weights, device=generator.device).expand(tasks.num_tasks, -1)
        query_steps = tuple(k for k, w in enumerate(weights) if w != 0)
        credit = credit_of(experience[-1].rollouts, total, self.settings)
        counts = torch.stack([e.rollouts.steps() for e in experience]).long().sum(0)
        path = map_tensors(torch.Tensor.detach, path[1:])
        return PolicyInputs(
            tasks, experience, row, query_steps, credit, counts, start, path, moments, metrics
        )

    def forward(self, inputs: PolicyInputs) -> MetaLoss:
        """Computes the outer surrogate on the rollouts of the adapted policies."""
        last = len(inputs.experience) - 1
        losses = inputs.weights.new_zeros(inputs.tasks.num_tasks)
        metrics: dict[str, Tensor] = dict(inputs.unit_metrics)
        step = None
        for k, step in enumerate(self._path(inputs)):
            batch = inputs.experience[k]
            metrics[f"train/return/step_{k}"] = batch.rollouts.returns()
            for name, values in batch.rollouts.metrics.items():
                metrics[f"train/{name}/step_{k}"] = values.mean(1)
            if step.loss is not None:
                metrics[f"inner/loss/step_{k - 1}"] = step.loss
            if k < last:
                for term in self._sampling_terms(step.params, batch, inputs.credit, last):
                    losses = losses + term
            if k in inputs.query_steps:
                # J_i = sum_k w_k L_outer(phi_k; rollouts of phi_k)
                loss, divergence = self._outer_loss(step.params, batch)
                losses = losses + inputs.weights[:, k] * loss
                metrics["meta/kl"] = divergence.detach()
        assert step is not None
        start = inputs.start or task_params(self.policy, inputs.tasks.num_tasks)
        distance = self._distance(start, step.params, inputs.experience[-1])
        losses = losses if distance is None else losses + distance
        carry: dict[str, Any] = {"environment_steps": inputs.environment_steps}
        if self.rule.carries:
            carry["state"] = step.state
        if inputs.moments is not None:
            carry["moments"] = inputs.moments
        return MetaLoss(losses, metrics, map_tensors(torch.Tensor.detach, carry))

    def after_update(self, carry: dict[str, Any]) -> None:
        """Counts the environment steps, updates the units, and stores the rule's state."""
        self.count_steps(carry["environment_steps"])
        if self.policy.units is not None and "moments" in carry:
            self.policy.units.update(carry["moments"])
        if self.rule.carries:
            self.rule.carry(carry["state"])

    def adapted_distribution(
        self, inputs: PolicyInputs, path: Sequence[Params] = ()
    ) -> Distribution:
        """Returns the action distributions of the adapted policies, differentiable in theta.

        Args:
            inputs: The rollouts that the policies adapt on, and those after the last step.
            path: Adapted parameters after 1..K steps, in place of those that follow from `inputs`;
                derivatives still come from `inputs`. If `inputs` has few of the rollouts, the
                policies are then those that adapted on all of them.

        Returns:
            The distribution at every observation of the last rollouts, each field [T, N, H, *].
        """
        *_, step = self._path(inputs, path)
        return self._log_probs(step.params, inputs.experience[-1].rollouts)[0]

    # Evaluation

    @property
    def adaptation_cost(self) -> int:
        return self.settings.trajectories * self.family.horizon

    def measures(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        for rollouts in self.rollouts(tasks, steps, generator, scales, trajectories):
            log_probs = rollouts.behaviour.log_prob(rollouts.actions)
            means = {name: values.mean(1) for name, values in rollouts.metrics.items()}
            values = {"return": rollouts.returns(), **means}
            yield {n: nan_where_undefined(value, log_probs) for n, value in values.items()}

    def rollouts(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
        noises: Sequence[RolloutNoise] = (),
    ) -> Iterator[Rollouts]:
        """Yields the rollouts of the policies after 0..steps adaptation steps.

        Args:
            tasks: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness.
            scales: Factor on the inner loss of each step; 1 for further steps. In gradient descent
                it scales the rate (the ICML protocol halves the rate after the first step).
            trajectories: Rollouts per task and step; None for those of the settings.
            noises: Random numbers of the `steps` + 1 batches; by default they are drawn.
        """
        self._calibrate(tasks, generator, trajectories)
        start = self._fresh(tasks.num_tasks, generator)
        noises = noises or self._noises(tasks.num_tasks, steps + 1, generator, trajectories)
        paths = [
            self._collect_path(*part, scales)
            for part in cut_tasks((tasks, noises, start), self.task_chunk_size)
        ]
        for parts in zip(*paths, strict=True):
            yield concatenate_tasks([batch.rollouts for _, batch in parts])

    def adapted(
        self, tasks: ControlTasks, steps: int, generator: torch.Generator
    ) -> tuple[Params, Rollouts]:
        """Adapts to tasks; returns the adapted parameters and rollouts of the adapted policies.

        Args:
            tasks: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness.

        Returns:
            The parameters, [T, *shape] per name, detached, and the last rollouts.
        """
        self._calibrate(tasks, generator)
        start = self._fresh(tasks.num_tasks, generator)
        noises = self._noises(tasks.num_tasks, steps + 1, generator)
        *_, (params, batch) = self._collect_path(tasks, noises, start)
        return map_tensors(torch.Tensor.detach, params), batch.rollouts

    @torch.no_grad()
    def adapt_on(
        self,
        experience: Experience,
        steps: int = 1,
        params: Params | None = None,
        state: State | None = None,
    ) -> Iterator[Step]:
        """Adapts on given rollouts, such as those of a robot, without an environment.

        Every step uses the same rollouts. The surrogates `ratio` and `dice` correct for the policy
        that acted, by `experience.log_probs`. Yields parameters and state of the rule after
        0, 1, ..., `steps` steps.

        Args:
            experience: Rollouts of T tasks, their advantages and weights.
            steps: Adaptation steps, at least 0.
            params: The parameters to start from, [T, *shape] per name; None for theta.
            state: The update rule's state to continue from; None for a new one.
        """
        self._frozen.refresh()
        start = params or task_params(self.policy, len(experience.weights))
        yield from self._inner_loop(
            lambda params, _: self._inner_loss(params, experience), start,
            len(experience.weights), steps, first_order=True, state=state,
        )  # fmt: skip

    # Internals

    @torch.no_grad()
    def _calibrate(
        self, tasks: ControlTasks, generator: torch.Generator, trajectories: int | None = None
    ) -> None:
        """Starts the running statistics of the units by rollouts of the untrained policy.

        The rollouts are in training tasks, also for an evaluation, and their steps count. Does
        nothing if the statistics have started, or if there are none.
        """
        check_control(tasks)
        units, num_tasks = self.policy.units, tasks.num_tasks
        if units is None or units.started:
            return
        generator = starting_generator(generator)
        tasks = self.family.split("train").sample(num_tasks, generator)
        start = self._fresh(num_tasks, generator) or task_params(self.policy, num_tasks)
        (noise,) = self._noises(num_tasks, 1, generator, trajectories)
        rollouts = [
            self.worlds.collect(self.policy, params, chunk.values, draws)
            for chunk, params, draws in cut_tasks((tasks, start, noise), self.task_chunk_size)
        ]
        units.update(concatenate_tasks([part.moments for part in rollouts if part.moments]))
        self.environment_steps += sum(int(part.steps().sum()) for part in rollouts)

    @torch.no_grad()  # a with block would keep gradients off in the caller between yields
    def _collect_path(
        self,
        tasks: ControlTasks,
        noises: Sequence[RolloutNoise],
        start: Params | None,
        scales: Sequence[float] = (),
    ) -> Iterator[tuple[Params, Experience]]:
        """Yields parameters and experience after 0..K steps, for K + 1 noises."""
        latest: list[Experience] = []

        def gather(params: Params, step: int) -> Experience:
            detached = map_tensors(torch.Tensor.detach, params)
            rollouts = self.worlds.collect(self.policy, detached, tasks.values, noises[step])
            return estimate_advantages(rollouts, self.settings)

        def support_loss(params: Params, step: int) -> Tensor:
            factor = scales[step] if step < len(scales) else 1.0
            return factor * self._inner_loss(params, latest[-1])

        steps = len(noises) - 1
        path = self._inner_loop(support_loss, start, tasks.num_tasks, steps, first_order=True)
        for k, step in enumerate(path):
            latest = [gather(step.params, k)]
            yield step.params, latest[0]

    def _path(self, inputs: PolicyInputs, path: Sequence[Params] = ()) -> Iterator[Step]:
        """Yields the adaptation on stored rollouts, differentiable if gradients are enabled."""
        first_order = self.adaptation.first_order or not torch.is_grad_enabled()
        return self._inner_loop(
            lambda params, step: self._inner_loss(params, inputs.experience[step]),
            inputs.start, inputs.tasks.num_tasks, len(inputs.experience) - 1,
            first_order=first_order, path=path,
        )  # fmt: skip

    def _inner_loop(
        self,
        support_loss: Callable[[Params, int], Tensor],
        start: Params | None,
        num_tasks: int,
        steps: int,
        *,
        first_order: bool,
        path: Sequence[Params] = (),
        state: State | None = None,
    ) -> Iterator[Step]:
        return inner_loop(
            support_loss, self.rule, start or task_params(self.policy, num_tasks), steps,
            first_order=first_order, state=state, frozen=self._frozen.names,
            max_grad_norm=self.adaptation.max_inner_grad_norm, path=path,
        )  # fmt: skip

    def _inner_loss(self, params: Params, batch: Experience) -> Tensor:
        log_probs = self._log_probs(params, batch.rollouts)[1]
        surrogate = SURROGATES.get(self.settings.surrogate)
        return surrogate(log_probs, batch.advantages, batch.weights, self.settings, batch.log_probs)

    def _outer_loss(self, params: Params, batch: Experience) -> tuple[Tensor, Tensor]:
        """Returns the (clipped) surrogate and the mean KL of each task, [T] each."""
        distribution, log_probs = self._log_probs(params, batch.rollouts)
        loss = proximal(
            log_probs, batch.log_probs, batch.advantages, batch.weights, self.settings.clip
        )
        return loss, batch.divergence(distribution)

    def _distance(self, theta: Params, phi: Params, batch: Experience) -> Tensor | None:
        """Returns the objective's distance, and the loss of parameters it does not train, [T]."""
        objective = self.adaptation.objective
        distance = distance_of(objective, theta, phi)
        if distance is not None and self._frozen.outer and not objective.trains_frozen:
            trained = detach_adapted(phi, self._frozen.outer)
            distance = distance + self._outer_loss(trained, batch)[0]
        return distance

    def _sampling_terms(
        self, params: Params, batch: Experience, credit: Tensor, steps: int
    ) -> Iterator[Tensor]:
        """Yields the terms of policies whose rollouts are adapted on; see `sampling_terms`."""
        if self.settings.exploration or self.settings.inner_kl:
            now = self._log_probs(params, batch.rollouts)
            yield from sampling_terms(*now, batch, credit, steps, self.settings)

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
        check_policy_type(self._frozen.dtype)
        self._frozen.refresh()
        return self._frozen.fresh_start(generator, num_tasks)
