"""Families with MuJoCo dynamics: a model, and tensor functions over its state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar
from zlib import crc32

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from mujoco.batch import MODEL_FIELDS
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.ranges import user_path
from metarl.registry import check_choice, did_you_mean
from metarl.sim.family import TaskFamily, Tasks, WorldState
from metarl.sim.mujoco.derived import Derived, derived_elements, derived_values, mocap_poses
from metarl.sim.results import world_rows

mj: Any = mujoco  # type checkers cannot see the contents of its compiled modules

INTEGRATORS = ("Euler", "RK4", "implicit", "implicitfast")
START_FIELDS = ("act", "qacc_warmstart")
"""What `reset` may set besides the entries of a state."""


class MujocoFamily(TaskFamily):
    """A family whose dynamics are those of a MuJoCo model.

    A `WorldState` holds generalised positions "qpos" [W, nq], velocities "qvel" [W, nv] and the
    controls of the last step, "ctrl" [W, nu], in float64 or float32 depending on the engine. If the
    model has M mocap bodies, it also holds their poses during the last step, "mocap_pos" [W, M, 3]
    and "mocap_quat" [W, M, 4]. It does not hold contact forces, since engines update them at
    different times.

    Attributes:
        model: Path of an MJCF file, or its text, which starts with "<".
        frame_skip: The number of MuJoCo steps per environment step, at least 1.
        integrator: "xml" for the model's own integrator, or "Euler", "RK4", "implicit" or
            "implicitfast". Another integrator defines another MDP; the card names it.
        derived: Poses of bodies, sites or geoms that the engines add to the state, computed from
            its positions: name of the entry -> field of MuJoCo's data ("xpos", "xquat", "xmat",
            "xipos", "site_xpos", "site_xmat", "geom_xpos", "geom_xmat") and names of K elements.
            {"fingers": ("site_xpos", ("left", "right"))} gives state["fingers"], [W, 2, 3].
    """

    engine: ClassVar[str] = "mujoco"
    derived: Derived = MappingProxyType({})
    model: str
    frame_skip: int
    integrator: str = "xml"

    @property
    def compiled(self) -> Any:
        """The compiled `mujoco.MjModel`. It is shared between families: do not modify it.

        Raises:
            SettingsError: The file does not exist or compile, or a setting is invalid.
        """
        if self.frame_skip < 1:
            raise SettingsError(
                f"Expected a frame_skip of at least 1, got {self.frame_skip} of {self.name}."
            )
        return compile_model(self.model, self.integrator)

    @cached_property
    def dt(self) -> float:
        """The simulated time of one environment step in seconds."""
        return self.frame_skip * self.compiled.opt.timestep

    @property
    def step_seconds(self) -> float:
        return self.dt

    @property
    def world_settings(self) -> dict[str, Any]:
        """Adds the model, whose checksum covers its options, and the frame skip."""
        model = self.compiled
        data = np.empty(mj.mj_sizeModel(model), np.uint8)
        mj.mj_saveModel(model, None, data)
        own = {"checksum of the model": crc32(data.tobytes()), "frame_skip": self.frame_skip}
        return {**super().world_settings, **own}

    @property
    def action_space(self) -> spaces.Box:
        """The control range of each actuator, [nu] float32; infinite if the model has no limit."""
        low, high = (limit.numpy() for limit in self._limits(torch.device("cpu")))
        return spaces.Box(low, high, dtype=np.float32)

    def default(self, field: str, like: Tensor) -> Tensor:
        """Returns a copy of a field of the compiled model.

        Args:
            field: MuJoCo's name of the field, such as "body_mass", "qpos0" or "opt.gravity".
            like: A floating-point tensor; the result has its dtype and device.

        Raises:
            SettingsError: Models have no field of this name.
        """
        return _compiled_field(self.model, self.integrator, field, like.dtype, like.device).clone()

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """Returns the model fields that differ between tasks, [W, *shape in the model] each.

        By default no field differs. The names are MuJoCo's ("body_mass", "opt.gravity") and must be
        the same for all tasks. The engine recomputes the constants that depend on the fields. A
        change of "body_mass" needs a matching change of "body_inertia".

        Args:
            tasks: The task of each world.
        """
        return {}

    def checked_fields(self, tasks: Tasks, worlds: int, names: Any = None) -> dict[str, Tensor]:
        """Returns what `model_fields` returns, for engines.

        Args:
            tasks: The task of each world.
            worlds: The number of worlds, W.
            names: The names of the fields of earlier tasks; None if there were none.

        Raises:
            SettingsError: Models have no field of a name, or the names are others than before.
            ShapeError: It is no dict of tensors [W, *shape in the model].
        """
        fields: Any = self.model_fields(tasks)
        if not isinstance(fields, dict):
            raise ShapeError(
                "Expected `model_fields` of the family to return a dict of fields of the model, "
                f"{{}} for none, got {short_repr(fields)}."
            )
        for name, value in fields.items():
            shape = model_field(self.compiled, name).shape
            world_rows(f"`model_fields`, of {name!r},", value, (worlds, *shape))
        if names is not None and fields.keys() != set(names):
            raise SettingsError(
                f"Expected `model_fields` of {self.name} to return the same fields for all tasks, "
                f"got {sorted(fields)} after {sorted(names)}: return `self.default(...)` where a "
                "task changes nothing."
            )
        return fields

    def controls(self, actions: Tensor, tasks: Tasks) -> Tensor:
        """Returns the actuator controls, [W, nu]: the actions, clipped to the action space."""
        low, high = self._limits(actions.device)
        return actions.clamp(low, high)

    def mocap(self, state: WorldState, actions: Tensor, tasks: Tasks) -> WorldState:
        """Returns the poses of the mocap bodies during the next step: by default as they are.

        Args:
            state: The state before the step.
            actions: The actions, not clipped, [W, A] float32.
            tasks: The task of each world.

        Returns:
            "mocap_pos" [W, M, 3] and "mocap_quat" [W, M, 4].
        """
        return {name: state[name] for name in ("mocap_pos", "mocap_quat")}

    def remember(self, before: WorldState | None, after: WorldState, tasks: Tasks) -> WorldState:
        """Returns further entries of the state after a step, such as an earlier observation.

        By default there are none.

        Args:
            before: The state before the step, with these entries; None at a reset.
            after: The state after the step or the reset, with the derived entries.
            tasks: The task of each world.
        """
        return {}

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the float64 positions and velocities of `initial`, and zero controls.

        Mocap bodies have the poses of the model. A method that overrides this may add "act", the
        activations of actuators [W, na], and "qacc_warmstart", the accelerations [W, nv] from which
        the constraint solver starts; without them they are 0. The engine adds the derived entries
        and those of `remember`.
        """
        worlds, model = len(noise), self.compiled
        qpos, qvel = self.initial(noise.double(), tasks)
        qpos = world_rows("the positions of `initial`", qpos, (worlds, model.nq))
        qvel = world_rows("the velocities of `initial`", qvel, (worlds, model.nv))
        state = {"qpos": qpos, "qvel": qvel, "ctrl": qvel.new_zeros(worlds, model.nu)}
        return {**state, **mocap_poses(model, worlds, qpos.device)}

    def completed(self, state: WorldState, tasks: Tasks) -> WorldState:
        """Returns the state of `reset` with the entries that engines add.

        It computes one world after another, for checks.

        Args:
            state: What `reset` returned.
            tasks: The task of each world.
        """
        state = {name: value for name, value in state.items() if name not in START_FIELDS}
        elements = derived_elements(self.compiled, self.derived)
        state |= derived_values(self.compiled, elements, state)
        return {**state, **self.remember(None, state, tasks)}

    @abstractmethod
    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns the initial positions [W, nq] and velocities [W, nv] of episodes.

        Args:
            noise: Uniform numbers in [0, 1), [W, reset_noise] float64.
            tasks: The task of each world.
        """

    def _limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return control_limits(self.model, self.integrator, device)


@lru_cache(maxsize=64)
def compile_model(model: str, integrator: str = "xml") -> Any:
    """Compiles an MJCF file or text to an `MjModel`, which is cached: do not modify it.

    Raises:
        SettingsError: The model is no text, the file does not exist or compile, or the integrator
            is unknown.
    """
    check_choice("integrator", integrator, ("xml", *INTEGRATORS))
    model = _as_text(model)
    is_text = model.lstrip().startswith("<")
    if not is_text and not Path(model).is_file():
        raise SettingsError(
            f"Expected the path of an MJCF file or its text, found no file {short_repr(model)}."
        )
    if not is_text:
        _read_files[model] = _file_states(model)
    load = mj.MjModel.from_xml_string if is_text else mj.MjModel.from_xml_path
    try:
        with quiet():
            compiled = load(model)
    except ValueError as error:
        which = "text" if is_text else f"file {model!r}"
        reason = " ".join(str(error).split())
        raise SettingsError(f"The MJCF {which} does not compile: {reason}") from error
    if integrator != "xml":
        compiled.opt.integrator = getattr(mj.mjtIntegrator, f"mjINT_{integrator.upper()}")
    return compiled


_read_files: dict[str, list[tuple[str, int, int]]] = {}
"""Path of a model -> the states that its files had when it was compiled."""


def reread_changed(model: str) -> None:
    """Lets a model be compiled again if its files, or what its path means, changed since.

    Args:
        model: Path of an MJCF file, or its text.
    """
    model = _as_text(model)
    if model in _read_files and _read_files[model] != _file_states(model):
        for cached in (compile_model, control_limits, _compiled_field):
            cached.cache_clear()


def _as_text(model: Any) -> str:
    """Returns a path as a text; raises SettingsError for what is neither of them."""
    if not isinstance(model, str | Path):
        raise SettingsError(
            "Expected the path of an MJCF file or its text, as `to_xml()` of an `MjSpec` returns "
            f"it, got {short_repr(model)}."
        )
    text = str(model).lstrip("\ufeff")  # a mark of the byte order at the start of a text
    return text if text.lstrip().startswith("<") else str(user_path(text))


def _file_states(path: str) -> list[tuple[str, int, int]]:
    """Returns the path, time and size of a file, and of all that it includes."""
    if not Path(path).is_file():
        return []
    try:
        with quiet():
            names = mj.mju_getXMLDependencies(str(Path(path).resolve()))
    except (ValueError, mj.FatalError):  # `compile_model` says what is wrong with it
        names = [path]
    files = [Path(name) for name in sorted(names) if Path(name).is_file()]
    return [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]


@lru_cache(maxsize=64)
def control_limits(model: str, integrator: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the lower and upper limits of the controls, [nu] float32 each."""
    compiled = compile_model(model, integrator)
    unlimited = torch.from_numpy(compiled.actuator_ctrllimited == 0)
    low, high = torch.tensor(compiled.actuator_ctrlrange.T, dtype=torch.float32)
    return (
        low.masked_fill(unlimited, -torch.inf).to(device),
        high.masked_fill(unlimited, torch.inf).to(device),
    )


@lru_cache(maxsize=256)  # resets read fields at every step; avoids a device sync
def _compiled_field(
    model: str, integrator: str, name: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(model_field(compile_model(model, integrator), name), dtype=dtype).to(device)


def model_field(model: Any, name: str) -> np.ndarray:
    """Returns a copy of a field that can differ between worlds.

    Raises:
        SettingsError: There is no such field; the message suggests the nearest name.
    """
    if name not in MODEL_FIELDS:
        raise SettingsError(
            f"MuJoCo's models have no field {name!r} that can differ between worlds."
            f"{did_you_mean(name, MODEL_FIELDS)} Options are named 'opt.gravity'."
        )
    return np.array(attrgetter(name)(model))


@contextmanager
def quiet() -> Iterator[None]:
    """Prevents MuJoCo from printing warnings and from writing MUJOCO_LOG.TXT."""
    config = mj.MjLogConfig
    original = config.get()
    silent = config.get()
    silent.logto_console = silent.logto_file = False
    config.set(silent)
    try:
        yield
    finally:
        config.set(original)
