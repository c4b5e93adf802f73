"""The Warp engine: MuJoCo Warp's worlds, on an NVIDIA GPU or, to test it, on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import SettingsError, ShapeError
from metarl.extras import import_extra
from metarl.sim.family import Tasks, WorldState
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.vector_env import TensorVectorEnv

PARTS = ("qpos", "qvel", "ctrl")
PATIENCE = 5.0  # seconds, before a user is told why nothing happens


class WarpVectorEnv(TensorVectorEnv):
    """W worlds of a `MujocoFamily` in float32; the host waits for nothing but what is copied to it.

    The physics are C MuJoCo's up to rounding, but where MuJoCo Warp does otherwise: contacts of
    capsules that stand on a plane have another frame, which pyramidal friction cones feel, and the
    Newton solver takes the place of PGS. Worlds that diverge or run out of room for contacts get a
    state that is not a number and so fail in `check`.

    Needs the extra `metarl[warp]`. The first environment of a model compiles for up to minutes;
    later ones, in other processes too, find that in Warp's cache.

    Args:
        family: What the worlds are.
        num_envs: The number of worlds, W.
        physics_device: Where the physics are; None for `device`. Where the two differ, states and
            controls are copied.
        nconmax: Contacts that there is room for, times W for all worlds together.
        njmax: Rows of constraints that each world has room for: a contact with friction takes 4
            of a pyramidal cone, a joint at its limit 1. A humanoid that random actions threw
            about had up to 14 contacts and 41 rows, the other robots that ship fewer.
        deterministic: Makes CUDA give the same bits in every run, at some cost; the CPU does so.
        **settings: As of `TensorVectorEnv`; `device` is where tensors are.

    Raises:
        SettingsError: Warp is not installed or cannot run the model, tasks change a field that it
            has once for all worlds, or a setting is out of range.
    """

    family: MujocoFamily

    def __init__(
        self,
        family: MujocoFamily,
        num_envs: int,
        *,
        physics_device: torch.device | str | None = None,
        nconmax: int = 32,
        njmax: int = 64,
        deterministic: bool = False,
        **settings: Any,
    ) -> None:
        if not isinstance(family, MujocoFamily):
            raise SettingsError(
                f"Expected a MujocoFamily, got {type(family).__name__}: the warp engine needs a "
                "MuJoCo model, `model`, and a `frame_skip`."
            )
        if min(nconmax, njmax) < 1:
            raise SettingsError(
                f"Expected nconmax and njmax of at least 1, got {nconmax} and {njmax}."
            )
        warp = import_extra("metarl.sim.warp.physics", "warp")
        super().__init__(family, num_envs, **settings)
        fields = family.model_fields(self._tasks)
        where = self.device if physics_device is None else resolve_device(str(physics_device))
        with _patience(f"MuJoCo Warp prepares {family.name}; the first time, it compiles it."):
            self._physics = warp.WarpPhysics(
                family.compiled, num_envs, family.frame_skip, where, tuple(fields),
                nconmax=nconmax, njmax=njmax, deterministic=deterministic,
            )  # fmt: skip
            self._write_fields(fields)
        model = family.compiled
        self._sizes = [model.nq, model.nv, model.nu]

    @property
    def physics(self) -> Any:
        """The `WarpPhysics`, to look at (`constant`, `fields`); stepping it is the engine's."""
        return self._physics

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """See `TensorVectorEnv.start`."""
        physics = self._physics
        fresh = self.family.reset(self._tasks, noise)
        physics.fresh.copy_(torch.cat([fresh[part] for part in PARTS], 1))
        if mask is None:
            physics.mask.fill_(True)
            physics.seen.zero_()
        else:
            physics.mask.copy_(mask)
        physics.reset()
        return self._read()

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """See `TensorVectorEnv.advance`."""
        self._physics.ctrl.copy_(self.family.controls(actions, self._tasks))
        self._physics.step()
        return self._read()

    def diagnosis(self) -> str:
        """See `TensorVectorEnv.diagnosis`: what MuJoCo Warp ran into."""
        return self._physics.diagnosis()

    def set_tasks(self, tasks: Tasks) -> None:
        """See `TensorVectorEnv.set_tasks`; fields of the model change at once."""
        super().set_tasks(tasks)
        self._write_fields(self.family.model_fields(self._tasks))

    def state_dict(self) -> dict[str, Any]:
        """See `TensorVectorEnv.state_dict`."""
        warned = self._physics.warned.clone()
        return {**super().state_dict(), "physics": self._physics.save(), "warned": warned}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """See `TensorVectorEnv.load_state_dict`; to the bit on the device that saved it.

        On CUDA only with `deterministic`.
        """
        physics, expected = values.get("physics"), self._physics.saved_shape
        if physics is None or physics.shape != expected or "warned" not in values:
            found = "none" if physics is None else tuple(physics.shape)
            raise ShapeError(
                f"Expected a physics state of shape {expected}, got {found}; load what the same "
                "family's `state_dict` returned on this engine for as many worlds."
            )
        super().load_state_dict(values)
        self._physics.load(physics)
        self._physics.warned.copy_(values["warned"])
        self._physics.seen.copy_(values["warned"])

    # Parts

    def _read(self) -> WorldState:
        state = self._physics.state.to(self.device, copy=True)
        return dict(zip(PARTS, state.split(self._sizes, 1), strict=True))

    def _write_fields(self, fields: Mapping[str, Tensor]) -> None:
        if fields:
            self._physics.update(fields)


def runs_on(device: torch.device) -> bool:
    """Tells whether the extra is installed and Warp finds the device of torch."""
    if any(find_spec(name) is None for name in ("warp", "mujoco_warp")):
        return False
    try:
        import_extra("metarl.sim.warp.physics", "warp").warp_device(device)
    except SettingsError:
        return False
    return True


@contextmanager
def _patience(text: str) -> Iterator[None]:
    """Prints a notice to stderr if what is inside takes long."""
    timer = threading.Timer(PATIENCE, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
