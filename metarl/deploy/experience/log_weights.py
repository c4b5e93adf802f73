"""Who acted in a log: importance weights of its episodes, and warnings of logs that mislead."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.deploy.experience.episode_log import (
    EpisodeLog,
    log_probs_of,
    log_probs_of_samples,
)
from metarl.deploy.experience.trajectories import Trajectory
from metarl.deploy.importance import Correction, importance_weights
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import SettingsError
from metarl.models.base import Params, task_params
from metarl.registry import check_choice
from metarl.sim.spaces import action_leaves

Behaviour = Literal["start", "adapted"]
AT_BOUNDS = 0.05
"""Share of clipped actions from which their probabilities are doubtful."""

SAMPLES = 64
"""Actions that are sampled for each step, to judge the logged one."""
FEWEST = 10
"""Steps that are needed to judge a log."""
LARGEST_DEVIATION = 5.0
"""Standard deviations of the log-density from which actions are no samples."""
RARE = 10.0
"""So much lower, in nats, it may be by chance that 64 samples do not show: choices of e^-10."""
OTHER_DENSITY = 0.05
"""Difference of log-densities, in nats, from which they are those of another policy."""
OTHER_RATE = 0.05
"""Share by which the time of a step may differ from that of training."""
LOG_OPTIONS = ("behaviour", "correction", "least_effective")
"""Options of `adapt` on a log."""


def weigh(
    adapter: Any,
    found: Sequence[Trajectory],
    behaviour: Behaviour | None = None,
    correction: Correction = "episode",
    least_effective: float = 0.1,
) -> tuple[list[EpisodeLog], Tensor, float]:
    """Weighs logged episodes by how likely the policy that adapts would have acted so.

    Args:
        adapter: The `ControlAdapter` that adapts.
        found: The episodes.
        behaviour: Who acted: the trained "start", or the parameters that act now, "adapted", both
            with sampled actions; None: the log has `log_probs`.
        correction: See `importance_weights`.
        least_effective: Smallest effective share of the data, in [0, 1].

    Returns:
        The episodes, their weights [N, 1] or [N, H], and the effective sample size in steps.

    Raises:
        SettingsError: It is not known who acted, or the effective sample is too small.
    """
    policy, logs = adapter.learner.policy, [_log(adapter, one) for one in found]
    params: Params = adapter.params
    ratios = log_probs_of(logs, policy, params) - _behaviour(adapter, found, logs, behaviour)
    warn_of_bounds(adapter.spaces, found)
    mask = np.arange(ratios.shape[1]) < np.array([[len(log)] for log in logs])
    weights, effective = importance_weights(ratios.numpy(), mask, correction, least_effective)
    return logs, torch.from_numpy(weights).float(), effective


def _log(adapter: Any, one: Trajectory) -> EpisodeLog:
    count, final = len(one.rewards), None
    if len(one.observations) > count:
        final = one.observations[count]
    return EpisodeLog(
        list(one.observations[:count]), [adapter.own_action(a) for a in one.actions],
        one.rewards.tolist(), [True] * count, [adapter.version] * count, final,
        one.terminated, one.ended,
    )  # fmt: skip


def _behaviour(
    adapter: Any, found: Sequence[Trajectory], logs: Sequence[EpisodeLog], behaviour: str | None
) -> Tensor:
    """Returns the log-density of each action under whoever acted, the policy's units, [N, H]."""
    policy = adapter.learner.policy
    if behaviour is not None:
        check_choice("behaviour", behaviour, ("start", "adapted"))
        start = {n: p.detach() for n, p in task_params(policy, 1).items()}
        params = start if behaviour == "start" else adapter.params
        log_probs, bounds = log_probs_of(logs, policy, params), _bounds_of(adapter.spaces, found)
        own = None
        if bounds is not None:
            low, high = (torch.as_tensor(adapter.own_action(side)) for side in bounds)
            own = low, high
        samples = log_probs_of_samples(logs, policy, params, own, SAMPLES)
        _warn_of_actions(log_probs.numpy(), samples, found)
        if all(one.log_probs is not None for one in found):
            _warn_of_others(log_probs, _logged(adapter, found), found)
        return log_probs
    check_log_probs(found)
    return _logged(adapter, found)


def _logged(adapter: Any, found: Sequence[Trajectory]) -> Tensor:
    """Returns the log-densities that a log has, in the policy's units, [N, H]."""
    units = adapter.learner.policy.units
    # log p(a) = log p(a') + log |da' / da|, with the environment's a = a' * scale + shift
    change = 0.0
    if units is not None and units.actions is not None:
        change = float(units.actions.scale.log().sum())
    rows = torch.zeros(len(found), max(len(one.rewards) for one in found))
    for n, one in enumerate(found):
        assert one.log_probs is not None
        rows[n, : len(one.log_probs)] = torch.from_numpy(one.log_probs + change).float()
    return rows


def _warn_of_others(own: Tensor, logged: Tensor, found: Sequence[Trajectory]) -> None:
    """Warns of a log whose densities are not those of the policy that is said to have acted."""
    gaps = [
        (own[n, : len(one.rewards)] - logged[n, : len(one.rewards)]).abs()
        for n, one in enumerate(found)
    ]
    gap = float(torch.cat(gaps).median())
    if gap > OTHER_DENSITY:
        warnings.warn(
            f"The log has `log_probs`, which differ by {gap:.3g} (median of the steps) from those "
            "of the policy that is said to have acted and are not used: leave out `behaviour` if "
            "those of the log are right.",
            RuntimeWarning,
            stacklevel=5,
        )


