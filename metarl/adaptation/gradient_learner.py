"""The one learner behind every algorithm that adapts by gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.inner_loop import Step, inner_loop
from metarl.adaptation.learner import Adapted, MetaInputs, MetaLoss, SupervisedLearner
from metarl.adaptation.objectives import Objective
from metarl.adaptation.update_rules import State, UpdateRule
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Params, Statistics, task_params
from metarl.registry import did_you_mean
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.losses import TaskLoss, metric_name, task_loss, task_metric
from metarl.trees import map_tensors

MANY_IMAGES = 200
"""Tasks of more images than these fill a CPU's cache sooner."""


class GradientLearner(SupervisedLearner):
    """A model, the rule that adapts it and the objective that judges the adaptation.

    Args:
        model: The network; its parameters are the initialisation theta.
        rule: The update rule of the inner loop.
        objective: What the outer loop minimises.
        steps: Adaptation steps in training, at least 0 (0: the objective trains theta directly).
        first_order: Drops the second derivatives of the inner loop.
        batch_size: Support examples per step, drawn without replacement and reshuffled each pass;
            None takes the whole support set each step.
        frozen: Patterns of names of parameters that the inner loop leaves as they are
            (`blocks.*.norm.*`), each of which must match; the outer loop trains them.
        unroll: Truncates: each meta-iteration unrolls so many of the `steps` and carries
            parameters and state to the next; None unrolls all.
        fresh_start: Adapts from random initial parameters instead of theta, drawn anew for each
            task; theta is then not trained.
        statistics_momentum: Keeps running batch-norm statistics of each episode with this weight
            of the newest batch, in (0, 1], for predictions on single queries; None keeps none.
        loss: Loss per task; by default cross-entropy for labels, squared error for the rest.

    Raises:
        SettingsError: A number is out of its range, or a pattern matches no parameter.
    """

    def __init__(
        self,
        model: Adaptable,
        rule: UpdateRule,
        objective: Objective,
        *,
        steps: int,
        first_order: bool = False,
        batch_size: int | None = None,
        frozen: Sequence[str] = (),
        unroll: int | None = None,
        fresh_start: bool = False,
        statistics_momentum: float | None = None,
        loss: TaskLoss = task_loss,
    ) -> None:
        super().__init__()
        if steps < 0:
            raise SettingsError(f"Expected at least 0 adaptation steps, got {steps}.")
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"Expected at least 1 example per step, got {batch_size}.")
        if statistics_momentum is not None and not 0 < statistics_momentum <= 1:
            raise SettingsError(
                f"Expected `statistics_momentum` in (0, 1], got {statistics_momentum}."
            )
        if unroll is not None and not (0 < unroll <= steps and steps % unroll == 0):
            raise SettingsError(f"Expected `unroll` to divide the {steps} steps, got {unroll}.")
        if (unroll or fresh_start) and rule.differentiates_gradient and not first_order:
            raise SettingsError(
                "Truncated unrolls and fresh starts suit rules that take gradients as constants, "
                f"not {type(rule).__name__}; set `first_order` or leave them out."
            )
        self.model = model
        self.rule = rule
        self.objective = objective
        self.steps = steps
        self.first_order = first_order
        self.batch_size = batch_size
        self.frozen = _frozen_names([n for n, _ in model.named_parameters()], frozen)
        self.unroll = unroll
        self.fresh_start = fresh_start
        self.statistics_momentum = statistics_momentum
        self.loss = loss
        self._unfinished: dict[str, Any] = {}
        if fresh_start:
            model.requires_grad_(False)

    # Training

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> MetaInputs:
        """See `Learner.collect`; goes on with the tasks of an unfinished unroll."""
        start, state, steps = None, None, self.unroll or self.steps
        if self._unfinished:
            tasks = _tasks_from(self._unfinished["tasks"])
            start, state = self._unfinished["params"], self._unfinished["state"]
        elif self.fresh_start:
            start = self.model.initial(generator, tasks.num_tasks)
        weights = self.objective.weights(iteration, steps)
        query_steps = tuple(k for k, w in enumerate(weights) if w != 0)
        row = None
        if any(weights[k] != 1 for k in query_steps):
            row = torch.tensor(weights, device=generator.device).expand(tasks.num_tasks, -1)
        batches = self._draw_batches(tasks.support, steps, generator)
        return MetaInputs(tasks, batches, row, query_steps, start, state)

    def forward(self, inputs: MetaInputs) -> MetaLoss:
        """See `Learner.forward`."""
        tasks, weights = inputs.tasks, inputs.weights
        start = inputs.start or task_params(self.model, tasks.num_tasks)
        statistics = self._statistics()
        path = self._adapt(
            tasks.support, start, self.unroll or self.steps, inputs.batches,
            first_order=self.first_order, state=inputs.state, statistics=statistics,
        )  # fmt: skip
        parts: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        step = None
        for k, step in enumerate(path):
            if step.loss is not None:
                metrics[f"inner/loss/step_{k - 1}"] = step.loss
            if k in inputs.query_steps:
                outputs = self.model(step.params, tasks.query.inputs, None)
                query_loss = self.loss(outputs, tasks.query.targets)
                parts.append(query_loss if weights is None else weights[:, k] * query_loss)
                name = metric_name(tasks.query.targets)
                same = name == "mse" and self.loss is task_loss
                metric = query_loss if same else task_metric(outputs, tasks.query.targets)
                metrics[f"train/{name}/step_{k}"] = metric.detach()
        assert step is not None
        distance = self.objective.distance(start, step.params)
        if distance is not None:
            parts.append(distance)
        losses = sum(parts[1:], start=parts[0])
        return MetaLoss(losses, metrics, self._carry(tasks, step))

    def preferred_chunk_size(self, inputs: MetaInputs) -> int | None:
        """Returns 4 for tasks of images on a CPU, 2 where a task has more than 200 images."""
        support, query = inputs.tasks.support.inputs, inputs.tasks.query.inputs
        if support.dim() < 5 or support.device.type != "cpu":
            return None
        return 4 if support.shape[1] + query.shape[1] <= MANY_IMAGES else 2

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; keeps an unroll that is not at its end."""
        if self.rule.carries:
            self.rule.carry(carry["state"])
        if self.unroll is None:
            return
        done = self._unfinished.get("done", 0) + self.unroll
        self._unfinished = {} if done >= self.steps else {**carry, "done": done}

    def extra_state(self) -> dict[str, Any]:
        """See `Learner.extra_state`."""
        return self._unfinished

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Learner.load_extra_state`."""
        self._unfinished = state

    # Evaluation

    @torch.no_grad()
    def adaptation(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Adapted]:
        """See `SupervisedLearner.adaptation`."""
        num_tasks = support.inputs.shape[0]
        if self.fresh_start:
            start = self.model.initial(generator, num_tasks)
        else:
            start = task_params(self.model, num_tasks)
        batches = self._draw_batches(support, steps, generator)
        statistics = self._statistics()
        for step in self._adapt(
            support, start, steps, batches, first_order=True, state=None, statistics=statistics
        ):
            seen = None if statistics is None else replace(statistics, values={**statistics.values})
            yield Adapted(step.params, support.inputs, seen)

    @torch.no_grad()
    def predict(self, adapted: Adapted, inputs: Tensor, transductive: bool = True) -> Tensor:
        """See `SupervisedLearner.predict`."""
        params = adapted.params
        if adapted.statistics is not None and not transductive:
            return self.model(params, inputs, self._frozen_statistics(adapted, params))
        if transductive:
            return self.model(params, inputs)
        # Reptile's way (Nichol et al. 2018, section 6.1): the support set and one query at a time.
        outputs = [
            self.model(params, torch.cat((adapted.support, inputs[:, j : j + 1]), dim=1))[:, -1:]
            for j in range(inputs.shape[1])
        ]
        return torch.cat(outputs, dim=1)

    # Parts

    def _adapt(
        self,
        support: Examples,
        start: Params,
        steps: int,
        batches: Tensor | None,
        *,
        first_order: bool,
        state: State | None,
        statistics: Statistics | None,
    ) -> Iterator[Step]:
        moving = {n: p for n, p in start.items() if n not in self.frozen}
        fixed = {n: p for n, p in start.items() if n not in moving}

        def support_loss(params: Params, step: int) -> Tensor:
            examples = support if batches is None else _select(support, batches[:, step])
            outputs = self.model({**fixed, **params}, examples.inputs, statistics)
            return self.loss(outputs, examples.targets)

        path = inner_loop(
            support_loss, self.rule, moving, steps, first_order=first_order, state=state
        )
        for step in path:
            yield step._replace(params={**fixed, **step.params})

    def _statistics(self) -> Statistics | None:
        momentum = self.statistics_momentum
        return None if momentum is None else Statistics(momentum)

    def _frozen_statistics(self, adapted: Adapted, params: Params) -> Statistics:
        assert adapted.statistics is not None
        record = adapted.statistics
        if not record.values:  # before the first step nothing is recorded: look at the support set
            record = Statistics(record.momentum)
            self.model(params, adapted.support, record)
        return Statistics(recording=False, values=record.values)

    def _draw_batches(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Tensor | None:
        num_tasks, count = support.inputs.shape[:2]
        size = self.batch_size
        if size is None or size >= count or steps == 0:
            return None
        passes = -(-steps * size // count)
        keys = torch.rand(num_tasks, passes, count, generator=generator, device=generator.device)
        order = keys.argsort(dim=2).flatten(1)
        return order[:, : steps * size].view(num_tasks, steps, size)

    def _carry(self, tasks: TaskBatch, step: Step) -> dict[str, Any]:
        carry: dict[str, Any] = {}
        if self.rule.carries or self.unroll is not None:
            carry["state"] = step.state
        if self.unroll is not None:
            carry["params"] = step.params
            carry["tasks"] = {
                "support": list(tasks.support), "query": list(tasks.query), "info": tasks.info
            }  # fmt: skip
        return map_tensors(torch.Tensor.detach, carry)


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Tells whether a parameter's name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _frozen_names(names: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    for pattern in patterns:
        if not any(is_frozen(name, [pattern]) for name in names):
            raise SettingsError(
                f"The `frozen` pattern {pattern!r} matches no parameter."
                f"{did_you_mean(pattern, names)} Known: {', '.join(names)}."
            )
    return frozenset(name for name in names if is_frozen(name, patterns))


def _select(examples: Examples, index: Tensor) -> Examples:
    """Returns the examples [T, batch, *] at `index` [T, batch]."""
    rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    return Examples(examples.inputs[rows, index], examples.targets[rows, index])


def _tasks_from(parts: dict[str, Any]) -> TaskBatch:
    return TaskBatch(Examples(*parts["support"]), Examples(*parts["query"]), parts["info"])
