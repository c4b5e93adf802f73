"""Comparison of written graphs with the functions that they were captured from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.export.capture import Graph, Port
from metarl.deploy.export.theta import NEW, STATE, THETA, Start
from metarl.errors import ExportError
from metarl.extras import import_extra

STEPS = 10
Runner = Callable[[list[Tensor]], list[Tensor]]


def difference_of(graph: Graph, path: Path, start: Start, seed: int) -> float:
    """Runs a graph and its file ten times in a row, from the theta and state of the graph.

    The free sizes are those of the examples, the least one, and others, or what the graph says. The
    file does not go on from its own results, because some adaptations multiply rounding errors from
    step to step, in any program.

    Returns:
        The largest difference of an output, relative to max(1, max |output|).

    Raises:
        ExportError: It exceeds the tolerance of the graph, or an output is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    run = _program(path) if path.suffix == ".pt2" else _model(graph, path)
    values = {n: t.clone() for n, t in start.named().items()}
    largest = 0.0
    for step in range(min(STEPS, graph.calls) if graph.inputs else 1):
        inputs = _inputs(graph, values, step, generator)
        outputs = [t.detach() for t in graph.function(*inputs)]
        found = run(inputs)
        for port, a, b in zip(graph.outputs, outputs, found, strict=True):
            largest = max(largest, _difference(graph, port, a, b))
        values = _moved(graph, values, outputs)
    return largest


def _inputs(
    graph: Graph, values: dict[str, Tensor], step: int, generator: torch.Generator
) -> list[Tensor]:
    if graph.batches is not None:
        return graph.batches(step, generator)
    batch = [
        _varied(port, step, graph.least, generator)
        for port in graph.inputs
        if not port.name.startswith((THETA, STATE))
    ]
    names = [port.name for port in graph.inputs]
    inputs = [*(values[n] for n in names if n in values), *batch]
    return inputs if graph.fit is None else graph.fit(inputs, generator)


def _moved(graph: Graph, values: dict[str, Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    """Returns theta and state with what the outputs say is new."""
    ports = zip(graph.outputs, outputs, strict=True)
    new = {p.name.removeprefix(NEW): t for p, t in ports if p.name.startswith(NEW)}
    return {**values, **new}


def _varied(port: Port, step: int, least: int, generator: torch.Generator) -> Tensor:
    """Returns an input of another free size, with other values."""
    value = port.example
    if port.free and value.dim():
        count = (len(value), least, len(value) + 3)[step % 3]
        value = value[torch.arange(count) % len(value)]
    if value.is_floating_point():
        if port.name == "noise":
            return torch.rand(value.shape, generator=generator)
        return value + 0.1 * torch.rand(value.shape, generator=generator)
    if port.name == "lengths":
        high = int(port.example.max()) + 1
        lengths = torch.randint(0, high, value.shape, generator=generator)
        return lengths.index_fill(0, torch.tensor([0]), high - 1)
    if port.name == "previous":  # the example is the largest label
        return torch.randint(0, int(port.example) + 1, (), generator=generator)
    if port.name in ("terminated", "cut"):
        return torch.rand(value.shape, generator=generator) < 0.5
    return value


def _difference(graph: Graph, port: Port, expected: Tensor, actual: Tensor) -> float:
    expected, actual = (
        torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (expected, actual)
    )
    a, b = expected.double().numpy(), actual.double().numpy()
    where = f"{port.name} of {graph.name}"
    if a.shape != b.shape:
        raise ExportError(f"Expected {where} of shape {a.shape}, the file gives {b.shape}.")
    if not np.isfinite(a).all():
        raise ExportError(
            f"The {where} of the learner is not finite on the examples: its adaptation diverges."
        )
    if not expected.is_floating_point():  # rounding may change the choice of equal ones
        return 0.0
    largest = np.abs(a).max(initial=1.0)
    difference = float(np.abs(a - b).max(initial=0.0) / largest)
    if not difference <= graph.tolerance:
        raise ExportError(
            f"The exported {where} differs from the learner's by {difference:.2g}, more than "
            f"{graph.tolerance:g}. Nothing was written; please report this."
        )
    return difference


def _model(graph: Graph, path: Path) -> Runner:
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    used = {i.name for i in session.get_inputs()}
    names = [port.name for port in graph.inputs]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        feeds = {n: t.numpy() for n, t in zip(names, tensors, strict=True) if n in used}
        return [torch.from_numpy(np.asarray(v)) for v in session.run(None, feeds)]

    return run


def _program(path: Path) -> Runner:
    module = torch.export.load(path).module()
    return lambda tensors: [t.detach() for t in module(*tensors)]
