"""Importance weights of logged episodes, and what a log is worth; NumPy only."""

from __future__ import annotations

from typing import Literal

import numpy as np

from metarl.errors import SettingsError
from metarl.ranges import FRACTION, check_number
from metarl.registry import check_choice

Correction = Literal["episode", "step"]


def importance_weights(
    log_ratios: np.ndarray,
    mask: np.ndarray,
    correction: str = "episode",
    least_effective: float = 0.1,
) -> tuple[np.ndarray, float]:
    """Weighs logged steps by how likely the policy that adapts would have acted so.

    Args:
        log_ratios: log pi(a_t | s_t) - log b(a_t | s_t) of each step, [N, H], where b acted.
        mask: Whether a step exists, [N, H] bool.
        correction: "episode" weighs an episode by the product of the ratios of its steps: right on
            average, of high variance. "step" weighs each step by its own ratio: it leaves out that
            the states were visited by another policy.
        least_effective: Smallest effective share of the data, in [0, 1].

    Returns:
        The weights, [N, 1] or [N, H], float64, the largest 1; and the effective sample size in
        steps.

    Raises:
        SettingsError: The effective sample is too small, or an option is not usable.
    """
    check_choice("correction", correction, ("episode", "step"))
    check_number("least_effective", least_effective, FRACTION)
    ratios = np.where(mask, np.asarray(log_ratios, np.float64), 0.0)
    # w_i = prod_t pi(a_t | s_t) / b(a_t | s_t), or w_t = pi(a_t | s_t) / b(a_t | s_t)
    by_step = _relative(ratios, mask)
    weights, counted = by_step, mask
    if correction == "episode":
        counted = np.asarray(mask.any(1, keepdims=True))
        weights = _relative(ratios.sum(1, keepdims=True), counted)
    share = min(_share(weights, counted), _share(by_step, mask))
    steps = int(mask.sum())
    if share < least_effective:
        raise SettingsError(
            f"The log is too different from what the policy would do: {len(mask)} episodes of "
            f"{steps} steps are worth {share * steps:.1f} steps of its own ({share:.1%}, "
            f"expected at least {least_effective:.0%}). Log the trained policy itself with sampled "
            "actions, take episodes nearer to it, or lower `least_effective`."
        )
    return weights, share * steps


def _relative(logarithms: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns the weights of logarithms relative to the largest; 0 where none is counted."""
    largest = logarithms[counted].max()
    return np.exp(np.where(counted, logarithms - largest, -np.inf))


def _share(weights: np.ndarray, counted: np.ndarray) -> float:
    """Returns the effective share of the data: (sum w)^2 / (n sum w^2)."""
    return float(weights.sum() ** 2 / np.square(weights).sum() / counted.sum())