def check_log_probs(found: Sequence[Trajectory]) -> None:
    """Raises SettingsError unless all episodes have the log-probabilities of their actions."""
    if any(one.log_probs is None for one in found):
        raise SettingsError(
            "Expected the log-probabilities of the logged actions, `log_probs`, to correct for who "
            'acted. If the trained policy itself did, with sampled actions: behaviour="start" (or '
            '"adapted" for the parameters that act now). Logs of somebody else without '
            "probabilities cannot be adapted on by a policy gradient."
        )


def _bounds_of(
    spaces: ControlSpaces, found: Sequence[Trajectory]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the bounds of actions, in the environment's units, if the log's are within them."""
    if isinstance(spaces.action, Discrete):
        return None
    low, high = spaces.action.low, spaces.action.high
    inside = all(((low <= a) & (a <= high)).all() for one in found for a in one.actions)
    return (low, high) if inside else None


def _warn_of_actions(
    log_probs: np.ndarray, samples: np.ndarray, found: Sequence[Trajectory]
) -> None:
    """Warns of actions that the policy that is said to have acted would hardly have sampled.

    Args:
        log_probs: Log-densities of the logged actions, [N, H].
        samples: Summed log-densities of actions that it samples in their place, [K].
        found: The logged episodes.
    """
    steps = sum(len(one.rewards) for one in found)
    own, usual, spread = log_probs.sum(dtype=float), samples.mean(), samples.std(ddof=1)
    # Rounding to float32 changes each logarithm by about 1e-6.
    margin = LARGEST_DEVIATION * spread + (RARE if own < usual else 1e-5 * steps)
    if steps < FEWEST or abs(own - usual) <= margin:
        return
    warnings.warn(
        f"The logged actions have a mean log-density of {own / steps:.4g} under the policy that is "
        f"said to have acted, its samples {usual / steps:.4g} +- {spread / steps:.2g}: "
        + (
            "they are no samples, but nearer to its most likely actions, from which a policy "
            "gradient learns nothing. "
            if own > usual
            else "somebody else acted, or actions or observations have other units. "
        )
        + "Expect a wrong adaptation.",
        RuntimeWarning,
        stacklevel=5,
    )


def warn_of_bounds(spaces: ControlSpaces, found: Sequence[Trajectory]) -> None:
    """Warns of logs whose actions were clipped: a density does not describe these."""
    space = spaces.action
    if isinstance(space, Discrete):
        return
    numbers = np.zeros(space.shape, bool)  # choices and switches are always at some bound
    for leaf in action_leaves(space):
        numbers[leaf.start : leaf.stop] = isinstance(leaf.space, Box)
    numbers &= space.low < space.high
    rows = np.concatenate([np.stack([np.asarray(a) for a in one.actions]) for one in found])
    at_bounds = np.isclose(rows, space.low) | np.isclose(rows, space.high)
    share = float((at_bounds & numbers).any(1).mean())
    if share > AT_BOUNDS:
        warnings.warn(
            f"{share:.0%} of the logged actions are at the bounds of the action space, as if they "
            "were clipped: log the actions before they are clipped, or expect a biased adaptation.",
            RuntimeWarning,
            stacklevel=4,
        )


def warn_of_lengths(found: Sequence[Trajectory], horizon: int) -> None:
    """Warns of logs with episodes that are longer than in training, as if they were several."""
    longest = max(len(one.rewards) for one in found)
    if longest > horizon:
        warnings.warn(
            f"An episode of the log has {longest} steps, those of training had at most {horizon}. "
            "If the log holds several episodes, say where they end: `terminated` and `truncated`, "
            "or an `episode` number.",
            RuntimeWarning,
            stacklevel=4,
        )


def warn_of_times(found: Sequence[Trajectory], step_seconds: float | None) -> None:
    """Warns of logs at another rate than that of training, of missing steps and of their order.

    Args:
        found: The episodes; those without times and without a counter of steps are left out.
        step_seconds: Time of a step in training, in s; None: not known.
    """
    what, gaps, said = "timestamps of the log, in s,", _gaps([one.times for one in found]), []
    if len(gaps):
        usual = float(np.median(gaps))
        if not (gaps > 0).all():  # NaN, too
            said = ["do not increase from step to step: sort the log by time"]
        elif step_seconds is not None and abs(usual - step_seconds) > OTHER_RATE * step_seconds:
            said = [f"are {usual:.4g} s apart, the steps of training {step_seconds:.4g} s"]
    late = _late(gaps)
    if not said and not late:
        what, gaps = "counters of steps of the log", _gaps([one.steps for one in found])
        late = _late(np.abs(gaps)) if (gaps > 0).all() or (gaps < 0).all() else 0
    if late:
        said.append(f"have {late} gaps of {len(gaps)} in which steps are missing")
    if said:
        warnings.warn(
            f"The {what} {' and '.join(said)}. Rewards and observations of such a log mean "
            "something else than in training.",
            RuntimeWarning,
            stacklevel=4,
        )


def _gaps(counters: Sequence[np.ndarray | None]) -> np.ndarray:
    """Returns the differences from step to step of all episodes, [K]."""
    return np.concatenate([np.zeros(0), *(np.diff(row) for row in counters if row is not None)])


def _late(gaps: np.ndarray) -> int:
    """Returns how many differences are as large as those of several steps."""
    return int((gaps > 1.5 * np.median(gaps)).sum()) if len(gaps) else 0
