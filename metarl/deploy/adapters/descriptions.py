"""Descriptions of classes as the user has them, for learners whose classes may have no examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.adaptation.learner import SupervisedLearner
from metarl.deploy.arrays import as_array
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.learners.metric.zero_shot import DESCRIBED, DESCRIPTIONS, ZeroShotPrototypes
from metarl.tasks.base import Examples


def description_info(
    learner: SupervisedLearner, descriptions: Any, described: Any
) -> tuple[dict[str, Tensor], bool]:
    """Returns `TaskBatch.info` with the descriptions of the classes.

    Args:
        learner: The learner.
        descriptions: Numbers of each class, [way, D], or of T tasks, [T, way, D]; None: none.
        described: Whether a class has a description, [way] or [T, way]; None: all have.

    Returns:
        The info, and whether there are many tasks.

    Raises:
        SettingsError: The learner takes no descriptions, or needs them.
        ShapeError: They are no finite numbers of these shapes.
    """
    takes = isinstance(learner, ZeroShotPrototypes)
    if takes != (descriptions is not None):
        raise SettingsError(
            "Expected `descriptions` [way, D], one of each class, which this learner compares with."
            if takes
            else f"Expected no `descriptions`: a {type(learner).__name__} has no use for them."
        )
    if descriptions is None:
        return {}, False
    values = as_array(descriptions, "descriptions")
    if values.ndim not in (2, 3) or values.dtype.kind not in "biuf" or not values.size:
        raise ShapeError(
            f"Expected descriptions [way, D] or [T, way, D] of numbers, got {values.dtype} "
            f"{list(values.shape)}."
        )
    many = values.ndim == 3
    rows = torch.from_numpy(np.array(values, np.float32)).to(next(learner.parameters()).dtype)
    if not bool(torch.isfinite(rows).all()):
        raise ShapeError("Expected finite descriptions, got NaN, infinity or too large numbers.")
    info = {DESCRIPTIONS: rows if many else rows.unsqueeze(0)}
    if described is not None:
        known = torch.from_numpy(np.array(as_array(described, "described"), bool))
        info[DESCRIBED] = known if many else known.unsqueeze(0)
    return info, many


def numbered_labels(values: np.ndarray, way: int) -> Tensor:
    """Returns labels [T, N] as int64: the indices of the descriptions of their classes.

    Raises:
        TaskError: One is no whole number from 0 to way - 1.
    """
    whole = values.dtype.kind in "iuf" and (values == np.round(values)).all()
    if values.ndim != 2 or not whole or (values < 0).any() or (values >= way).any():
        raise TaskError(
            f"Expected labels [N] from 0 to {way - 1}, the indices of the descriptions, got "
            f"{values.dtype} {list(values.shape[1:])} with {sorted(set(values.flat))[:5]}."
        )
    return torch.from_numpy(values.astype(np.int64))


def no_examples(info: dict[str, Tensor], ranges: dict[str, Any]) -> Examples:
    """Returns empty support sets of as many tasks as there are descriptions of."""
    tasks = len(info[DESCRIPTIONS])
    inputs = info[DESCRIPTIONS].new_empty(tasks, 0, *ranges.get("input_shape", ()))
    return Examples(inputs, torch.empty(tasks, 0, dtype=torch.int64))
