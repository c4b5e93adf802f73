"""The adaptation of a run that describes itself, exported without its experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.loading import load
from metarl.errors import SettingsError
from metarl.lab.saved_run import find_good
from metarl.runs.run_folder import EXPERIMENT_FILE
from metarl.tasks.base import Examples, TaskBatch
from metarl.training.learner_file import LEARNER_FILE


def describes_itself(run: Path) -> bool:
    """Returns whether a run has a learner.json, and no experiment that built it.

    Raises:
        CheckpointError: There is no such run.
    """
    folder = find_good(run).folder
    return (folder / LEARNER_FILE).is_file() and not (folder / EXPERIMENT_FILE).exists()


def export_described(run: Path, out: Path, to: str, horizon: int | None, seed: int) -> float:
    """Writes the adaptation of a run of the library alone; see `export_adaptation`.

    Args:
        run: The run folder, or a checkpoint.
        out: The folder.
        to: "onnx" or "torch".
        horizon: Steps of an episode that the batch of a policy has room for.
        seed: Of the examples, which only give shapes and types.

    Raises:
        SettingsError: A part of the learner has to be handed in, or its tasks need more than the
            run describes.
    """
    adapter: Any = load(run, seed=seed)
    ranges = adapter.origin.ranges
    source = {"checkpoint": Path(adapter.origin.path).name, "tasks": "of the library alone"}
    return export_adaptation(
        adapter.learner, out, to,
        tasks=lambda: example_task(ranges, seed), horizon=horizon, source=source, seed=seed,
        ranges=ranges,
    )  # fmt: skip


def example_task(ranges: Mapping[str, Any], seed: int) -> TaskBatch:
    """Returns a task of random numbers with the shapes and types of a run's training data.

    Args:
        ranges: The record of the training data, from learner.json.
        seed: Of the numbers.

    Raises:
        SettingsError: The record has no shapes, or the examples had masks.
    """
    dtype = getattr(torch, ranges.get("input_type", "float32"))
    is_padded = dtype.is_floating_point and "inputs" not in ranges
    if "input_shape" not in ranges or is_padded:
        raise SettingsError(
            "Expected a run whose learner.json has the shapes of its examples, which are no padded "
            "sequences; export this one in Python: export_adaptation(learner, folder, tasks=...), "
            "of metarl.deploy.export.adaptation."
        )
    generator = torch.Generator().manual_seed(seed)
    count, way = int(ranges.get("support_examples", 5)), int(ranges.get("classes", 1))
    inputs = torch.rand(1, count, *ranges["input_shape"], generator=generator).to(dtype)
    shape = (1, count, *ranges["target_shape"])
    targets = torch.rand(shape, generator=generator)
    if ranges["labels"]:
        labels = torch.arange(count) % way
        targets = labels.view(1, count, *[1] * (len(shape) - 2)).expand(shape)
    examples = Examples(inputs, targets)
    return TaskBatch(examples, examples)
