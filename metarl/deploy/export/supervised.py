"""The graphs of supervised learners that adapt by gradients: the step, and the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.adaptation import Frozen
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.loss_function import LossFunction
from metarl.adaptation.network_call import NetworkCall
from metarl.deploy.export.capture import Graph, Port, free_size, graph_of
from metarl.deploy.export.kinds import (
    MASK,
    Exported,
    Request,
    adapted_network,
    exported,
    first_support,
    refuse_horizon,
)
from metarl.deploy.export.notes import supervised_notes
from metarl.deploy.export.state import Flat, flatten, unflatten
from metarl.deploy.export.theta import Start, for_rule, moved_ports, start_of, theta_of
from metarl.errors import ExportError
from metarl.models.base import Params, Statistics, task_params
from metarl.tasks.base import Examples, TaskBatch
from metarl.trees import map_tensors

COUNT = "statistics.count"
"""The number of support batches in the running statistics of batch normalisation."""


@dataclass(frozen=True)
class SupervisedParts:
    """What the graphs of a supervised learner compute with.

    Attributes:
        learner: The learner.
        start: The initial theta and state.
        constants: Parameters that do not adapt, [1, *shape] per name.
        rule_state: The state of the update rule for one task, which gives the structure.
        moments: Layers with running statistics.
    """

    learner: GradientLearner
    start: Start
    constants: Params
    rule_state: dict[str, Any]
    moments: tuple[str, ...]

    @property
    def momentum(self) -> float:
        """Weight of the newest batch in the running statistics."""
        momentum = self.learner.adaptation.statistics_momentum
        return 1.0 if momentum is None else momentum

    def params(self, theta: Flat) -> Params:
        """Returns all parameters of one task."""
        return {**self.constants, **{n: t.unsqueeze(0) for n, t in theta.items()}}

    def recorded(self, state: Flat) -> Statistics | None:
        """Returns the running statistics in a state; None for a learner that keeps none."""
        if not self.moments:
            return None
        values = {
            layer: (
                state[f"statistics.{layer}.mean"].unsqueeze(0),
                state[f"statistics.{layer}.variance"].unsqueeze(0),
            )
            for layer in self.moments
        }
        return Statistics(self.momentum, recording=False, values=values)


@exported.register(GradientLearner)
def _(learner: GradientLearner, request: Request) -> Exported:
    """Returns the graphs "predict" and "step".

    Raises:
        SettingsError: The request has a horizon.
        ExportError: The outputs are not one tensor.
    """
    refuse_horizon(request)
    start, graphs = supervised_graphs(learner, request.tasks(), request.generator)
    return Exported("supervised", start, graphs, supervised_notes(learner))


@adapted_network.register(GradientLearner)
def _(
    learner: GradientLearner,
    tasks: Callable[[], TaskBatch],
    steps: int,
    generator: torch.Generator,
) -> Graph:
    """Returns the network after adaptation, which normalises by the support set's statistics."""
    support = first_support(tasks())
    *_, adapted = learner.adapt(support, steps, generator)
    network, params = NetworkCall(learner.model), adapted.params
    params = {n: p.detach().clone() for n, p in params.items()}
    record = adapted.statistics
    if record is None or not record.values:
        record = Statistics(1.0)
        with torch.no_grad():
            network.examples(params, support, record)
    fixed = Statistics(recording=False, values=record.values)

    def predict(*tensors: Tensor) -> list[Tensor]:
        inputs, *mask = (t.unsqueeze(0) for t in tensors)
        own = mask[0] if mask else None
        return [network(params, inputs, fixed, None, own).squeeze(0)]

    size = free_size([support.inputs[0, :1], *params.values()])
    ports = _queries(_repeated(support, size))
    return graph_of("network", predict, ports, [("outputs", "predictions", {0: "inputs"})])


def supervised_graphs(
    learner: GradientLearner, tasks: TaskBatch, generator: torch.Generator
) -> tuple[Start, list[Graph]]:
    """Returns the initial theta and state, and the graphs "predict" and "step".

    Args:
        learner: The learner, on the CPU.
        tasks: A batch of its tasks; the shapes and types of the examples are read.
        generator: Draws the start, for learners that start afresh on each task.

    Raises:
        ExportError: The outputs are not one tensor.
    """
    support = first_support(tasks)
    parts = _parts(learner, support, generator)
    size = free_size([*parts.start.tensors, support.inputs[0, :1], support.targets[0, :1]])
    examples = _repeated(support, size)
    step = for_rule(_step(parts, examples), learner.rule)
    least = 2 if getattr(learner.model, "normalises_batches", True) else 1
    return parts.start, [replace(g, least=least) for g in (_predictions(parts, examples), step)]


def _repeated(support: Examples, count: int) -> Examples:
    """Returns `count` examples, the first again after the last, without a task dimension."""
    rows = torch.arange(count) % support.inputs.shape[1]
    return map_tensors(lambda t: t[0, rows], support)


