"""The supervised learner behind every algorithm that adapts by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.adaptation import Adaptation, Frozen, check_adaptation
from metarl.adaptation.adapted_state import adapted_state
from metarl.adaptation.checks.network import check_model
from metarl.adaptation.checks.start import check_start, chosen, outer_loss_of
from metarl.adaptation.checks.update_rule import check_rule
from metarl.adaptation.inner_loop import Step, check_inference_mode, detach_adapted, inner_loop
from metarl.adaptation.learner import (
    Adapted,
    Learner,
    MetaInputs,
    MetaLoss,
    SupervisedLearner,
    check_adapted,
)
from metarl.adaptation.loss_function import LossFunction, Outputs
from metarl.adaptation.metric import Metric
from metarl.adaptation.network_call import NetworkCall
from metarl.adaptation.objectives import distance_of, no_loss, weights_of
from metarl.adaptation.support_batches import draw_batches, select
from metarl.adaptation.update_rules import State
from metarl.models.base import Model, Params, Statistics, task_params
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_labels,
    check_queries,
    checked_examples,
    checked_tasks,
    label_range,
)
from metarl.tasks.losses import TaskLoss, task_loss
from metarl.tasks.metrics import MetricFunction
from metarl.trees import map_tensors

MANY_IMAGES = 200
"""Images of a task above which fewer tasks fit into a CPU's cache."""
ACTIVATION = 1 << 21
"""Numbers in the largest activation of a chunk of tasks: smaller chunks cost more calls, larger
ones miss the cache more."""


