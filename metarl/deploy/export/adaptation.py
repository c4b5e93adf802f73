"""The adaptation of a trained learner as files: graphs, start and metadata, verified."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import metarl
from metarl.adaptation.learner import Learner
from metarl.deploy.export import control, recurrent, supervised, support
from metarl.deploy.export.capture import Graph, Port, capture, write_model, write_program
from metarl.deploy.export.check import difference_of
from metarl.deploy.export.files import new_folder, write_metadata
from metarl.deploy.export.kinds import Request, exported
from metarl.errors import SettingsError
from metarl.extras import import_extra
from metarl.tasks.base import TaskBatch

KINDS = (supervised, support, control, recurrent)
"""The modules whose learners are exported; importing them registers these."""
START_FILE = "start.safetensors"


def export_adaptation(
    learner: Learner,
    folder: Path | str,
    to: str = "onnx",
    *,
    tasks: TaskBatch | Callable[[], TaskBatch] | None = None,
    horizon: int | None = None,
    source: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> float:
    """Writes the adaptation of a learner as graphs that run without MetaRL.

    Supervised learners that adapt by gradients get the graphs "predict" and "step", metric and
    memory learners "adapt" and "predict", policies "act" and "step", recurrent policies "act"
    alone, whose state goes in and out. For "onnx" the graph "start" returns the initial theta and
    state, if there are any; start.safetensors holds them for both formats. docs/export.md documents
    the folder. Each graph is compared with the learner before the folder appears, in ten calls.

    Args:
        learner: A gradient, metric or memory learner, a `PolicyLearner`, a `RecurrentLearner` or a
            `VariBADLearner`.
        folder: The folder. An earlier export in it is replaced.
        to: "onnx", or "torch" for programs of `torch.export`.
        tasks: Tasks of a supervised learner, whose examples give shapes and types, or a function
            that returns them.
        horizon: Steps of an episode that a policy's batch has room for; None for the family's.
        source: What is noted of the origin, JSON values.
        seed: Of the start, for learners that start afresh on each task, and of the comparison.

    Returns:
        The largest difference, relative to max(1, max |value|) of each tensor.

    Raises:
        SettingsError: Such learners are not exported, an argument is missing, or the extra "onnx"
            is not installed.
        ExportError: A part cannot be expressed, or the files differ from the learner by more than
            1e-5; nothing is written.
        CheckpointError: The folder holds something else, or cannot be written.
    """
    if to not in ("onnx", "torch"):
        raise SettingsError(f"An adaptation is exported to onnx or torch, got {to!r}.")
    if to == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(module, "onnx")
    if any(p.device.type != "cpu" for p in learner.parameters()):
        learner = copy.deepcopy(learner).cpu()
    generator = torch.Generator().manual_seed(seed)
    what = exported(learner, Request(_given(tasks), horizon, generator))
    start, graphs = what.start, what.graphs
    difference = 0.0
    with new_folder(Path(folder)) as new:
        files = {}
        begins = [start.graph()] if to == "onnx" and start.tensors else []
        for graph in [*graphs, *begins]:
            path = (write_model if to == "onnx" else write_program)(graph, capture(graph), new)
            files[graph.name] = path.name
            difference = max(difference, difference_of(graph, path, start, seed))
        (new / START_FILE).write_bytes(safetensors.torch.save(start.named()))
        write_metadata(
            new,
            {
                "kind": what.kind,
                "runtime": to,
                "versions": _versions(to),
                "graphs": {graph.name: _ports(graph, files[graph.name]) for graph in graphs},
                "start": {
                    "theta": [p.name for p in start.ports()[: len(start.theta)]],
                    "state": [p.name for p in start.ports()[len(start.theta) :]],
                    "file": START_FILE,
                },
                **what.notes,
                "source": dict(source or {}),
                "largest_difference": difference,
            },
        )
    return difference


def _given(tasks: TaskBatch | Callable[[], TaskBatch] | None) -> Callable[[], TaskBatch]:
    """Returns a function that returns the tasks, or says that there are none."""

    def given() -> TaskBatch:
        if tasks is None:
            raise SettingsError("Expected `tasks` of the supervised learner, got None.")
        return tasks() if callable(tasks) else tasks

    return given


def _ports(graph: Graph, file: str) -> dict[str, Any]:
    return {
        "file": file,
        "inputs": [_port(port) for port in graph.inputs],
        "outputs": [_port(port) for port in graph.outputs],
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": port.shape, "dtype": port.dtype, "text": port.text}


def _versions(to: str) -> dict[str, str]:
    versions = {"metarl": metarl.__version__, "torch": torch.__version__}
    if to == "onnx":
        versions |= {m: import_extra(m, "onnx").__version__ for m in ("onnx", "onnxruntime")}
    return versions
