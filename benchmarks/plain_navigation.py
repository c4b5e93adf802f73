"""2D navigation as a plain gymnasium environment with numpy, as a user would write it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class PlainNavigation2D(gymnasium.Env):
    """`Navigation2D-v1` as a single environment, for gymnasium's vector environments.

    Args:
        goal: The goal (x, y), [2]; None samples one.
        horizon: Steps per episode.
    """

    def __init__(self, goal: np.ndarray | None = None, horizon: int = 100) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.horizon = horizon
        self.goal = np.random.default_rng(0).uniform(-0.5, 0.5, 2) if goal is None else goal
        self._state = np.zeros(2, np.float32)
        self._elapsed = 0

    def set_task(self, goal: np.ndarray) -> None:
        """Sets the goal (x, y), [2]; vector environments call it with `SyncVectorEnv.call`."""
        self.goal = goal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode at the origin."""
        super().reset(seed=seed)
        self._state = np.zeros(2, np.float32)
        self._elapsed = 0
        return self._state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves by s' = s + 0.1 clip(a); the reward is -||s' - g||_2."""
        self._state = self._state + 0.1 * np.clip(action, -1.0, 1.0)
        self._elapsed += 1
        x, y = self._state - self.goal
        reward = -((x**2 + y**2) ** 0.5)
        terminated = bool(abs(x) < 0.01 and abs(y) < 0.01)
        return self._state.copy(), float(reward), terminated, self._elapsed >= self.horizon, {}
