"""The adaptation of a run, and the network of a supervised run, as files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from metarl.adaptation.learner import Learner
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.capture import capture, write_model, write_program
from metarl.deploy.export.check import difference_of
from metarl.deploy.export.kinds import adapted_network
from metarl.deploy.export.policies import trial_folder
from metarl.deploy.export.theta import Start
from metarl.errors import ExportError
from metarl.lab.experiment import Components
from metarl.tasks.base import TaskBatch
from metarl.tasks.files import atomic_path


def export_run_adaptation(
    components: Components,
    out: Path,
    to: str,
    source: dict[str, Any],
    *,
    horizon: int | None = None,
    seed: int = 0,
    ranges: Mapping[str, Any] | None = None,
) -> float:
    """Writes the adaptation of a reopened run; see `export_adaptation`.

    Args:
        components: What the run's experiment built, at the checkpoint.
        out: The folder.
        to: "onnx" or "torch".
        source: What is noted of the run.
        horizon: Steps of an episode that the batch of a policy has room for.
        seed: Of the tasks whose examples give shapes and types.
        ranges: Ranges of the training data, from learner.json.
    """
    return export_adaptation(
        components.learner, out, to,
        tasks=one_task(components, seed), horizon=horizon, source=source, seed=seed,
        ranges=ranges,
    )  # fmt: skip


def one_task(components: Components, seed: int) -> Callable[[], TaskBatch]:
    """Returns a function that samples one supervised task on the CPU, of the test split if any."""

    def sample() -> TaskBatch:
        source = components.validation or components.tasks
        split = getattr(source, "split", None)
        tasks = (source if split is None else split("test")).sample(
            1, torch.Generator().manual_seed(seed)
        )
        if not isinstance(tasks, TaskBatch):
            raise ExportError(
                f"Expected supervised tasks of examples, got {type(tasks).__name__}: the "
                "adaptation to these is not exported."
            )
        return tasks

    return sample


def export_network(
    learner: Learner, out: Path, to: str, tasks: Callable[[], TaskBatch], steps: int, seed: int
) -> float:
    """Writes the network of a supervised learner, adapted to the first of the tasks.

    The file maps "inputs" [B, *input] to "outputs" [B, *]. Batch normalisation uses the statistics
    of the support set, so that each prediction is independent of the others.

    Args:
        learner: The learner.
        out: The file.
        to: "onnx" or "torch".
        tasks: Returns its tasks.
        steps: Adaptation steps, at least 0.
        seed: Of the adaptation.

    Returns:
        The largest difference of the file's outputs, relative to max(1, max |output|).

    Raises:
        SettingsError: The learner does not adapt by gradients.
        ExportError: The network cannot be expressed, or the file differs by more than 1e-5.
        CheckpointError: The file cannot be written.
    """
    if any(p.device.type != "cpu" for p in learner.parameters()):
        learner = copy.deepcopy(learner).cpu()
    graph = adapted_network(learner, tasks, steps, torch.Generator().manual_seed(seed))
    with trial_folder(out) as folder:
        path = (write_model if to == "onnx" else write_program)(graph, capture(graph), folder)
        difference = difference_of(graph, path, Start({}, {}), seed)
        with atomic_path(out) as temporary:
            path.replace(temporary)
    return difference
