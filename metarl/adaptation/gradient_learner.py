"""The supervised learner behind every algorithm that adapts by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.adaptation import Adaptation, Frozen
from metarl.adaptation.inner_loop import Step, detach_adapted, inner_loop
from metarl.adaptation.learner import Adapted, MetaInputs, MetaLoss, SupervisedLearner
from metarl.adaptation.update_rules import State
from metarl.models.base import Params, Statistics, task_params
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_inputs,
    check_labels,
    checked_examples,
    checked_tasks,
    join_inputs,
    label_range,
)
from metarl.tasks.losses import TaskLoss, metric_name, task_loss, task_metric
from metarl.trees import map_tensors

MANY_IMAGES = 200
"""Tasks of more images than these fill a CPU's cache sooner."""


class GradientLearner(SupervisedLearner):
    """Adapts a network to supervised tasks by gradients of the support loss.

    Args:
        adaptation: The network, its update rule and its objective, as an algorithm makes them:
            `MAML(net, inner_lr=0.01)`.
        loss: Loss per task; by default cross-entropy for labels, squared error for the rest.
    """

    def __init__(self, adaptation: Adaptation, loss: TaskLoss = task_loss) -> None:
        super().__init__()
        self.adaptation = adaptation
        self.model = adaptation.network
        self.rule = adaptation.rule
        self.loss = loss
        self._frozen = Frozen(adaptation)
        self._classes = 0
        self._unfinished: dict[str, Any] = {}
        if adaptation.fresh_start:
            self.model.requires_grad_(False)

    # Training

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> MetaInputs:
        """Draws the batches of all steps; continues the tasks of an unfinished unroll.

        Raises:
            ShapeError: The tensors have another type than the parameters, or require gradients.
            TaskError: A label has no output.
        """
        self._frozen.refresh()
        state, steps = None, self._unrolled_steps
        if self._unfinished:
            tasks = _tasks_from(self._unfinished["tasks"])
            start, state = self._unfinished["params"], self._unfinished["state"]
        else:
            tasks = checked_tasks(tasks, self._frozen.dtype)
            self._check_labels(tasks.support, tasks.query)
            start = self._frozen.fresh_start(generator, tasks.num_tasks)
        weights = self.adaptation.objective.weights(iteration, steps)
        query_steps = tuple(k for k, w in enumerate(weights) if w != 0)
        row = None
        if any(weights[k] != 1 for k in query_steps):
            row = torch.tensor(weights, device=generator.device).expand(tasks.num_tasks, -1)
        batches = self._draw_batches(tasks.support, steps, generator)
        return MetaInputs(tasks, batches, row, query_steps, start, state)

    def forward(self, inputs: MetaInputs) -> MetaLoss:
        tasks, weights = inputs.tasks, inputs.weights
        theta = inputs.start or task_params(self.model, tasks.num_tasks)
        path = self._inner_loop(
            tasks.support,
            theta,
            self._unrolled_steps,
            inputs.batches,
            first_order=self.adaptation.first_order,
            state=inputs.state,
            statistics=self._statistics(),
        )
        terms: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        step = None
        for k, step in enumerate(path):
            if step.loss is not None:
                metrics[f"inner/loss/step_{k - 1}"] = step.loss
            if k in inputs.query_steps:
                query_loss, metric = self._query(step.params, tasks.query)
                terms.append(query_loss if weights is None else weights[:, k] * query_loss)
                metrics[f"train/{metric_name(tasks.query.targets)}/step_{k}"] = metric
        assert step is not None
        terms.extend(self._distance(theta, step.params, tasks.query))
        # L_i = sum_k w_k L_query(phi_k) + d(theta, phi_K)
        losses = sum(terms[1:], start=terms[0])
        return MetaLoss(losses, metrics, self._carry(tasks, step))

    def preferred_chunk_size(self, inputs: MetaInputs) -> int | None:
        """Returns 4 for tasks of images on a CPU, 2 where a task has more than 200 images."""
        support, query = inputs.tasks.support.inputs, inputs.tasks.query.inputs
        if support.dim() < 5 or support.device.type != "cpu":
            return None
        return 4 if support.shape[1] + query.shape[1] <= MANY_IMAGES else 2

    def after_update(self, carry: dict[str, Any]) -> None:
        """Carries the rule's state on, and keeps an unroll that has not reached its last step."""
        if self.rule.carries:
            self.rule.carry(carry["state"])
        if self.adaptation.unroll is None:
            return
        done = self._unfinished.get("done", 0) + self.adaptation.unroll
        self._unfinished = {} if done >= self.adaptation.steps else {**carry, "done": done}

    def extra_state(self) -> dict[str, Any]:
        return self._unfinished

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self._unfinished = state

    # Evaluation

    @torch.no_grad()
    def adapt(self, support: Examples, steps: int, generator: torch.Generator) -> Iterator[Adapted]:
        self._frozen.refresh()
        support = checked_examples(support, self._frozen.dtype)
        self._check_labels(support)
        num_tasks = support.inputs.shape[0]
        start = self._frozen.fresh_start(generator, num_tasks)
        theta = start or task_params(self.model, num_tasks)
        batches = self._draw_batches(support, steps, generator)
        statistics = self._statistics()
        for step in self._inner_loop(
            support, theta, steps, batches, first_order=True, state=None, statistics=statistics
        ):
            record = (
                None if statistics is None else replace(statistics, values={**statistics.values})
            )
            yield Adapted(step.params, support.inputs, record)

    @torch.no_grad()
    def predict(self, adapted: Adapted, inputs: Tensor, transductive: bool = False) -> Tensor:
        check_inputs(inputs, self._frozen.dtype)
        params = adapted.params
        if transductive or not getattr(self.model, "normalises_batches", True):
            return self.model(params, inputs)
        if adapted.statistics is not None:
            return self.model(params, inputs, self._fixed_statistics(adapted, params))
        # The support set and one query at a time (Nichol et al. 2018, section 6.1).
        outputs = [
            self.model(params, join_inputs(adapted.support, inputs[:, j : j + 1]))[:, -1:]
            for j in range(inputs.shape[1])
        ]
        return torch.cat(outputs, dim=1)

    # Internals

    def _check_labels(self, *sets: Examples) -> None:
        """Checks that the network has an output for every label; not with a loss of the user's."""
        if self.loss is not task_loss or sets[0].targets.is_floating_point():
            return
        bounds = label_range(*(examples.targets for examples in sets))
        if bounds[1] >= self._classes:  # the first labels, or the network has another head now
            self._classes = self._num_outputs(sets[0].inputs[:1])
        check_labels(bounds, self._classes)

    @torch.no_grad()
    def _num_outputs(self, inputs: Tensor) -> int:
        """Returns the number of outputs of the network for inputs of one task."""
        return self.model(task_params(self.model, 1), inputs).shape[-1]

    @property
    def _unrolled_steps(self) -> int:
        """Adaptation steps of one meta-iteration."""
        return self.adaptation.unroll or self.adaptation.steps

    def _inner_loop(
        self,
        support: Examples,
        theta: Params,
        steps: int,
        batches: Tensor | None,
        *,
        first_order: bool,
        state: State | None,
        statistics: Statistics | None,
    ) -> Iterator[Step]:
        def support_loss(params: Params, step: int) -> Tensor:
            examples = support if batches is None else _select(support, batches[:, step])
            outputs = self.model(params, examples.inputs, statistics)
            return self.loss(outputs, examples.targets)

        return inner_loop(
            support_loss, self.rule, theta, steps,
            first_order=first_order, state=state, frozen=self._frozen.names,
            max_grad_norm=self.adaptation.max_inner_grad_norm,
        )  # fmt: skip

    def _query(self, params: Params, query: Examples) -> tuple[Tensor, Tensor]:
        """Returns the query loss of each task, and its metric, detached; [T] each."""
        outputs = self.model(params, query.inputs, None)
        loss = self.loss(outputs, query.targets)
        if metric_name(query.targets) == "mse" and self.loss is task_loss:
            return loss, loss.detach()
        return loss, task_metric(outputs, query.targets).detach()

    def _distance(self, theta: Params, phi: Params, query: Examples) -> Iterator[Tensor]:
        """Yields the objective's distance, and the loss that trains what the distance does not."""
        distance = self.adaptation.objective.distance(theta, phi)
        if distance is None:
            return
        yield distance
        if self._frozen.outer and not self.adaptation.objective.trains_frozen:
            yield self._query(detach_adapted(phi, self._frozen.outer), query)[0]

    def _statistics(self) -> Statistics | None:
        momentum = self.adaptation.statistics_momentum
        return None if momentum is None else Statistics(momentum)

    def _fixed_statistics(self, adapted: Adapted, params: Params) -> Statistics:
        assert adapted.statistics is not None
        record = adapted.statistics
        if not record.values:  # nothing is recorded before the first step: run the support set
            record = Statistics(record.momentum)
            self.model(params, adapted.support, record)
        return Statistics(recording=False, values=record.values)

    def _draw_batches(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Tensor | None:
        num_tasks, count = support.inputs.shape[:2]
        size = self.adaptation.batch_size
        if size is None or size >= count or steps == 0:
            return None
        passes = -(-steps * size // count)
        keys = torch.rand(num_tasks, passes, count, generator=generator, device=generator.device)
        order = keys.argsort(dim=2).flatten(1)
        return order[:, : steps * size].view(num_tasks, steps, size)

    def _carry(self, tasks: TaskBatch, step: Step) -> dict[str, Any]:
        carry: dict[str, Any] = {}
        if self.rule.carries or self.adaptation.unroll is not None:
            carry["state"] = step.state
        if self.adaptation.unroll is not None:
            carry["params"] = step.params
            carry["tasks"] = {
                "support": list(tasks.support), "query": list(tasks.query), "info": tasks.info
            }  # fmt: skip
        return map_tensors(torch.Tensor.detach, carry)


def _select(examples: Examples, index: Tensor) -> Examples:
    """Returns the examples [T, batch, *] at `index` [T, batch]."""
    rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    return Examples(examples.inputs[rows, index], examples.targets[rows, index])


def _tasks_from(state: dict[str, Any]) -> TaskBatch:
    return TaskBatch(Examples(*state["support"]), Examples(*state["query"]), state["info"])
