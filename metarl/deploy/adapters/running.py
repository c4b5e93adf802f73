"""Runs an adapter in a single gymnasium environment and records the curve."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from metarl.errors import SettingsError, SimulationError
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.sim.gymnasium.observations import ResultError, observation_of, step_result
from metarl.sim.gymnasium.rates import step_seconds, time_limit
from metarl.sim.spaces import action_reader

RATE_TOLERANCE = 0.01


@dataclass
class Curve:
    """The episodes of an adapter in an environment.

    Attributes:
        returns: Undiscounted return of each episode.
        lengths: Steps of each episode.
        versions: Number of the parameters at the end of each episode; 0 is the start.
        adapted_after: Episodes done when an adaptation took effect.
        reports: What the adaptations did.
        events: Roll-backs and the like.
        step_seconds: Time of a step in seconds; None if it is not known.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    adapted_after: list[int] = field(default_factory=list)
    reports: list[Any] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    step_seconds: float | None = None

    @property
    def environment_steps(self) -> int:
        """Environment steps of all episodes."""
        return sum(self.lengths)

    @property
    def seconds(self) -> float | None:
        """Time that they took on the robot, in seconds; None if the time of a step is not known."""
        return None if self.step_seconds is None else self.environment_steps * self.step_seconds


def run_episodes(
    adapter: Any,
    env: gymnasium.Env,
    episodes: int,
    adapt_every: int | None = None,
    *,
    explore: bool | None = None,
    steps: int = 1,
    seed: int | None = None,
    max_steps: int | None = None,
) -> Curve:
    """Acts in an environment for whole episodes and adapts in between.

    Args:
        adapter: The `ControlAdapter`.
        env: A single environment with the spaces of training; it is not closed.
        episodes: Episodes, at least 0.
        adapt_every: Adapts after so many episodes; 0: never. None: as many as an adaptation step
            had in training. They are counted from the last adaptation or roll-back, which forgets
            the episodes before it. A recurrent policy adapts while it acts.
        explore: See `ControlAdapter.act`.
        steps: Adaptation steps each time.
        seed: Seed of the first reset; None: none.
        max_steps: Ends an episode after so many steps; None: the environment's limit, or the
            horizon of training if it has none.

    Returns:
        The curve of these episodes.

    Raises:
        SettingsError: The environment has other spaces than those of training.
        SimulationError: It returned something that is not gymnasium's interface.
    """
    check_int("episodes", episodes, NOT_NEGATIVE)
    if max_steps is not None:
        check_int("max_steps", max_steps)
    if seed is not None:
        seed = check_int("seed", seed, NOT_NEGATIVE)
    check_environment(adapter, env)
    reader = action_reader(env.action_space)
    usual, adapt_every = adapt_every is None, _interval(adapter, episodes, adapt_every, explore)
    spec = getattr(env, "spec", None)  # None of an environment that is not registered
    own = getattr(spec, "max_episode_steps", None) or time_limit(env)
    limit = max_steps or own or adapter.family.horizon
    curve = Curve(step_seconds=step_seconds(env) or adapter.family.step_seconds)
    known, since = len(adapter.events), 0
    adapts = adapt_every > 0 and not adapter.learner.plays_trials
    for episode in range(episodes):
        version, first_seed = adapter.version, seed if episode == 0 else None
        try:
            total, length = _episode(adapter, env, reader, first_seed, limit, explore)
        except ResultError as error:
            raise SimulationError(f"The environment {env} does not fit. {error}") from error
        curve.returns.append(total)
        curve.lengths.append(length)
        since = since + 1 if adapter.version >= version else 0  # 0: it was rolled back
        if adapts and since == adapt_every:
            curve.reports.append(adapter.adapt(steps=steps))
            curve.adapted_after.append(episode + 1)
            since = 0
        curve.versions.append(adapter.version)
    curve.events = adapter.events[known:]
    if usual and adapts and episodes < adapt_every:
        warnings.warn(
            f"Nothing was adapted after {episodes} episodes, an adaptation step had {adapt_every} "
            "in training: choose `adapt_every`, or call `adapt()` for what was observed so far.",
            RuntimeWarning,
            stacklevel=3,
        )
    return curve


