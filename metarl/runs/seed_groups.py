"""Runs that differ only in their seed, as one curve with intervals over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError, SettingsError
from metarl.evaluation.statistics import summarise_seeds
from metarl.runs.run_curves import Comparison, RunCurves, run_labels
from metarl.tasks.files import read_json

NO_MATTER = ("seed", "device", "threads", "loggers")
"""Settings of the outer loop in which runs of one group may differ."""


def merge_seeds(folders: Sequence[Path], comparison: Comparison) -> Comparison:
    """Combines the curves of runs that differ only in their seed.

    A curve has the positions that all runs of its group have. Its means are those of the seeds'
    means, and its intervals cover the choice of the seeds; see `summarise_seeds`.

    Args:
        folders: The run folders.
        comparison: Their curves, in the same order.

    Returns:
        The curves of the groups, in the order of the first run of each.

    Raises:
        SettingsError: Two runs of a group have the same seed, or no adaptation steps in common.
        CheckpointError: A run's config.json cannot be read, or has no seed.
    """
    groups: dict[str, dict[Any, tuple[Path, RunCurves]]] = {}
    for folder, run in zip(folders, comparison.runs, strict=True):
        key, seed = _settings_and_seed(folder)
        group = groups.setdefault(key, {})
        if seed in group:
            raise SettingsError(
                f"Expected runs with different seeds, got two of seed {seed} with the same "
                f"settings: {group[seed][0]} and {folder}."
            )
        group[seed] = folder, run
    labels = run_labels([next(iter(group.values()))[0] for group in groups.values()])
    merged = [
        _merged(label, [run for _, run in group.values()])
        for label, group in zip(labels, groups.values(), strict=True)
    ]
    return replace(comparison, runs=merged, over="seeds")


def _merged(label: str, runs: Sequence[RunCurves]) -> RunCurves:
    training = [dict(run.training) for run in runs]
    common = [x for x in training[0] if all(x in points for points in training)]
    adaptation = [run.adaptation for run in runs]
    steps = [step for step in adaptation[0] if all(step in curve for curve in adaptation)]
    if not steps:
        raise SettingsError(
            f"Expected seeds of {label} that are evaluated after the same adaptation steps, got "
            f"{', '.join(str(list(curve)) for curve in adaptation)}. Evaluate them again."
        )
    return RunCurves(
        f"{label}, {len(runs)} {'seed' if len(runs) == 1 else 'seeds'}",
        [(x, summarise_seeds([points[x] for points in training])) for x in common],
        {step: summarise_seeds([curve[step] for curve in adaptation]) for step in steps},
    )


def _settings_and_seed(folder: Path) -> tuple[str, Any]:
    """Returns what a run has in common with those of other seeds, as text, and its seed."""
    path = folder / "config.json"
    try:
        settings = read_json(path)
        training = settings["training"]
        seed = training["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Expected the settings of a run with its seed in {path}: {error!r}. Compare such runs "
            "one by one."
        ) from error
    return json.dumps(dict(_compared(settings, training)), sort_keys=True), seed


def _compared(settings: dict[str, Any], training: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name == "training":
            yield name, {n: v for n, v in training.items() if n not in NO_MATTER}
        elif name != "runs":
            yield name, value
