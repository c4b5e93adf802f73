"""The Warp engine: runs worlds with MuJoCo Warp on an NVIDIA GPU, or on the CPU for tests."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NoReturn

import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import SettingsError, ShapeError
from metarl.extras import import_extra
from metarl.ranges import check_int
from metarl.sim.arguments import copy_error
from metarl.sim.family import Tasks, WorldState
from metarl.sim.mujoco.derived import derived_elements
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.physics_env import PhysicsVectorEnv
from metarl.sim.results import world_rows

STATE_FIELDS = ("qpos", "qvel", "ctrl")
NOTICE_DELAY = 5.0  # seconds after which a notice about the compilation is printed


class WarpVectorEnv(PhysicsVectorEnv):
    """W worlds of a `MujocoFamily` in float32. The host waits only for copies to the CPU.

    The physics equal C MuJoCo's up to rounding, with two exceptions: contacts of capsules that
    stand on a plane have a different frame, which affects pyramidal friction cones, and the Newton
    solver replaces PGS. The state of worlds that diverge or exceed the contact memory is set to
    NaN, so that `check` raises an error.

    Needs the extra `metarl[warp]`. The first environment of a model compiles for up to minutes;
    later ones, also in other processes, use Warp's cache.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        physics_device: The device of the physics; None for `device`. If the two differ, states and
            controls are copied between them.
        nconmax: The maximum number of contacts per world; the memory for W times as many is shared
            by all worlds.
        njmax: The maximum number of constraint rows per world. A contact with a pyramidal friction
            cone takes 4 rows, a joint at its limit 1. Under random actions the humanoid had at most
            14 contacts and 41 rows, and the other robots of MetaRL fewer.
        deterministic: Makes results on CUDA the same bit for bit in every run, at some cost; those
            on the CPU always are. None: if `torch.use_deterministic_algorithms` is on.
        **settings: See the arguments of `TensorVectorEnv`; `device` is the device of the tensors.

    Raises:
        SettingsError: Warp is not installed or cannot run the model, tasks change a field that Warp
            does not batch over worlds, or a setting is out of range.
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
        deterministic: bool | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(family, MujocoFamily):
            raise SettingsError(
                f"Expected a MujocoFamily, got {type(family).__name__}: the warp engine needs a "
                "MuJoCo model, `model`, and a `frame_skip`."
            )
        check_int("nconmax", nconmax)
        check_int("njmax", njmax)
        if deterministic is None:
            deterministic = torch.are_deterministic_algorithms_enabled()
        warp = import_extra("metarl.sim.warp.physics", "warp")
        super().__init__(family, num_envs, **settings)
        fields = family.checked_fields(self._tasks, num_envs)
        device = self.device if physics_device is None else resolve_device(physics_device)
        with _notify_if_slow(
            f"MuJoCo Warp prepares {family.name}; the first time, it compiles it."
        ):
            self._physics = warp.WarpPhysics(
                family.compiled, num_envs, family.frame_skip, device, tuple(fields),
                nconmax=nconmax, njmax=njmax, deterministic=deterministic,
                derived=derived_elements(family.compiled, family.derived),
            )  # fmt: skip
            self._write_fields(fields)
        physics = self._physics
        self.engine = {"ctrl": physics.ctrl, "state": physics.state, **physics.mocap}
        model = family.compiled
        self._sizes = [model.nq, model.nv, model.nu]

    @property
    def physics(self) -> Any:
        """The `WarpPhysics`, for inspection (`constant`, `fields`). Do not step it."""
        return self._physics

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        physics = self._physics
        fresh = self.family.reset(self._tasks, noise)
        rows = [
            world_rows(f"`reset`, of {name!r},", fresh[name], (self.num_envs, size))
            for name, size in zip(STATE_FIELDS, self._sizes, strict=True)
        ]
        physics.fresh.copy_(torch.cat(rows, 1))
        if mask is None:
            physics.mask.fill_(True)
            physics.seen.zero_()
        else:
            physics.mask.copy_(mask)
        physics.reset()
        self._write_start(fresh, mask)
        physics.place()
        state = self._read()
        started = {**state, **self.family.remember(None, state, self._tasks)}
        return started if mask is None else self.merged(mask, started)

    def send(self, actions: Tensor) -> None:
        family, controls = self.family, self.engine["ctrl"]
        given = family.controls(actions, self._tasks)
        controls.copy_(world_rows("`controls`", given, controls.shape))
        if self._physics.mocap:
            for name, pose in family.mocap(self._state, actions, self._tasks).items():
                view = self.engine[name]
                view.copy_(world_rows(f"`mocap`, of {name!r},", pose, view.shape))

    def run(self) -> None:
        self._physics.step()

    def receive(self, before: WorldState) -> WorldState:
        state = self._read()
        return {**state, **self.family.remember(before, state, self._tasks)}

    def diagnosis(self) -> str:
        """Returns the errors of MuJoCo Warp as sentences, or ""; synchronises with the device."""
        return self._physics.diagnosis()

    def set_tasks(self, tasks: Tasks) -> None:
        super().set_tasks(tasks)
        names = self._physics.fields
        self._write_fields(self.family.checked_fields(self._tasks, self.num_envs, names))

    def state_dict(self) -> dict[str, Any]:
        warned = self._physics.warned.clone()
        return {**super().state_dict(), "physics": self._physics.save(), "warned": warned}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Episodes continue bit for bit on the device that saved the state; on CUDA only with
        `deterministic`. Those of a model with equality constraints continue up to rounding (an arm
        pulled by a mocap body: 1.5e-4 after a step).

        Raises:
            ShapeError: The values are from another family, engine or number of worlds.
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

    def __getstate__(self) -> NoReturn:
        """Refuses to be copied or pickled; see `copy_error`."""
        raise copy_error(self)

    # Helpers

    def _read(self) -> WorldState:
        physics, engine = self._physics, self.engine
        numbers = engine["state"].to(self.device, copy=True)
        state = dict(zip(STATE_FIELDS, numbers.split(self._sizes, 1), strict=True))
        state |= {n: engine[n].to(self.device, copy=True) for n in physics.mocap}
        return state | {n: v.to(self.device) for n, v in physics.derive().items()}

    def _write_start(self, fresh: WorldState, mask: Tensor | None) -> None:
        """Writes mocap poses, activations and the warm start of worlds of a mask, [W] bool."""
        further = {n: t for n, t in self._physics.start_fields.items() if n in fresh}
        targets = {**self._physics.mocap, **further}
        for name, target in targets.items():
            values = fresh[name].to(target)
            if mask is not None:
                chosen = mask.to(target.device).view(-1, *[1] * (target.dim() - 1))
                values = torch.where(chosen, values, target)
            target.copy_(values)

    def _write_fields(self, fields: Mapping[str, Tensor]) -> None:
        if fields:
            self._physics.update(fields)


def runs_on(device: torch.device) -> bool:
    """Returns whether the extra is installed and Warp can use the torch device."""
    if any(find_spec(name) is None for name in ("warp", "mujoco_warp")):
        return False
    try:
        import_extra("metarl.sim.warp.physics", "warp").warp_device(device)
    except SettingsError:
        return False
    return True


@contextmanager
def _notify_if_slow(text: str) -> Iterator[None]:
    """Prints a notice to stderr if the block takes longer than `NOTICE_DELAY`."""
    timer = threading.Timer(NOTICE_DELAY, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
