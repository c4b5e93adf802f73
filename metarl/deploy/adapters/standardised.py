"""Standardisation of the user's examples by the means and deviations of training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metarl.errors import SettingsError
from metarl.tasks.scaling import Scaling


def scaling_of(ranges: dict[str, Any]) -> Scaling:
    """Returns what the examples of a run were standardised by.

    Args:
        ranges: The record of the training data.

    Raises:
        SettingsError: They were not standardised, or the run does not know by what.
    """
    if "scaling" not in ranges:
        raise SettingsError(
            "Expected a run whose tasks were standardised, as by "
            "GroupedExamples(standardise=True); this one has no means and deviations: leave out "
            "`standardise`."
        )
    return Scaling.from_json(ranges["scaling"])


def advice(ranges: dict[str, Any], scaling: Scaling | None) -> str:
    """Returns what to do about data of other units; empty if it is not known."""
    if scaling is not None or "scaling" not in ranges:
        return ""
    return (
        " Training standardised its data: metarl.load(run, standardise=True) takes them in the "
        "units of the table."
    )


def restored(outputs: Any, scaling: Scaling, shape: list[int]) -> Tensor:
    """Returns outputs [T, N, *target] in the units of the data.

    Args:
        outputs: What the learner predicts.
        scaling: What its targets were standardised by.
        shape: The shape of a target.

    Raises:
        SettingsError: The outputs are not of the shape of the targets.
    """
    if not isinstance(outputs, Tensor) or list(outputs.shape[2:]) != shape:
        found = list(outputs.shape[2:]) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise SettingsError(
            f"Expected outputs of the shape of a target, {shape}, to give them in the units of the "
            f"data, got {found}. Leave out `standardise`, and standardise by the scaling of the "
            "tasks."
        )
    return scaling.restore(outputs)
