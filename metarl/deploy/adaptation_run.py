"""The adaptation of a run, and the network of a supervised run, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.learner import Learner
from metarl.adaptation.network_call import NetworkCall
from metarl.deploy.adaptation_capture import (
    Graph,
    Port,
    capture,
    free_size,
    graph_of,
    write_model,
    write_program,
)
from metarl.deploy.adaptation_check import difference_of
from metarl.deploy.adaptation_export import export_adaptation
from metarl.deploy.adaptation_theta import Start
from metarl.deploy.export import trial_folder
from metarl.errors import ExportError, SettingsError
from metarl.lab.experiment import Components
from metarl.models.base import Statistics
from metarl.rl.control_learner import ControlLearner
from metarl.tasks.base import TaskBatch
from metarl.tasks.files import atomic_path
from metarl.trees import take_tasks


def export_run_adaptation(
    components: Components,
    out: Path,
    to: str,
    source: dict[str, Any],
    *,
    horizon: int | None = None,
    seed: int = 0,
) -> float:
    """Writes the adaptation of a reopened run; see `export_adaptation`.

    Args:
        components: What the run's experiment built, at the checkpoint.
        out: The folder.
        to: "onnx" or "torch".
        source: What is noted of the run.
        horizon: Steps of an episode that the batch of a policy has room for.
        seed: Of the tasks whose examples give shapes and types.
    """
    learner = components.learner
    if horizon is not None and not isinstance(learner, ControlLearner):
        raise SettingsError("`horizon` belongs to policies; supervised tasks have no episodes.")
    tasks = None if isinstance(learner, ControlLearner) else one_task(components, seed)
    return export_adaptation(
        learner, out, to, tasks=tasks, horizon=horizon, source=source, seed=seed
    )


def one_task(components: Components, seed: int) -> TaskBatch:
    """Samples one task for an export: of the test split, if the tasks have one; on the CPU."""
    source = components.validation or components.tasks
    split = getattr(source, "split", None)
    tasks = (source if split is None else split("test")).sample(
        1, torch.Generator().manual_seed(seed)
    )
    if not isinstance(tasks, TaskBatch):
        raise ExportError(
            f"Expected supervised tasks of examples, got {type(tasks).__name__}: the adaptation to "
            "these is not exported."
        )
    return tasks


def export_network(
    learner: Learner, out: Path, to: str, tasks: TaskBatch, steps: int, seed: int
) -> float:
    """Writes the network of a supervised learner, adapted to the first of the tasks.

    The file maps "inputs" [B, *input] to "outputs" [B, *]. Batch normalisation uses the statistics
    of the support set, so that each prediction is independent of the others.

    Args:
        learner: The learner, on the CPU.
        out: The file.
        to: "onnx" or "torch".
        tasks: Its tasks.
        steps: Adaptation steps, at least 0.
        seed: Of the adaptation.

    Returns:
        The largest difference of the file's outputs, relative to max(1, |output|).

    Raises:
        SettingsError: The learner does not adapt by gradients.
        ExportError: The network cannot be expressed, or the file differs by more than 1e-5.
        CheckpointError: The file cannot be written.
    """
    if not isinstance(learner, GradientLearner):
        raise SettingsError(
            f"Networks and policies that adapt by gradients are exported; "
            f"{type(learner).__name__} adapts in another way."
        )
    graph = _network(learner, take_tasks(tasks.support, 0, 1), steps, seed)
    with trial_folder(out) as folder:
        path = (write_model if to == "onnx" else write_program)(graph, capture(graph), folder)
        difference = difference_of(graph, path, Start({}, {}), seed)
        with atomic_path(out) as temporary:
            path.replace(temporary)
    return difference


def _network(learner: GradientLearner, support: Any, steps: int, seed: int) -> Graph:
    *_, adapted = learner.adapt(support, steps, torch.Generator().manual_seed(seed))
    network, params = NetworkCall(learner.model), adapted.params
    params = {n: p.detach().clone() for n, p in params.items()}
    record = adapted.statistics
    if record is None or not record.values:
        record = Statistics(1.0)
        with torch.no_grad():
            network.examples(params, support, record)
    fixed = Statistics(recording=False, values=record.values)

    def predict(inputs: Tensor) -> list[Tensor]:
        return [network(params, inputs.unsqueeze(0), fixed, None, None).squeeze(0)]

    inputs = support.inputs[0]
    size = free_size([inputs[:1], *params.values()])
    inputs = inputs[torch.arange(size) % len(inputs)]
    port = Port("inputs", inputs, "inputs to predict for", {0: "inputs"})
    return graph_of("network", predict, [port], [("outputs", "predictions", {0: "inputs"})])
