"""The graphs of metric and memory learners, which adapt by reading their support set once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import SupervisedLearner
from metarl.deploy.export.capture import Graph, Port, free_size, graph_of
from metarl.deploy.export.kinds import (
    MASK,
    Exported,
    Request,
    adapted_network,
    exported,
    first_task,
    refuse_horizon,
)
from metarl.deploy.export.readers import ORDER, PAIRS, READERS, Task, reader_of
from metarl.deploy.export.state import Flat, nested_tensors
from metarl.deploy.export.theta import NEW, STATE, Start
from metarl.errors import SettingsError
from metarl.learners.class_labels import count_classes
from metarl.learners.metric.zero_shot import DESCRIBED, DESCRIPTIONS
from metarl.tasks.base import Examples, TaskBatch
from metarl.trees import map_tensors

TEXTS = {
    "inputs": "inputs of the support examples",
    "targets": "their labels",
    "mask": MASK,
    "classes": "the labels, in the order of the scores",
    ORDER: "the order in which the examples are read, a random permutation",
    PAIRS: "random pairs of different examples; the first ones are a permutation",
    "weights": "weights of the examples: 1, or 0 for one that does not count",
    DESCRIPTIONS: "numbers that describe each class, in the order of the scores",
    DESCRIBED: "which classes have a description; the others need an example",
}
LEAST = 31
"""Least size of a free dimension in examples: larger than most maps of convolutions."""
QUERY = {0: "inputs"}
"""The free dimension of inputs to predict for."""


def support_exported(learner: SupervisedLearner, request: Request) -> Exported:
    """Returns the graphs "adapt" and "predict".

    Raises:
        SettingsError: The request has a horizon.
        TaskError: The tasks have no labels.
    """
    refuse_horizon(request)
    graphs = SupportGraphs(learner, first_task(request.tasks()))
    found = [
        replace(graph, tolerance=graphs.reader.tolerance)
        for graph in (graphs.adapt(), graphs.predict())
    ]
    return Exported("support", Start({}, {}), found, graphs.notes())


def support_network(
    learner: SupervisedLearner,
    tasks: Callable[[], TaskBatch],
    steps: int,
    generator: torch.Generator,
) -> Graph:
    """Returns the graph of the scores of the first task's classes."""
    task = first_task(tasks())
    learner, support = _dense_copy(learner), _shown(task)
    *_, adapted = learner.adapt_to(task, steps, generator)
    taken = [*learner.state_dict().values(), *nested_tensors(adapted).values()]
    size = free_size([support.inputs[0, :1], *taken], LEAST)
    inputs, mask = _rows(support, size, generator)
    query = {n: t for n, t in (("inputs", inputs), ("mask", mask)) if t is not None}

    def predict(*tensors: Tensor) -> list[Tensor]:
        return [_scores(learner, adapted, *tensors)]

    ports = [Port(n, t, MASK if n == "mask" else "inputs", QUERY) for n, t in query.items()]
    return graph_of("network", predict, ports, [("outputs", "scores of the classes", QUERY)])


for _kind in READERS:
    exported.register(_kind)(support_exported)
    adapted_network.register(_kind)(support_network)


