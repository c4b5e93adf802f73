"""The MuJoCo engine: MuJoCo's own batch of worlds, on the threads of the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mujoco.batch import Batch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.sim.family import Tasks, WorldState
from metarl.sim.mujoco.physics import MujocoFamily, check_shape, mj, model_field
from metarl.sim.vector_env import TensorVectorEnv

WARNINGS = {
    int(value): name.removeprefix("mjWARN_")
    for name, value in mj.mjtWarning.__members__.items()
    if name != "mjNWARNING"
}


class MujocoVectorEnv(TensorVectorEnv):
    """W worlds of a `MujocoFamily`, in float64, bit-equal to MuJoCo's own steps; CPU.

    Worlds that diverge, or need more contacts than there is room for, which MuJoCo would start
    anew without a word, get a state that is not a number and so fail in `check`.

    Args:
        family: What the worlds are.
        num_envs: The number of worlds, W.
        threads: CPU threads that step them; 0 for as many as there are CPUs.
        **settings: As of `TensorVectorEnv`; `device` is where tensors are, not the physics.

    Raises:
        SettingsError: The model does not compile, or tasks change a field that it does not have.
    """

    family: MujocoFamily

    def __init__(
        self, family: MujocoFamily, num_envs: int, *, threads: int = 0, **settings: Any
    ) -> None:
        if not isinstance(family, MujocoFamily):
            raise SettingsError(
                f"Expected a MujocoFamily, got {type(family).__name__}: the mujoco engine needs a "
                "MuJoCo model, `model`, and a `frame_skip`."
            )
        if threads < 0:
            raise SettingsError(f"Expected at least 0 threads, got {threads}.")
        super().__init__(family, num_envs, **settings)
        self._batch = Batch(family.compiled, num_envs, threads)
        views = {n: self._batch.bind(n) for n in ("qpos", "qvel", "ctrl")}
        self._views = {n: torch.from_numpy(v) for n, v in views.items()}
        self._warnings = self._batch.warning[:, :, 1]  # a live view
        self._warned = self._warnings.copy()
        self._counted = self._batch.warning.tobytes()
        self._cause = ""
        fields = family.model_fields(self._tasks)
        self._fields = {n: _expand(self._batch, n, v) for n, v in fields.items()}
        self._write_fields(fields)

    @property
    def batch(self) -> Batch:
        """MuJoCo's batch, to look at (`get_model`, `get_data`); stepping it is the engine's."""
        return self._batch

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """See `TensorVectorEnv.start`."""
        marked = np.ones(self.num_envs, bool) if mask is None else mask.cpu().numpy()
        if not marked.any():
            return self._state
        if mask is None:
            self._cause = ""
        fresh = self.family.reset(self._tasks, noise)
        self._batch.reset(marked, stage=0)
        self._warned[marked] = 0
        self._counted = self._batch.warning.tobytes()
        chosen = torch.from_numpy(marked)
        for name, view in self._views.items():
            view[chosen] = fresh[name].cpu()[chosen].to(view.dtype)
        fresh = {n: fresh[n].to(v.dtype) for n, v in self._views.items()}
        return fresh if mask is None else self.merged(mask, fresh)

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """See `TensorVectorEnv.advance`."""
        self._views["ctrl"].copy_(self.family.controls(actions, self._tasks))
        self._batch.step(nstep=self.family.frame_skip)
        # Of few worlds' steps a hundredth each: a clone is quicker than `to`, bytes than `any`.
        if self.device.type == "cpu":
            state = {n: v.clone() for n, v in self._views.items()}
        else:
            state = {n: v.to(self.device) for n, v in self._views.items()}
        counted = self._batch.warning.tobytes()
        if counted != self._counted:
            self._counted = counted
            self._mark(state)
        return state

    def diagnosis(self) -> str:
        """See `TensorVectorEnv.diagnosis`: what MuJoCo warned of."""
        return self._cause

    def set_tasks(self, tasks: Tasks) -> None:
        """See `TensorVectorEnv.set_tasks`; fields of the model change at once."""
        super().set_tasks(tasks)
        if self._fields:
            self._write_fields(self.family.model_fields(self._tasks))

    def state_dict(self) -> dict[str, Any]:
        """See `TensorVectorEnv.state_dict`."""
        return {**super().state_dict(), "physics": torch.from_numpy(self._batch.state.copy())}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """See `TensorVectorEnv.load_state_dict`."""
        shape = self._batch.state.shape
        physics = values.get("physics")
        if physics is None or physics.shape != shape:
            found = "none" if physics is None else tuple(physics.shape)
            raise ShapeError(
                f"Expected a physics state of shape {shape}, got {found}; load what the same "
                "family's `state_dict` returned on this engine for as many worlds."
            )
        super().load_state_dict(values)
        self._batch.state[:] = physics.cpu().numpy()
        self._cause = ""

    # Parts

    def _write_fields(self, fields: Mapping[str, Tensor]) -> None:
        if not fields:
            return
        for name, value in fields.items():
            self._fields[name].copy_(value)
        self._batch.set_const()

    def _mark(self, state: WorldState) -> None:
        rose = self._warnings > self._warned
        self._warned[:] = self._warnings
        worlds = rose.any(1)
        if not worlds.any():
            return
        if not self._cause:
            world, kind = (int(i) for i in np.argwhere(rose)[0])
            self._cause = (
                f" MuJoCo warned of {WARNINGS[kind]} in world {world}: the simulation diverged or "
                "ran out of room; smaller steps of time or smaller actions may help."
            )
        chosen = torch.from_numpy(worlds).to(self.device)
        state["qpos"][chosen] = torch.nan
        state["qvel"][chosen] = torch.nan


def _expand(batch: Batch, name: str, value: Tensor) -> Tensor:
    """Gives each world its own values of a field of the model, and returns a live view of them."""
    model_field(batch.model, name)  # raises for unknown names
    view = torch.from_numpy(batch.expand(name))
    check_shape(name, value, view.shape)
    return view
