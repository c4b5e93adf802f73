"""Families whose dynamics are MuJoCo's: a model, and tensor functions over its state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from mujoco.batch import MODEL_FIELDS
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.registry import check_choice, did_you_mean
from metarl.sim.family import TaskFamily, Tasks, WorldState

mj: Any = mujoco  # type checkers cannot see what its compiled modules hold

INTEGRATORS = ("Euler", "RK4", "implicit", "implicitfast")


class MujocoFamily(TaskFamily):
    """A family whose dynamics are those of a MuJoCo model.

    A `WorldState` holds generalised positions "qpos" [W, nq], velocities "qvel" [W, nv] and the
    controls that led to them, "ctrl" [W, nu]; the engine chooses whether in float64 or float32.
    Positions of bodies and contact forces are not in it: engines differ in how late they are.

    Attributes:
        model: Path of an MJCF file, or its text, which starts with "<".
        frame_skip: MuJoCo's steps in one step of the family, at least 1.
        integrator: "xml" for the model's own, or one of MuJoCo's: "Euler", "RK4", "implicit",
            "implicitfast". Another one makes another MDP; the card says which.
    """

    model: str
    frame_skip: int
    integrator: str = "xml"

    @property
    def compiled(self) -> Any:
        """The compiled `mujoco.MjModel`. It is shared: read it, never write to it.

        Raises:
            SettingsError: The file is not there or does not compile, or a setting is not usable.
        """
        if self.frame_skip < 1:
            raise SettingsError(
                f"Expected a frame_skip of at least 1, got {self.frame_skip} of {self.name}."
            )
        return compile_model(self.model, self.integrator)

    @cached_property
    def dt(self) -> float:
        """Seconds of one step of the family."""
        return self.frame_skip * self.compiled.opt.timestep

    @property
    def action_space(self) -> spaces.Box:
        """The range of each actuator's control; infinite where the model sets none."""
        low, high = (limit.numpy() for limit in self._limits(torch.device("cpu")))
        return spaces.Box(low, high, dtype=np.float32)

    def default(self, field: str, like: Tensor) -> Tensor:
        """Returns a field of the model as it was compiled, to scale or to move from.

        Args:
            field: Its name in MuJoCo, as "body_mass", "qpos0" or "opt.gravity".
            like: A floating-point tensor whose type and device the result has.

        Raises:
            SettingsError: Models have no field of this name.
        """
        return _compiled_field(self.model, self.integrator, field, like.dtype, like.device).clone()

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """Returns the model's fields that differ between tasks, [W, *shape in the model] each.

        By default none does. The names are MuJoCo's ("body_mass", "opt.gravity") and must be the
        same for all tasks; constants that follow from the fields are computed by the engine. Masses
        change in the right way only together with "body_inertia".

        Args:
            tasks: The task of each world.
        """
        return {}

    def controls(self, actions: Tensor, tasks: Tasks) -> Tensor:
        """Returns what the actuators get, [W, nu]: the actions, clipped to the action space."""
        low, high = self._limits(actions.device)
        return actions.clamp(low, high)

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TaskFamily.reset`; float64, controls 0."""
        qpos, qvel = self.initial(noise.double(), tasks)
        return {"qpos": qpos, "qvel": qvel, "ctrl": qvel.new_zeros(len(qvel), self.compiled.nu)}

    @abstractmethod
    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns positions [W, nq] and velocities [W, nv] at the start of episodes.

        Args:
            noise: Uniform numbers in [0, 1), [W, reset_noise] float64.
            tasks: The task of each world.
        """

    def _limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return control_limits(self.model, self.integrator, device)


@lru_cache(maxsize=64)
def compile_model(model: str, integrator: str = "xml") -> Any:
    """Compiles an MJCF file or text to an `MjModel`, which is shared: read it only.

    Raises:
        SettingsError: The file is not there or does not compile, or the integrator is unknown.
    """
    check_choice("integrator", integrator, ("xml", *INTEGRATORS))
    is_text = model.lstrip().startswith("<")
    if not is_text and not Path(model).is_file():
        raise SettingsError(
            f"Expected the path of an MJCF file or its text, found no file {model!r}."
        )
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


@lru_cache(maxsize=64)
def control_limits(model: str, integrator: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the least and the greatest control of each actuator, [nu] float32 each."""
    compiled = compile_model(model, integrator)
    free = torch.from_numpy(compiled.actuator_ctrllimited == 0)
    low, high = torch.tensor(compiled.actuator_ctrlrange.T, dtype=torch.float32)
    return (
        low.masked_fill(free, -torch.inf).to(device),
        high.masked_fill(free, torch.inf).to(device),
    )


@lru_cache(maxsize=256)  # resets need some at every step, and a GPU would be waited for
def _compiled_field(
    model: str, integrator: str, name: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(model_field(compile_model(model, integrator), name), dtype=dtype).to(device)


def model_field(model: Any, name: str) -> np.ndarray:
    """Returns a copy of a field that worlds may have values of their own of.

    Raises:
        SettingsError: Models have no field of this name; the message suggests the nearest.
    """
    if name not in MODEL_FIELDS:
        raise SettingsError(
            f"MuJoCo's models have no field {name!r} that can differ between worlds."
            f"{did_you_mean(name, MODEL_FIELDS)} Options are named 'opt.gravity'."
        )
    return np.array(attrgetter(name)(model))


def check_shape(name: str, value: Tensor, expected: Sequence[int]) -> None:
    """Checks what a family gives for a field of the model.

    Raises:
        ShapeError: It has not one value for each world.
    """
    if tuple(value.shape) != tuple(expected):
        raise ShapeError(
            f"Expected the model field {name!r} of shape {tuple(expected)}, one for each world, "
            f"got {tuple(value.shape)}."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps MuJoCo from printing warnings and from writing MUJOCO_LOG.TXT where it is run."""
    config = mj.MjLogConfig
    present = config.get()
    silent = config.get()
    silent.logto_console = silent.logto_file = False
    config.set(silent)
    try:
        yield
    finally:
        config.set(present)