class SupportGraphs:
    """Makes the graphs of a metric or memory learner.

    The numbers of examples and classes are free, except for learners that step through the
    examples: these take as many as the given support set has.

    Args:
        learner: The learner, on the CPU.
        task: A task [1, N, *], whose support set and descriptions give shapes and types.

    Raises:
        SettingsError: The learner reads descriptions, and the task has none.
    """

    def __init__(self, learner: SupervisedLearner, task: TaskBatch) -> None:
        learner, support = _dense_copy(learner), _shown(task)
        self.learner, self.support = learner, support
        self.count, way = support.targets.shape[1], count_classes(support.targets)
        self.reader = reader_of(learner, self.count // way)
        self.free: dict[int, str] = {}
        self.way = self.reader.way or way
        taken = [support.inputs[0, :1], *learner.state_dict().values()]
        if self.reader.describes and DESCRIPTIONS not in task.info:
            raise SettingsError(
                f"Expected tasks with info[{DESCRIPTIONS!r}], [T, way, D]: their width is a size "
                "of the graphs. Hand such tasks in: export_adaptation(learner, folder, tasks=...)."
            )
        self.descriptions = task.info[DESCRIPTIONS] if self.reader.describes else None
        taken += [] if self.descriptions is None else [self.descriptions[0, :1]]
        if not self.reader.steps_through:
            self.way = free_size(taken, LEAST)
            self.count = free_size([*taken, torch.empty(self.way)], 2 * self.way)
            self.free = {self.count: "examples", self.way: "classes"}
        self.queries = free_size([*taken, torch.empty(self.way, self.count)], LEAST)
        self.example = self._task(self.count, self.way, torch.Generator().manual_seed(0))
        self.state = self._read(self.example)

    def notes(self) -> dict[str, Any]:
        """Returns what the metadata says of the learner, JSON values."""
        return {
            "adaptation": {"learner": type(self.learner).__name__, "steps": 1},
            "normalises_batches": False,
            "support": {
                "classes": None if self.free else self.way,
                "equal_shots": self.reader.equal_shots,
                "draws": self.reader.draws,
                "descriptions": _width(self.descriptions),
            },
        }

    def adapt(self) -> Graph:
        """Returns the graph from a support set to the state."""
        example = self._inputs(self.example)

        def adapt(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip(example, tensors, strict=True))
            classes = given.get("classes", self.example.classes)
            chosen = given.get(ORDER, given.get(PAIRS))
            described = {n: given.get(n) for n in ("weights", DESCRIPTIONS, DESCRIBED)}
            task = Task(
                given["inputs"], given.get("mask"), given["targets"], classes, chosen, **described
            )
            return list(_named(self._read(task)).values())

        def batches(number: int, generator: torch.Generator) -> list[Tensor]:
            return list(self._inputs(self._varied(number, generator)).values())

        ports = [Port(n, t, TEXTS[n], self._free(t)) for n, t in example.items()]
        text = "state of the adapted learner"
        outputs = [(NEW + n, text, self._free(t)) for n, t in _named(self.state).items()]
        return graph_of("adapt", adapt, ports, outputs, batches)

    def predict(self) -> Graph:
        """Returns the graph from the state and inputs to the scores."""
        state = _named(self.state)

        def predict(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors[: len(state)])
            adapted = map_tensors(lambda _: next(rest).unsqueeze(0), self.state)
            return [_scores(self.learner, adapted, *tensors[len(state) :])]

        def batches(number: int, generator: torch.Generator) -> list[Tensor]:
            adapted = self._read(self._varied(number, generator))
            size = (self.queries, 1, self.queries + 3)[number % 3]
            query = self._queries(size, generator)
            return [*_named(adapted).values(), *query.values()]

        query = self._queries(self.queries, torch.Generator().manual_seed(1))
        ports = [
            Port(n, t, "state of the adapted learner", self._free(t)) for n, t in state.items()
        ]
        ports += [Port(n, t, TEXTS[n], QUERY) for n, t in query.items()]
        free = {**QUERY, 1: "classes"} if self.free else QUERY
        text = "scores of the classes; the largest is the prediction"
        return graph_of("predict", predict, ports, [("outputs", text, free)], batches)

    # Internals

    def _read(self, task: Task) -> Any:
        """Returns the state after a support set, without a graph of derivatives."""
        with torch.no_grad():
            return map_tensors(Tensor.detach, self.reader.read(task))

    def _task(self, count: int, way: int, generator: torch.Generator) -> Task:
        """Returns a task of `count` examples of `way` classes, taken from the support set."""
        inputs, mask = _rows(self.support, count, generator)
        chosen = drawn(self.reader.draws, count, generator)
        targets, classes = torch.arange(count) % way, torch.arange(way)
        if self.descriptions is None:
            return Task(inputs, mask, targets, classes, chosen)
        rows = self.descriptions[0, classes % self.descriptions.shape[1]]
        rows = rows + 0.1 * torch.rand(rows.shape, generator=generator)
        described = classes % 3 != 1  # the others have examples
        counts = ~described[targets] | (torch.rand(count, generator=generator) < 0.5)
        return Task(inputs, mask, targets, classes, None, counts.to(rows.dtype), rows, described)

    def _varied(self, number: int, generator: torch.Generator) -> Task:
        """Returns a task of other sizes, where these are free."""
        if not self.free:
            return self._task(self.count, self.way, generator)
        way = (self.way, 2, self.way + 1)[number % 3]
        return self._task((self.count, way, self.count + 3)[number % 3], way, generator)

    def _inputs(self, task: Task) -> Flat:
        """Returns a support set by the names of the inputs."""
        given = {
            "inputs": task.inputs, "targets": task.targets, "mask": task.mask,
            "classes": task.classes if self.free and self.descriptions is None else None,
            self.reader.draws or ORDER: task.chosen, "weights": task.weights,
            DESCRIPTIONS: task.descriptions, DESCRIBED: task.described,
        }  # fmt: skip
        return {n: t for n, t in given.items() if t is not None}

    def _queries(self, count: int, generator: torch.Generator) -> Flat:
        """Returns inputs to predict for by the names of the inputs."""
        inputs, mask = _rows(self.support, count, generator)
        given = {"inputs": inputs, "mask": mask}
        return {n: t for n, t in given.items() if t is not None}

    def _free(self, tensor: Tensor) -> dict[int, str]:
        """Returns the free dimensions of a tensor: no fixed one has their size."""
        sizes = enumerate(map(int, tensor.shape))
        return {i: self.free[n] for i, n in sizes if n in self.free}


def _dense_copy(learner: SupervisedLearner) -> SupervisedLearner:
    """Returns a copy for evaluation, without filters in channels-last format.

    What convolutions return would depend on the number of examples otherwise.
    """
    learner = copy.deepcopy(learner).eval()
    for parameter in learner.parameters():
        parameter.data = parameter.data.contiguous()
    return learner


def _shown(task: TaskBatch) -> Examples:
    """Returns the support set, or the query set in place of an empty one."""
    return task.support if task.support.targets.shape[1] else task.query


def _width(descriptions: Tensor | None) -> int | None:
    """Returns how many numbers describe a class."""
    return None if descriptions is None else int(descriptions.shape[2])


def drawn(kind: str | None, count: int, generator: torch.Generator) -> Tensor | None:
    """Draws the order of N examples, [N], or N pairs of them, [N, 2]; None for neither."""
    if kind is None:
        return None
    first = torch.randperm(count, generator=generator)
    if kind == ORDER:
        return first
    offset = torch.randint(1, count, (count,), generator=generator)
    return torch.stack((first, (first + offset) % count), 1)


def _rows(
    support: Examples, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Returns `count` inputs of a support set with some noise, and their mask."""
    rows = torch.arange(count) % support.inputs.shape[1]
    inputs = support.inputs[0, rows]
    if inputs.is_floating_point():
        inputs = inputs + 0.1 * torch.rand(inputs.shape, generator=generator)
    return inputs, None if support.mask is None else support.mask[0, rows]


def _named(state: Any) -> Flat:
    """Returns the state of one task by names, without a task dimension."""
    return {STATE + n: t.squeeze(0) for n, t in nested_tensors(state).items()}


def _scores(
    learner: SupervisedLearner, state: Any, inputs: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Returns the scores [B, C] of inputs [B, *input] of one task."""
    own = None if mask is None else mask.unsqueeze(0)
    scores = learner.predict(state, inputs.unsqueeze(0), mask=own)
    assert isinstance(scores, Tensor)
    return scores.squeeze(0)
