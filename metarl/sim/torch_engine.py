"""The torch engine: runs families whose dynamics are tensor functions, on CPU or GPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.family import TorchFamily, WorldState
from metarl.sim.vector_env import TensorVectorEnv


class TorchVectorEnv(TensorVectorEnv):
    """W worlds of a `TorchFamily`. See `TensorVectorEnv`.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        **settings: See the arguments of `TensorVectorEnv`.

    Raises:
        SettingsError: The family is not a `TorchFamily`, or a setting is invalid.
    """

    family: TorchFamily

    def __init__(self, family: TorchFamily, num_envs: int, **settings: Any) -> None:
        if not isinstance(family, TorchFamily):
            raise SettingsError(
                f"Expected a TorchFamily, got {type(family).__name__}: the torch engine needs "
                "dynamics as a tensor function, `step`."
            )
        super().__init__(family, num_envs, **settings)

    @property
    def suspicion(self) -> Tensor | None:
        """Whether a value of the last captured episodes may be invalid; see `StepValidator`."""
        return self._validator.suspicion

    def clear_checks(self) -> None:
        """Discards what was not checked yet: `suspicion` is that of what follows."""
        self._validator.clear()

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        fresh = self.family.reset(self._tasks, noise)
        return fresh if mask is None else self.merged(mask, fresh)

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        untouched = self._first_calls.of(self._state)
        after = self.family.step(self._state, actions, self._tasks, noise)
        untouched.check("`step`")
        return after
