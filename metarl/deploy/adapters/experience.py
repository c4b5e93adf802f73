"""What a control adapter adapts on: observed steps, logged episodes, or what a memory reads."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from metarl.deploy.adapter import AdaptationReport
from metarl.deploy.adapters.adapted_policy import AdaptedPolicy
from metarl.deploy.experience.episode_log import EpisodeLog, experience_of
from metarl.deploy.experience.log_weights import weigh
from metarl.deploy.experience.recorder import REPEATED, Recorder
from metarl.deploy.experience.trajectories import Trajectory
from metarl.deploy.robot.actor import Action, Actor
from metarl.deploy.robot.safety import RollBack
from metarl.errors import SettingsError, SimulationError
from metarl.rl.experience import Experience
from metarl.sim.gymnasium.observations import ResultError, step_result

OBSERVE = "give `observe` the action as `act` returned it, or None, where the robot executed it"
FEW = 0.5
"""Share of sampled actions below which an adaptation warns."""
FEWEST = 2
_TOO_FEW = (
    "Expected at least two steps to adapt on, got one: it is as good as the mean of all, so that "
    "nothing would change."
)

Data = tuple[Experience, AdaptationReport]
"""What a policy adapts on, and the report so far."""


def observed(learner: Any, weights: AdaptedPolicy, recorder: Recorder) -> Data:
    """Returns the steps since the last adaptation.

    Args:
        learner: The `PolicyLearner`.
        weights: The parameters that acted.
        recorder: Has the steps, and gives them away.

    Raises:
        SettingsError: See `taken`.
    """
    logs = taken(recorder)
    steps = sum(map(len, logs))
    experience = _experience(learner, weights, logs)
    weights.forget_versions()
    return experience, AdaptationReport(0, steps, len(logs))


def taken(recorder: Recorder, version: int | None = None) -> list[EpisodeLog]:
    """Returns the steps since the last adaptation; warns of those that are missing or repeated.

    Args:
        recorder: Has the steps, and gives them away.
        version: The parameters whose actions alone count as sampled; None: all.

    Raises:
        SettingsError: There are no sampled actions, or one step; they stay with the recorder.
    """
    missed, jumps, repeats = recorder.missed, recorder.jumps, recorder.repeats
    logs = recorder.take()
    if version is not None:
        for log in logs:
            own = [v == version for v in log.versions]
            log.sampled = [s and o for s, o in zip(log.sampled, own, strict=True)]
    steps, sampled = sum(map(len, logs)), sum(sum(log.sampled) for log in logs)
    if not sampled:
        recorder.give_back(logs)
        advice = f"act with explore=True first, and {OBSERVE}" if steps else "act and observe first"
        raise SettingsError(
            f"Expected steps with sampled actions to adapt on, got {steps} steps without any: "
            f"{advice}. A policy gradient learns nothing from its most likely actions."
        )
    try:
        check_steps(steps)
    except SettingsError:
        recorder.give_back(logs)
        raise
    if sampled < FEW * steps:
        warnings.warn(
            f"Of {steps} observed steps, {sampled} are adapted on: the actions of the others were "
            f"held, most likely ones or not those that `act` returned. For more, {OBSERVE}.",
            RuntimeWarning,
            stacklevel=5,
        )
    _warn_of_ends(missed, jumps, steps)
    if repeats:
        warnings.warn(
            f"Of {steps} observed steps, {repeats} repeat {REPEATED}",
            RuntimeWarning,
            stacklevel=5,
        )
    return logs


def finite_step(observation: Any, reward: Any, terminated: Any, truncated: Any) -> float:
    """Returns the reward of an observed step.

    Raises:
        SimulationError: It is no finite number, or an end is neither true nor false.
    """
    try:
        step_result((observation, reward, terminated, truncated, None))
    except ResultError as error:
        raise SimulationError(f"Cannot observe the step. {error}") from error
    if not math.isfinite(found := float(reward)):
        raise SimulationError(f"Expected a finite reward, got {found}.")
    return found


def check_steps(steps: int) -> None:
    """Raises SettingsError for a single step."""
    if steps < FEWEST:
        raise SettingsError(_TOO_FEW)


def _warn_of_ends(missed: int, jumps: int, steps: int) -> None:
    """Warns of steps that were not observed, and of ends that nobody noted.

    Args:
        missed: See `Recorder`.
        jumps: See `Recorder`. Where most steps have one, because the robot is read again before it
            acts, they are no ends.
        steps: Steps that were observed.
    """
    if missed:
        said = (
            f"Of the actions of `act`, {missed} were followed by another one without `observe`: "
            "their rewards are missing, and the episodes are cut there"
        )
    elif 0 < jumps < FEW * steps:
        said = (
            f"Of {steps} steps, {jumps} began with another observation than the one that was "
            "observed last, as after a reset: such episodes are joined"
        )
    else:
        return
    warnings.warn(
        f"{said}. Observe every step, and the last one of an episode with `terminated` or "
        "`truncated`; call `abandon` before a reset in between.",
        RuntimeWarning,
        stacklevel=6,
    )


def warn_of_equal_returns(logs: Sequence[EpisodeLog | Trajectory]) -> None:
    """Warns where nothing says which actions were better."""
    rewards = {float(reward) for log in logs for reward in log.rewards}
    if len(rewards) == 1 and len({len(log.rewards) for log in logs}) == 1:
        warnings.warn(
            f"All steps have the reward {rewards.pop():g}, and all episodes are as long: nothing "
            "says which actions were better, so that an adaptation follows errors of estimated "
            "values. Adapt on episodes that differ, or leave the policy as it is.",
            RuntimeWarning,
            stacklevel=5,
        )


def logged(
    adapter: Any, weights: AdaptedPolicy, found: Sequence[Trajectory], **options: Any
) -> Data:
    """Returns logged episodes, weighed by who acted.

    Args:
        adapter: The `ControlAdapter`.
        weights: Its parameters.
        found: The episodes.
        **options: See `weigh`.

    Raises:
        SettingsError: There is a single step; see `weigh` for others.
    """
    check_steps(sum(len(one.rewards) for one in found))
    logs, shares, effective = weigh(adapter, found, **options)
    report = AdaptationReport(0, sum(map(len, logs)), len(logs), effective=effective)
    return _experience(adapter.learner, weights, logs, shares), report


def rolled_back(
    rollback: RollBack | None, recorder: Recorder, weights: AdaptedPolicy | None
) -> str | None:
    """Gives an adapted policy up for the start if it does worse, and says so in a sentence.

    Args:
        rollback: When it is given up; None: never.
        recorder: Has the returns of both; what the adapted policy did is forgotten.
        weights: Its parameters; None of a policy with a memory.

    Returns:
        The sentence; None if the same policy continues to act.
    """
    returns = recorder.returns
    if rollback is None or weights is None or weights.version == 0:
        return None
    if not rollback.is_worse(returns[False], returns[True]):
        return None
    means = (float(np.mean(returns[True])), float(np.mean(returns[False])))
    said = (
        f"Rolled back after {recorder.steps} steps: the adapted policy's mean return was "
        f"{means[0]:.4g} in {len(returns[True])} episodes, the start's {means[1]:.4g} in "
        f"{len(returns[False])}."
    )
    weights.reset()
    recorder.take()
    recorder.forget_adapted()
    return said


def remember(
    actor: Actor, found: Sequence[Trajectory], own_action: Callable[[Action], Action]
) -> AdaptationReport:
    """Lets the memory of a recurrent policy read logged episodes.

    Args:
        actor: The policy.
        found: The episodes.
        own_action: Maps an action of the environment to the policy's units.
    """
    started = time.perf_counter()
    for n, one in enumerate(found, 1):
        ended = one.ended or n < len(found)  # where another one begins
        for t, action in enumerate(one.actions, 1):
            actor.row[:] = one.observations[t - 1]
            actor.act(explore=False)
            last = ended and t == len(one.actions)
            actor.observe(own_action(action), float(one.rewards[t - 1]), last)
    steps = sum(len(one.rewards) for one in found)
    return AdaptationReport(0, steps, len(found), seconds=time.perf_counter() - started)


def _experience(
    trained: Any, weights: AdaptedPolicy, logs: list[EpisodeLog], shares: Tensor | None = None
) -> Experience:
    warn_of_equal_returns(logs)
    versions = {**weights.versions, weights.version: weights.params}
    return experience_of(logs, trained.policy, versions, trained.settings, shares)
