"""The MuJoCo engine: runs worlds with `mujoco.batch.Batch` on CPU threads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from mujoco.batch import Batch
from mujoco.batch import SimulationError as BatchError
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.ranges import MOST_THREADS, Range, check_int
from metarl.sim.arguments import copy_error
from metarl.sim.family import Tasks, WorldState
from metarl.sim.mujoco.derived import derived_elements
from metarl.sim.mujoco.physics import (
    START_FIELDS,
    MujocoFamily,
    mj,
)
from metarl.sim.results import world_rows
from metarl.sim.vector_env import TensorVectorEnv

STATE_FIELDS = ("qpos", "qvel", "ctrl")
MOCAP_FIELDS = ("mocap_pos", "mocap_quat")
NEED_DATA = int(mj.mjtEnableBit.mjENBL_SLEEP) | int(mj.mjtEnableBit.mjENBL_IPC)
"""Flags of models whose steps depend on more than the state, in a batch that keeps its data."""
WARNINGS = {
    int(value): name.removeprefix("mjWARN_")
    for name, value in mj.mjtWarning.__members__.items()
    if name != "mjNWARNING"
}


class MujocoVectorEnv(TensorVectorEnv):
    """W worlds of a `MujocoFamily` in float64 on the CPU, bit-equal to `mujoco.mj_step`.

    MuJoCo silently resets worlds that diverge or exceed the contact memory. Here their state is set
    to NaN, so that `check` raises an error. Bodies that sleep are awake in a state that was loaded,
    so such a model continues up to about 1e-4.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        threads: The number of CPU threads; 0 uses one per CPU.
        **settings: See the arguments of `TensorVectorEnv`; `device` is the device of the tensors,
            not of the physics.

    Raises:
        SettingsError: The model does not compile, or tasks change a field that it does not have.
        SimulationError: MuJoCo cannot simulate the model, as without enough memory.
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
        check_int("threads", threads, Range(0, MOST_THREADS))
        super().__init__(family, num_envs, **settings)
        self._derived = derived_elements(family.compiled, family.derived)
        # A batch that keeps its data continues a step from the derived fields at no extra cost.
        keeps = bool(self._derived) or bool(family.compiled.opt.enableflags & NEED_DATA)
        self._batch = Batch(family.compiled, num_envs, threads, persistent=keeps)
        self._stage = mj.mjtStage.mjSTAGE_VEL if self._derived else mj.mjtStage.mjSTAGE_NONE
        self._moves_mocap = bool(family.compiled.nmocap)
        names = STATE_FIELDS + (MOCAP_FIELDS if self._moves_mocap else ())
        views = {n: self._batch.bind(n) for n in names}
        self._views = {n: torch.from_numpy(v) for n, v in views.items()}
        bound = {n: self._batch.bind(n) for n in START_FIELDS if n != "act" or family.compiled.na}
        self._start_views = {n: torch.from_numpy(v) for n, v in bound.items()}
        self._fields_of_bodies = {n: self._batch.bind(f) for n, (f, _) in self._derived.items()}
        self._warnings = self._batch.warning[:, :, 1]  # a live view
        self._reported_warnings = self._warnings.copy()
        self._warning_bytes = self._batch.warning.tobytes()
        self._first_warning = ""
        fields = family.checked_fields(self._tasks, num_envs)
        self._fields = {n: torch.from_numpy(self._batch.expand(n)) for n in fields}
        self._write_fields(fields)

    @property
    def batch(self) -> Batch:
        """MuJoCo's batch, for inspection (`get_model`, `get_data`). Do not step it."""
        return self._batch

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        started = np.ones(self.num_envs, bool) if mask is None else mask.cpu().numpy()
        if not started.any():
            return self._state
        if mask is None:
            self._first_warning = ""
        fresh = self.family.reset(self._tasks, noise)
        with self._errors_of_mujoco():
            self._batch.reset(started, stage=0)
        self._reported_warnings[started] = 0
        self._warning_bytes = self._batch.warning.tobytes()
        worlds = torch.from_numpy(started)
        further = {n: view for n, view in self._start_views.items() if n in fresh}
        for name, view in {**self._views, **further}.items():
            value = world_rows(f"`reset`, of {name!r},", fresh[name], view.shape)
            view[worlds] = value.cpu()[worlds].to(view.dtype)
        fresh = {n: fresh[n].to(v.dtype) for n, v in self._views.items()}
        if self._derived:
            with self._errors_of_mujoco():
                self._batch.forward(started, stage=self._stage)
            fresh |= self._read_derived()
        fresh |= self.family.remember(None, fresh, self._tasks)
        return fresh if mask is None else self.merged(mask, fresh)

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        family, before, controls = self.family, self._state, self._views["ctrl"]
        given = family.controls(actions, self._tasks)
        controls.copy_(world_rows("`controls`", given, controls.shape))
        if self._moves_mocap:
            for name, pose in family.mocap(before, actions, self._tasks).items():
                view = self._views[name]
                view.copy_(world_rows(f"`mocap`, of {name!r},", pose, view.shape))
        with self._errors_of_mujoco():
            self._batch.step(nstep=family.frame_skip, stage=self._stage)
        # `clone` is faster than `to`, and comparing bytes is faster than `any`: with few worlds
        # each of the two saves about 1% of a step.
        if self.device.type == "cpu":
            state = {n: v.clone() for n, v in self._views.items()}
        else:
            state = {n: v.to(self.device) for n, v in self._views.items()}
        if self._derived:
            state |= self._read_derived()
        warning_bytes = self._batch.warning.tobytes()
        if warning_bytes != self._warning_bytes:
            self._warning_bytes = warning_bytes
            self._invalidate_warned_worlds(state)
        return {**state, **family.remember(before, state, self._tasks)}

    def diagnosis(self) -> str:
        """Returns MuJoCo's first warning as a sentence, or ""."""
        return self._first_warning

    def set_tasks(self, tasks: Tasks) -> None:
        super().set_tasks(tasks)
        self._write_fields(self.family.checked_fields(self._tasks, self.num_envs, self._fields))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "physics": torch.from_numpy(self._batch.state.copy())}

    def load_state_dict(self, values: dict[str, Any]) -> None:
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
        self._first_warning = ""

    def __getstate__(self) -> NoReturn:
        """Refuses to be copied or pickled; see `copy_error`."""
        raise copy_error(self)

    # Helpers

    def _read_derived(self) -> WorldState:
        """Returns copies of the derived entries, [W, K, *]."""
        arrays = {n: self._fields_of_bodies[n][:, index] for n, (_, index) in self._derived.items()}
        return {n: torch.from_numpy(v).to(self.device) for n, v in arrays.items()}

    def _write_fields(self, fields: Mapping[str, Tensor]) -> None:
        if not fields:
            return
        for name, value in fields.items():
            self._fields[name].copy_(value)
        with self._errors_of_mujoco():
            self._batch.set_const()

    @contextmanager
    def _errors_of_mujoco(self) -> Iterator[None]:
        """Raises SimulationError for an error of MuJoCo, with the name of the body that it has."""
        try:
            yield
        except BatchError as error:
            world, body = int(error.ids[0]), re.search(r"body (\d+)", str(error))
            name = f" The body is {self.family.compiled.body(int(body[1])).name!r}." if body else ""
            reason = " ".join(self._batch.error(world).split())
            raise SimulationError(
                f"MuJoCo cannot simulate world {world} of {self.family.name}: {reason}.{name} "
                "Change the MJCF as it says."
            ) from error

    def _invalidate_warned_worlds(self, state: WorldState) -> None:
        """Sets the state of worlds with new warnings to NaN."""
        is_new = self._warnings > self._reported_warnings
        self._reported_warnings[:] = self._warnings
        has_new = is_new.any(1)
        if not has_new.any():
            return
        if not self._first_warning:
            world, kind = (int(i) for i in np.argwhere(is_new)[0])
            self._first_warning = (
                f" MuJoCo warned of {WARNINGS[kind]} in world {world}: the simulation diverged or "
                "ran out of room; smaller steps of time or smaller actions may help."
            )
        worlds = torch.from_numpy(has_new).to(self.device)
        for name in ("qpos", "qvel", *self._derived):
            state[name][worlds] = torch.nan
