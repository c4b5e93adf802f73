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
from metarl.deploy.export import control, recurrent, streams, supervised, support
from metarl.deploy.export.capture import Graph, Port, capture, write_model, write_program
from metarl.deploy.export.check import difference_of
from metarl.deploy.export.files import new_folder, write_metadata
from metarl.deploy.export.kinds import Exported, Request, exported
from metarl.errors import SettingsError
from metarl.extras import import_extra
from metarl.ranges import user_path
from metarl.tasks.base import TaskBatch

KINDS = (supervised, support, control, recurrent, streams)
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
    ranges: Mapping[str, Any] | None = None,
) -> float:
    """Writes the adaptation of a learner as graphs that run without MetaRL.

    Supervised learners that adapt by gradients get the graphs "predict" and "step", metric and
    memory learners "adapt" and "predict", policies "act", "step", and for logs "log_probs" and
    "log_step"; recurrent policies "act" and learners of streams "read" alone, whose state goes in
    and out. For "onnx" the graph
    "start" returns the initial theta and state, if there are any; start.safetensors holds them for
    both formats. docs/export.md documents the folder. Each graph is compared with the learner
    before the folder appears, in ten calls.

    Args:
        learner: A gradient, metric or memory learner, `ZeroShotPrototypes`, a `StreamReader`,
            a `PolicyLearner`, a `RecurrentLearner` or a `VariBADLearner`.
        folder: The folder. An earlier export in it is replaced.
        to: "onnx", or "torch" for programs of `torch.export`.
        tasks: Tasks of a supervised learner, whose examples give shapes and types, or a function
            that returns them.
        horizon: Steps of an episode that a policy's batch has room for; None for the family's.
        source: What is noted of the origin, JSON values.
        seed: Of the start, for learners that start afresh on each task, and of the comparison.
        ranges: Ranges of the training data, `data` of learner.json, of which `metarl.load` warns.

    Returns:
        The largest difference, relative to max(1, max |value|) of each tensor.

    Raises:
        SettingsError: Such learners are not exported, an argument is missing, or the extra "onnx"
            is not installed.
        ExportError: A part cannot be expressed, or the files differ from the learner by more than
            1e-5; nothing is written.
        CheckpointError: The folder holds something else, or cannot be written.
    """
    _check_format(to)
    if any(p.device.type != "cpu" for p in learner.parameters()):
        learner = copy.deepcopy(learner).cpu()
    generator = torch.Generator().manual_seed(seed)
    what = exported(learner, Request(_given(tasks), horizon, generator))
    with new_folder(user_path(folder, "folder")) as new:
        files, difference = _write_graphs(what, new, to, seed)
        (new / START_FILE).write_bytes(safetensors.torch.save(what.start.named()))
        notes: dict[str, Any] = {"source": dict(source or {}), "largest_difference": difference}
        notes |= {"data": dict(ranges)} if ranges else {}
        write_metadata(new, {**_described(what, files, to), **notes})
    return difference


def _check_format(to: str) -> None:
    """Raises SettingsError unless a format is known and its packages are installed."""
    if to not in ("onnx", "torch"):
        raise SettingsError(f"An adaptation is exported to onnx or torch, got {to!r}.")
    if to == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(module, "onnx")


def _write_graphs(what: Exported, folder: Path, to: str, seed: int) -> tuple[dict[str, str], float]:
    """Writes and compares all graphs; returns their files and the largest difference."""
    files, difference, start = {}, 0.0, what.start
    begins = [start.graph()] if to == "onnx" and start.tensors else []
    for graph in [*what.graphs, *begins]:
        path = (write_model if to == "onnx" else write_program)(graph, capture(graph), folder)
        files[graph.name] = path.name
        difference = max(difference, difference_of(graph, path, start, seed))
    return files, difference


def _described(what: Exported, files: dict[str, str], to: str) -> dict[str, Any]:
    """Returns the metadata of an export but for its origin."""
    names, count = [p.name for p in what.start.ports()], len(what.start.theta)
    return {
        "kind": what.kind,
        "runtime": to,
        "versions": _versions(to),
        "graphs": {graph.name: _ports(graph, files[graph.name]) for graph in what.graphs},
        "start": {"theta": names[:count], "state": names[count:], "file": START_FILE},
        **what.notes,
    }


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
