"""The best value of a run's curves, and the checkpoint of the best validation value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError
from metarl.runs.checkpoints import Checkpoints
from metarl.runs.eval_file import read_curves
from metarl.runs.run_folder import CHECKPOINTS

VALIDATION = "validation"
LOWER_IS_BETTER = ("mse", "rmse", "mae", "nll", "loss")
HIGHER_IS_BETTER = ("return", "accuracy", "generalised_accuracy", "binary_accuracy", "f1", "r2")
"""Of a metric of the user's own, no name says which values are better."""


@dataclass(frozen=True)
class Best:
    """The best value of a metric after the last adaptation step.

    Attributes:
        metric: Name of the metric.
        split: The curve: "validation", or that of a report ("test", "test_5_shot").
        value: The mean over the tasks.
        iteration: Meta-iterations done when it was measured.
        is_newest: Whether it is the newest value, as it is not known which values are better.
    """

    metric: str
    split: str
    value: float
    iteration: int
    is_newest: bool = False


def best_value(curves: list[dict[str, Any]]) -> Best | None:
    """Returns the best value, after the last adaptation step, of a run's curves; None without one.

    Args:
        curves: The lines of eval.jsonl. Those of the validation tasks are compared; without any,
            those of the first curve.
    """
    splits = [line.get("split") for line in curves]
    compared = VALIDATION if VALIDATION in splits else next(iter(splits), None)
    lines = [line for line in curves if line.get("split") == compared]
    values = [best for best in map(_value, lines) if best is not None]
    if not values:
        return None
    metric = values[0].metric
    values = [best for best in values if best.metric == metric]  # not further metrics
    if metric not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return replace(values[-1], is_newest=True)
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return min(values, key=lambda best: sign * best.value)


def _value(line: Mapping[str, Any]) -> Best | None:
    mean = (line.get("mean") or [None])[-1]
    if mean is None or not math.isfinite(mean):
        return None
    return Best(line.get("metric", ""), line.get("split", ""), mean, line["iteration"])


def best_on_validation(folder: Path) -> Best | None:
    """Returns the best value of the validation tasks in a run's eval.jsonl.

    None if there is no validation, or if it is not known which values of the metric are better.

    Raises:
        CheckpointError: eval.jsonl cannot be read.
    """
    best = best_value(read_curves(folder))
    return None if best is None or best.split != VALIDATION or best.is_newest else best


def best_checkpoint(folder: Path) -> Path:
    """Returns a run's checkpoint of its best value on validation tasks.

    Raises:
        CheckpointError: The run has no such value, or did not keep the checkpoint.
    """
    best = best_on_validation(folder)
    if best is None:
        raise CheckpointError(
            f"Expected curves on validation tasks in {folder}, whose best value has a checkpoint; "
            "there are none, or the metric does not say which values are better. Name a "
            f"checkpoint in {folder / CHECKPOINTS}."
        )
    path = Checkpoints(folder / CHECKPOINTS).of(best.iteration)
    if path is None:
        raise CheckpointError(
            f"The best value on validation tasks in {folder} is that of meta-iteration "
            f"{best.iteration} ({best.metric} {best.value:.4g}), whose checkpoint was not kept: "
            "runs of version 0.1 keep the newest ones alone."
        )
    return path