def _interval(adapter: Any, episodes: int, adapt_every: int | None, explore: bool | None) -> int:
    """Returns after how many episodes to adapt, 0 for never; see `run_episodes`.

    Raises:
        SettingsError: It is below 0, or there would be no sampled actions to adapt on.
    """
    if adapt_every is None:
        settings = getattr(adapter.learner, "settings", None)
        adapt_every = int(getattr(settings, "trajectories", 0) or 0)
    adapt_every = check_int("adapt_every", adapt_every, NOT_NEGATIVE)
    samples = adapter.explore if explore is None else explore
    if 0 < adapt_every <= episodes and not (samples or adapter.learner.plays_trials):
        raise SettingsError(
            "Expected explore=True to adapt after episodes: a policy gradient learns nothing from "
            "most likely actions. Or take adapt_every=0."
        )
    return adapt_every


def evaluate(
    adapter: Any,
    env: gymnasium.Env,
    episodes: int,
    *,
    explore: bool | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
) -> np.ndarray:
    """Returns the returns of episodes from which nothing is adapted, [episodes].

    What was observed before stays for the next adaptation, and an episode that was not over yet is
    a part of one. A recurrent policy keeps what it remembers from one episode to the next.

    Args:
        adapter: See `run_episodes`.
        env: See `run_episodes`.
        episodes: See `run_episodes`.
        explore: See `run_episodes`.
        seed: See `run_episodes`.
        max_steps: See `run_episodes`.
    """
    options: dict[str, Any] = {"explore": explore, "seed": seed, "max_steps": max_steps}
    earlier, version = adapter.discard(), adapter.version
    try:
        curve = run_episodes(adapter, env, episodes, 0, **options)
    finally:  # also if the environment fails in between
        adapter.discard()
        if adapter.version >= version:  # else a roll-back has given up who acted earlier
            adapter.take_back(earlier)
    return np.asarray(curve.returns)


def check_environment(adapter: Any, env: gymnasium.Env) -> None:
    """Checks that an environment suits an adapter; warns if its rate is another one.

    Raises:
        SettingsError: It is a vector environment, or has other spaces than those of training.
    """
    if not hasattr(env, "action_space") or hasattr(env, "num_envs") or isinstance(env, type):
        found = f"the class {env.__name__}" if isinstance(env, type) else type(env).__name__
        raise SettingsError(
            f"Expected a single environment, such as gymnasium.make gives, got {found}."
        )
    adapter.spaces.check(env.observation_space, env.action_space)
    trained, found = adapter.family.step_seconds, step_seconds(env)
    if trained and found and abs(found - trained) > RATE_TOLERANCE * trained:
        warnings.warn(
            f"The environment makes {1 / found:.4g} steps per second, training made "
            f"{1 / trained:.4g}: the policy acts at another rate.",
            RuntimeWarning,
            stacklevel=3,
        )


def _episode(
    adapter: Any,
    env: gymnasium.Env,
    reader: Any,
    seed: int | None,
    limit: int,
    explore: bool | None,
) -> tuple[float, int]:
    """Plays an episode; returns its return and its length."""
    adapter.abandon()  # the rest of one in which the environment failed, or Ctrl-C ended the run
    observation = observation_of(env.reset(seed=seed))
    total, ended, step = 0.0, False, 0
    while not ended:
        adapter.act(observation, explore)
        action = reader(adapter.given)
        observation, reward, terminated, truncated, _ = step_result(env.step(action))
        step += 1
        truncated = bool(truncated) or step >= limit
        adapter.observe(observation, None, float(reward), bool(terminated), truncated)
        total += float(reward)
        ended = bool(terminated) or truncated
    return total, step