def _queries(examples: Examples) -> list[Port]:
    """Returns the inputs of a graph that predicts."""
    ports = [Port("inputs", examples.inputs, "inputs to predict for", {0: "inputs"})]
    if examples.mask is not None:
        ports.append(Port("mask", examples.mask, MASK, {0: "inputs"}))
    return ports


def _parts(
    learner: GradientLearner, support: Examples, generator: torch.Generator
) -> SupervisedParts:
    frozen = Frozen(learner.adaptation)
    params = frozen.fresh_start(generator, 1) or task_params(learner.model, 1)
    moving, constants = theta_of(params, frozen.names)
    state = learner.rule.init({n: t.unsqueeze(0) for n, t in moving.items()})
    flat, moments = flatten(state), ()
    if learner.adaptation.statistics_momentum is not None:
        record = Statistics(1.0)
        with torch.no_grad():
            NetworkCall(learner.model).examples(params, support, record)
        moments = tuple(record.values)
        for layer, (mean, variance) in record.values.items():
            flat[f"statistics.{layer}.mean"] = torch.zeros_like(mean[0])
            flat[f"statistics.{layer}.variance"] = torch.ones_like(variance[0])
        if moments:
            flat[COUNT] = torch.tensor(0)
    return SupervisedParts(learner, start_of(moving, flat), constants, state, moments)


def _step(parts: SupervisedParts, example: Examples) -> Graph:
    start, learner = parts.start, parts.learner
    loss = LossFunction(learner.loss, "loss")
    network = NetworkCall(learner.model)
    origin = parts.params(start.theta)

    def step(*tensors: Tensor) -> list[Tensor]:
        theta, state, batch = start.split(tensors)
        inputs, targets, *mask = (t.unsqueeze(0) for t in batch)
        examples = Examples(inputs, targets, mask=mask[0] if mask else None)
        record = Statistics(1.0) if parts.moments else None

        def support_loss(params: Params, number: int) -> Tensor:
            del number
            outputs = network.examples({**parts.constants, **params}, examples, record)
            return loss(outputs, examples, params={**parts.constants, **params}, start=origin)

        *_, last = inner_loop(
            support_loss, learner.rule, {n: t.unsqueeze(0) for n, t in theta.items()}, 1,
            first_order=True, state=unflatten(state, parts.rule_state),
            max_grad_norm=learner.adaptation.max_inner_grad_norm,
        )  # fmt: skip
        assert last.loss is not None
        new_state = flatten(last.state)
        if record is not None:
            new_state |= _averaged(state, record, parts.momentum)
        moved = [last.params[n].squeeze(0) for n in theta] + [new_state[n] for n in state]
        return [t.detach() for t in (*moved, last.loss.squeeze(0))]

    ports = [
        *start.ports(),
        Port("inputs", example.inputs, "inputs of the support examples", {0: "examples"}),
        Port("targets", example.targets, "their labels or values", {0: "examples"}),
    ]
    if example.mask is not None:
        ports.append(Port("mask", example.mask, MASK, {0: "examples"}))
    outputs = [*moved_ports(start), ("loss", "mean loss of the examples before the step", {})]
    return graph_of("step", step, ports, outputs)


def _averaged(state: Flat, record: Statistics, momentum: float) -> Flat:
    """Returns the running statistics after a batch; the first batch replaces the initial ones."""
    count = state[COUNT]
    averaged: Flat = {COUNT: count + 1}
    for layer, moments in record.values.items():
        for kind, new in zip(("mean", "variance"), moments, strict=True):
            name = f"statistics.{layer}.{kind}"
            later = torch.lerp(state[name], new.squeeze(0), momentum)
            averaged[name] = torch.where(count > 0, later, new.squeeze(0))
    return averaged


def _predictions(parts: SupervisedParts, example: Examples) -> Graph:
    network, start = NetworkCall(parts.learner.model), parts.start
    names = tuple(n for n in start.state if n.startswith("statistics.") and n != COUNT)

    def predict(*tensors: Tensor) -> list[Tensor]:
        count = len(start.theta)
        theta = dict(zip(start.theta, tensors[:count], strict=True))
        state = dict(zip(names, tensors[count : count + len(names)], strict=True))
        inputs, *mask = (t.unsqueeze(0) for t in tensors[count + len(names) :])
        own = mask[0] if mask else None
        outputs = network(parts.params(theta), inputs, parts.recorded(state), None, own)
        if not isinstance(outputs, Tensor):
            raise ExportError(
                f"Expected a network with one output tensor, this one returns a "
                f"{type(outputs).__name__}: only the former is exported."
            )
        return [outputs.squeeze(0)]

    state_ports = [p for p in start.ports() if p.name.removeprefix("state.") in names]
    ports = [*start.ports()[: len(start.theta)], *state_ports, *_queries(example)]
    return graph_of("predict", predict, ports, [("outputs", "predictions", {0: "inputs"})])