class GradientLearner(SupervisedLearner):
    """Adapts a network to supervised tasks by gradients of the support loss.

    Args:
        adaptation: The network, its update rule and its objective, as an algorithm makes them:
            `MAML(net, inner_lr=0.01)`.
        loss: Loss of a task, see `LossFunction`; None for that of the adaptation, and if it has
            none, cross-entropy for labels and squared error for the rest. A loss that is a module
            is trained with the network.
        outer_loss: Loss of the queries; None for that of the adaptation, else `loss`.
        metric: Metric of curves and logs: a name of `METRICS`, "loss" for the outer loss, or a
            function; None for that of the adaptation, else accuracy for labels and squared error
            for the rest.

    Raises:
        SettingsError: The adaptation has another loss or metric, a function has an unknown
            argument, or the outer loss has no effect.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        loss: TaskLoss | None = None,
        outer_loss: TaskLoss | None = None,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        check_adaptation(adaptation)
        self.adaptation = adaptation
        self.model = adaptation.network
        self.rule = adaptation.rule
        self.stores_in_buffers = adaptation.unroll is None
        self._frozen = Frozen(adaptation)
        self.loss = chosen("loss", loss, adaptation.loss) or task_loss
        self.outer_loss = chosen("outer_loss", outer_loss, adaptation.outer_loss)
        metric = chosen("metric", metric, adaptation.metric)
        self._inner_loss = LossFunction(self.loss, "loss")
        self._outer_loss = outer_loss_of(self._inner_loss, self.outer_loss, adaptation)
        if isinstance(metric, str) and metric == "loss":
            self.measure = Metric(self._outer_loss.function, metric)
        else:
            self.measure = Metric(metric, own_loss=self._outer_loss.function is not task_loss)
        self._network = NetworkCall(self.model)
        self._checked: set[str] = set()
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
            SettingsError: At the first call: a loss or the metric is not usable.
        """
        check_inference_mode()
        self._frozen.refresh()
        state, steps = None, self._unrolled_steps
        if self._unfinished:
            tasks = _tasks_from(self._unfinished["tasks"])
            start, state = self._unfinished["params"], self._unfinished["state"]
        else:
            tasks = checked_tasks(tasks, self._frozen.dtype)
            self._check_labels(tasks.support, tasks.query)
            self._check_start(tasks)
            start = self._frozen.fresh_start(generator, tasks.num_tasks)
        noise = self._prepare(tasks, generator)
        weights = weights_of(self.adaptation.objective, iteration, steps)
        query_steps = tuple(k for k, w in enumerate(weights) if w != 0)
        row = None
        if any(weights[k] != 1 for k in query_steps):
            row = torch.tensor(weights, device=generator.device).expand(tasks.num_tasks, -1)
        batches = draw_batches(tasks.support, self.adaptation.batch_size, steps, generator)
        return MetaInputs(tasks, batches, row, query_steps, start, state, noise)

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
            noise=inputs.noise,
        )
        terms: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        step = None
        for k, step in enumerate(path):
            if step.loss is not None:
                metrics[f"inner/loss/step_{k - 1}"] = step.loss
            if k in inputs.query_steps:
                noise = self._noise(inputs.noise, self._unrolled_steps + k)
                query_loss, metric = self._query(step.params, theta, tasks, noise)
                terms.append(query_loss if weights is None else weights[:, k] * query_loss)
                metrics[f"train/{self.measure.name(tasks.query.targets)}/step_{k}"] = metric
        assert step is not None
        noise = self._noise(inputs.noise, 2 * self._unrolled_steps)
        terms.extend(self._distance(theta, step.params, tasks, noise))
        if not terms:
            raise no_loss(self.adaptation.objective)
        # L_i = sum_k w_k L_query(phi_k) + d(theta, phi_K)
        losses = sum(terms[1:], start=terms[0])
        return MetaLoss(losses, metrics, self._carry(tasks, step))

    def preferred_chunk_size(self, inputs: MetaInputs) -> int | None:
        """Returns 4 for tasks of images on a CPU, 2 where a task has more than 200 images.

        More if the largest activation of these is smaller than `ACTIVATION`.
        """
        support, query = inputs.tasks.support.inputs, inputs.tasks.query.inputs
        if support.dim() < 5 or support.device.type != "cpu":
            return None
        fewest = 4 if support.shape[1] + query.shape[1] <= MANY_IMAGES else 2
        numbers = self.model.activation_size(support) if isinstance(self.model, Model) else None
        if numbers is None:
            return fewest
        examples = max(support.shape[1], query.shape[1], 1)
        return max(fewest, ACTIVATION // (numbers * examples))

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
        check_inference_mode()
        check_int("steps", steps, NOT_NEGATIVE)
        self._frozen.refresh()
        support = checked_examples(support, self._frozen.dtype)
        self._check_labels(support)
        self._check_start(TaskBatch(support, support), evaluates=True)
        if isinstance(self.model, Model):
            self.model.prepare(support.inputs, support.mask)
        num_tasks = support.inputs.shape[0]
        start = self._frozen.fresh_start(generator, num_tasks)
        theta = start or task_params(self.model, num_tasks)
        batches = draw_batches(support, self.adaptation.batch_size, steps, generator)
        statistics = self._statistics()
        for step in self._inner_loop(
            support, theta, steps, batches, first_order=True, state=None, statistics=statistics
        ):
            record = (
                None if statistics is None else replace(statistics, values={**statistics.values})
            )
            yield Adapted(step.params, support.inputs, record, support.weights, support.mask)

    @torch.no_grad()
    def predict(
        self,
        adapted: Adapted,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Outputs:
        check_adapted(adapted, Adapted)
        check_queries(inputs, self._frozen.dtype)
        params = adapted.params
        if transductive or not getattr(self.model, "normalises_batches", True):
            return self._network(params, inputs, None, weights, mask)
        if adapted.statistics is not None:
            record = self._fixed_statistics(adapted, params)
            return self._network(params, inputs, record, weights, mask)
        return self._network.one_by_one(adapted, inputs, mask)

    def adapted_state(self, adapted: Adapted, task: int | None = None) -> dict[str, Tensor]:
        """Returns adapted weights for `load_state_dict` of the module; see `adapted_state`."""
        check_adapted(adapted, Adapted)
        return adapted_state(self.model, adapted, task)

    def notes(self) -> list[str]:
        """Returns how an ordinary module runs for many tasks, and which part of it adapts."""
        explain = getattr(self.model, "explain", None)
        lines = [] if explain is None else [explain()]
        frozen = self.adaptation.frozen_names
        if frozen:
            names = [n for n, _ in self.model.named_parameters() if n not in frozen]
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            lines.append(f"The inner loop adapts only {shown}.")
        return lines

    # Internals

    def _check_labels(self, *sets: Examples) -> None:
        """Checks that the network has an output for every label; not with a loss of the user's."""
        if self.loss is not task_loss or sets[0].targets.is_floating_point():
            return
        bounds = label_range(*(examples.targets for examples in sets))
        if bounds[1] >= self._classes:  # the first labels, or the network has another head now
            outputs = self._network.first_outputs(sets[0])
            if not isinstance(outputs, Tensor):
                return  # `check_start` explains
            self._classes = outputs.shape[-1]
        check_labels(bounds, self._classes)

    def _check_start(self, tasks: TaskBatch, *, evaluates: bool = False) -> None:
        """Checks the network, the losses, the metric and the update rule once, on a few tasks.

        Args:
            tasks: Checked tasks.
            evaluates: Whether the tasks have no queries: checks the inner loss only.
        """
        role = "support" if evaluates else "all"
        if role in self._checked or "all" in self._checked:
            return
        check_model(self._network, tasks.support, self._frozen.names)
        losses = (self._inner_loss, None if evaluates else self._outer_loss)
        metric = None if evaluates else self.measure
        second_order = self.adaptation.second_order and not evaluates
        theta = task_params(self.model, 2)
        moving = {n: p for n, p in theta.items() if n not in self._frozen.names}
        check_start(self._network, *losses, metric, tasks, second_order, moving)
        if moving:
            check_rule(self.rule, moving, self.adaptation.second_order)
        self._checked.add(role)

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
        noise: Tensor | None = None,
    ) -> Iterator[Step]:
        def support_loss(params: Params, step: int) -> Tensor:
            examples = support if batches is None else select(support, batches[:, step])
            drawn = self._noise(noise, step)
            outputs = self._network.examples(params, examples, statistics, **drawn)
            return self._inner_loss(outputs, examples, params=params, start=theta)

        return inner_loop(
            support_loss, self.rule, theta, steps,
            first_order=first_order, state=state, frozen=self._frozen.names,
            max_grad_norm=self.adaptation.max_inner_grad_norm,
        )  # fmt: skip

    def _prepare(self, tasks: TaskBatch, generator: torch.Generator) -> Tensor | None:
        """Prepares the network for the tasks; returns the noise of its dropout in an iteration."""
        if not isinstance(self.model, Model):
            return None
        self.model.prepare(tasks.support.inputs, tasks.support.mask)
        return self.model.draw_noise(generator, tasks.num_tasks)

    def _noise(self, noise: Tensor | None, number: int) -> dict[str, Tensor]:
        """Returns the argument `noise` of pass `number`, for a network that draws it."""
        if noise is None or not isinstance(self.model, Model):
            return {}
        return {"noise": self.model.noise_of_pass(noise, number)}

    def _query(
        self, params: Params, theta: Params, tasks: TaskBatch, noise: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns the query loss of each task, and its metric, detached; [T] each."""
        query = tasks.query
        outputs = self._network.examples(params, query, None, **noise)
        loss = self._outer_loss(outputs, query, params=params, start=theta)
        is_squared_error = query.targets.is_floating_point() and self.measure.is_default
        if is_squared_error and self._outer_loss.function is task_loss:
            return loss, loss.detach()
        return loss, self.measure.train(outputs, query, tasks)

    def _distance(
        self, theta: Params, phi: Params, tasks: TaskBatch, noise: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Yields the objective's distance, and the loss that trains what the distance does not."""
        distance = distance_of(self.adaptation.objective, theta, phi)
        if distance is None:
            return
        yield distance
        if self._frozen.outer and not self.adaptation.objective.trains_frozen:
            yield self._query(detach_adapted(phi, self._frozen.outer), theta, tasks, noise)[0]

    def _statistics(self) -> Statistics | None:
        momentum = self.adaptation.statistics_momentum
        return None if momentum is None else Statistics(momentum)

    def _fixed_statistics(self, adapted: Adapted, params: Params) -> Statistics:
        assert adapted.statistics is not None
        record = adapted.statistics
        if not record.values:  # nothing is recorded before the first step: run the support set
            record = Statistics(record.momentum)
            self._network(params, adapted.support, record, adapted.weights, adapted.mask)
        return Statistics(recording=False, values=record.values)

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


def as_learner(learner: Learner | Adaptation) -> Learner:
    """Returns a learner as it is, and one of supervised tasks for an adaptation.

    Raises:
        SettingsError: It is neither.
    """
    given: Any = learner
    return given if hasattr(given, "after_update") else GradientLearner(given)


def _tasks_from(state: dict[str, Any]) -> TaskBatch:
    return TaskBatch(Examples(*state["support"]), Examples(*state["query"]), state["info"])
