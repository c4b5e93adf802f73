"""Rollouts and logs for the exported steps of policies, checked, padded and weighed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metarl.deploy.importance import importance_weights
from metarl.errors import ShapeError

Arrays = dict[str, np.ndarray]
PADDED = ("observations", "actions", "rewards", "log_probs", "counts")
"""The inputs with a row of H entries per episode."""


class LogResult(NamedTuple):
    """What steps on a log did.

    Attributes:
        mean_return: Mean undiscounted return of the episodes.
        effective: Effective sample size in steps of the policy itself.
    """

    mean_return: float
    effective: float


class Weighed(NamedTuple):
    """The inputs of the graph log_step for a log, less the scale.

    Attributes:
        feeds: The inputs by name.
        effective: Effective sample size in steps.
    """

    feeds: Arrays
    effective: float


def log_inputs(
    batch: dict[str, Any],
    horizon: int,
    log_probs: Callable[[dict[str, Any]], np.ndarray],
    options: dict[str, Any],
) -> Weighed:
    """Returns the inputs of the graph log_step.

    Args:
        batch: See `OnnxAdaptation.adapt_on_log`.
        horizon: Steps H that a row has room for.
        log_probs: Returns the log-densities of actions under the present theta, [N, H].
        options: Of `importance_weights`.

    Raises:
        SettingsError: The effective sample is too small, or an option is not usable.
        ShapeError: A part has another shape, or a log-probability is not finite.
    """
    check_lengths(batch, horizon)
    feeds = padded(batch, horizon)
    own = log_probs(feeds)
    lengths = np.asarray(feeds["lengths"])
    mask = np.arange(horizon) < lengths[:, None]
    behaviour = _row(feeds, "log_probs", mask, own)
    if not np.isfinite(behaviour[mask]).all():
        raise ShapeError("Expected finite log_probs of the logged actions, got NaN or infinity.")
    weights, effective = importance_weights(own - behaviour, mask, **options)
    counts = _row(feeds, "counts", mask, mask).astype(bool) & mask
    if not counts.any():
        raise ShapeError("Expected steps that count, `counts` is false for all of them.")
    feeds.pop("counts", None)
    return Weighed(
        {
            **feeds,
            "cut": np.asarray(feeds.get("cut", np.zeros(len(mask), bool))),
            "log_probs": own,
            "weights": (weights * counts).astype(np.float32),
        },
        effective,
    )


def horizon_of(metadata: dict[str, Any]) -> int:
    """Returns the steps H that a row of the exported step has room for."""
    (port,) = (p for p in metadata["graphs"]["step"]["inputs"] if p["name"] == "rewards")
    return port["shape"][1]


def padded(batch: dict[str, Any], horizon: int) -> dict[str, Any]:
    """Returns rollouts with rows of H steps, and H + 1 observations.

    Raises:
        ShapeError: A row is shorter than its episode.
    """
    wide, longest = dict(batch), int(np.max(batch.get("lengths", 0), initial=0))
    for name in PADDED:
        if name in batch:
            more = name == "observations"
            value, steps = np.asarray(batch[name]), horizon + more
            if value.ndim > 1 and value.shape[1] < longest + more:
                raise ShapeError(
                    f"Expected {longest + more} {name} of the longest episode, of {longest} steps, "
                    f"got {value.shape[1]}."
                )
            missing = steps - value.shape[1] if value.ndim > 1 else 0
            widths = [(0, 0), (0, max(missing, 0)), *[(0, 0)] * (value.ndim - 2)]
            wide[name] = np.pad(value, widths) if missing > 0 else value
    return wide


def check_lengths(batch: dict[str, Any], horizon: int) -> None:
    """Checks the lengths of episodes.

    Raises:
        ShapeError: One is negative or above H, or all are 0.
    """
    lengths = np.asarray(batch.get("lengths", 1))
    if lengths.size and not (lengths.min() >= 0 and 0 < lengths.max() <= horizon):
        raise ShapeError(
            f"Expected lengths from 0 to {horizon}, at least one above 0, got {lengths.min()} to "
            f"{lengths.max()}; `--horizon` of the export sets the largest."
        )


def _row(feeds: dict[str, Any], name: str, mask: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Returns a part [N, H] of the log, or the usual one if there is none.

    Raises:
        ShapeError: It has another shape.
    """
    value = np.asarray(feeds.get(name, usual))
    if value.shape != mask.shape:
        raise ShapeError(f"Expected {name} of shape {list(mask.shape)}, got {list(value.shape)}.")
    return value
