"""Vector environments of NumPy arrays, for wrappers and libraries that take no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper
from torch import Tensor

from metarl.sim.vector_env import TensorVectorEnv


class NumpyVectorEnv(VectorWrapper):
    """A vector environment with NumPy arrays in place of tensors.

    Gymnasium's own vector wrappers compute with NumPy; around this one, they work as around any of
    gymnasium's vector environments. Several of them refuse autoreset "same_step"; use "next_step".

    Args:
        env: The worlds; on a GPU, every step copies its results to the CPU.
    """

    env: TensorVectorEnv

    def __init__(self, env: TensorVectorEnv) -> None:
        super().__init__(env)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes; see `TensorVectorEnv.reset`. The observations are [W, O] float32."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _array(observation), _arrays(info)

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every world once; see `TensorVectorEnv.step`.

        Args:
            actions: [W, A] float32 or [W] int64.

        Returns:
            Observations [W, O] float32, rewards [W] float32, terminated and truncated [W] bool, and
            the info with arrays.
        """
        *values, info = self.env.step(actions)
        observation, reward, terminated, truncated = map(_array, values)
        return observation, reward, terminated, truncated, _arrays(info)


def _array(value: Tensor) -> np.ndarray:
    """Returns a copy: wrappers change arrays in place."""
    return value.detach().cpu().numpy().copy()


def _arrays(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an info with arrays, also in the dicts inside of it."""
    return {name: _as_arrays(value) for name, value in info.items()}


def _as_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _arrays(value)
    return _array(value) if isinstance(value, Tensor) else value
