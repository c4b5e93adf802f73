"""What differs between tasks of a MuJoCo model: factors on its fields, by names of parts."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import SettingsError
from metarl.registry import did_you_mean
from metarl.sim.gymnasium.ranges import Choice, Range
from metarl.sim.mujoco.physics import mj, model_field

KINDS = {"body": "nbody", "geom": "ngeom", "joint": "njnt", "actuator": "nactuator"}
"""Kind of a part -> MuJoCo's field of their number."""
LINEAR_GAINS = {int(mj.mjtGain.mjGAIN_FIXED), int(mj.mjtGain.mjGAIN_AFFINE)}
LINEAR_BIASES = {int(mj.mjtBias.mjBIAS_NONE), int(mj.mjtBias.mjBIAS_AFFINE)}
"""Types of actuators whose force is proportional to their parameters."""


@dataclass(frozen=True)
class ModelFactor(ABC):
    """A factor on fields of the model, for the parts of some names (interface).

    Attributes:
        names: Names of the parts, separated by spaces; "*" and "leg_*" are patterns.
        values: The distribution of the factor.
        each: Whether every part has another factor, instead of one for all.
    """

    names: str
    values: Range
    each: bool = False

    kind: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    polynomial: ClassVar[tuple[str, ...]] = ()
    """Fields of coefficients of higher order, which few models have."""
    may_be_negative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the arguments; raises SettingsError."""
        if not isinstance(self.names, str) or not self.names.split():
            raise SettingsError(
                f"Expected names of parts of the model in a text, as 'thigh shin' or '*', got "
                f"{self.names!r}."
            )
        if not isinstance(self.values, Range) or isinstance(self.values, Choice):
            raise SettingsError(
                f"Expected the factor on {self.names!r} to be drawn from a Range such as "
                f"Uniform(0.5, 2), got {self.values!r}."
            )
        splits = (self.values.of("train"), self.values.of("test"))
        if not self.may_be_negative and any(getattr(part, "low", 0) < 0 for part in splits):
            raise SettingsError(
                f"Expected factors of at least 0 on the {self.word} of {self.names!r}, got "
                f"{self.values!r}: the model's number is multiplied by them."
            )

    @property
    def word(self) -> str:
        """What is scaled, as cards say it."""
        return type(self).__name__.lower()

    def parts(self, model: Any) -> list[int]:
        """Returns the indices of the parts that the names mean.

        Raises:
            SettingsError: There is no part of a name, or the fields of a part are all 0.
        """
        names = [getattr(model, self.kind)(i).name for i in range(getattr(model, KINDS[self.kind]))]
        found: set[int] = set()
        for pattern in self.names.split():
            matches = {i for i, name in enumerate(names) if _matches(name, pattern, names)}
            if not matches:
                known = [name for name in names if name]
                raise SettingsError(
                    f"The model has no {self.kind} {pattern!r}.{did_you_mean(pattern, known)} It "
                    f"has {', '.join(known) or 'none with a name'}."
                )
            found |= matches
        rows = self.rows(model)
        used = [i for i in sorted(found) if self.scales(model, i, rows)]
        if not used:
            raise SettingsError(
                f"A factor on the {self.word} of {self.names!r} changes nothing: it is 0 in the "
                "model. Give it a value there."
            )
        self.check_parts(model, used)
        return used

    def check_parts(self, model: Any, parts: list[int]) -> None:  # noqa: B027
        """Raises SettingsError if factors on the fields of these parts have no effect."""

    def scales(self, model: Any, part: int, rows: np.ndarray) -> bool:
        """Whether a part has a value other than 0."""
        return any(np.any(model_field(model, f)[rows == part]) for f in self.fields_of(model))

    def fields_of(self, model: Any) -> tuple[str, ...]:
        """Returns the names of the fields of a model that are scaled."""
        return self.fields + tuple(f for f in self.polynomial if np.any(model_field(model, f)))

    def rows(self, model: Any) -> np.ndarray:
        """Returns the part that each row of the fields belongs to, [rows] int."""
        return np.arange(len(model_field(model, self.fields[0])))

    def factors(self, model: Any, values: Tensor) -> Tensor:
        """Returns the factor on each row of the fields, [W, rows] float64.

        Args:
            model: The compiled model.
            values: The factors of the tasks, [W], or [W, parts] with `each`.
        """
        # The last column is the factor of rows that are not scaled.
        columns = F.pad(values.view(len(values), -1), (0, 1), value=1.0)
        return columns.double()[:, _columns(self, model, values.device)]

    @property
    def target(self) -> str:
        """What is scaled, and of which parts."""
        return f"{self.word} of {self.names}{', each its own' if self.each else ''}"

    def describe(self) -> str:
        """Returns the change as cards say it."""
        return f"{self.target} x {self.values}"


class Mass(ModelFactor):
    """A factor on the mass and the inertia of bodies."""

    kind = "body"
    fields = ("body_mass", "body_inertia")

    def check_parts(self, model: Any, parts: list[int]) -> None:
        if not model.body_weldid[parts].any():
            raise SettingsError(
                f"A factor on the mass of {self.names!r} changes nothing: no joint moves these "
                "bodies, they are fixed to the world. Name bodies that move."
            )


class Friction(ModelFactor):
    """A factor on the friction of geoms; of two geoms in contact, the larger friction counts.

    A `<pair>` of the model has its own friction, which stays.
    """

    kind = "geom"
    fields = ("geom_friction",)

    def check_parts(self, model: Any, parts: list[int]) -> None:
        collide = (model.geom_contype[parts] | model.geom_conaffinity[parts]) != 0
        if not collide.any():
            raise SettingsError(
                f"A factor on the friction of {self.names!r} changes nothing: these geoms have "
                "contype and conaffinity 0, and a <pair> has its own friction. Name geoms "
                'that collide, or return "pair_friction" from `model_fields`.'
            )


class _OfJoints(ModelFactor):
    """A factor on a number of each degree of freedom of joints."""

    kind = "joint"

    def rows(self, model: Any) -> np.ndarray:
        return model.dof_jntid.copy()


class Damping(_OfJoints):
    """A factor on the damping of joints, all coefficients of a polynomial included."""

    fields = ("dof_damping",)
    polynomial = ("dof_dampingpoly",)


class JointFriction(_OfJoints):
    """A factor on the dry friction of joints, MuJoCo's `frictionloss`."""

    fields = ("dof_frictionloss",)


class Armature(_OfJoints):
    """A factor on the armature of joints, the inertia of their rotors."""

    fields = ("dof_armature",)


class Stiffness(ModelFactor):
    """A factor on the stiffness of the springs of joints, all coefficients included."""

    kind = "joint"
    fields = ("jnt_stiffness",)
    polynomial = ("jnt_stiffnesspoly",)


class Gain(ModelFactor):
    """A factor on the force of actuators: on their gain and bias, before limits of the force.

    A negative one reverses them.
    """

    kind = "actuator"
    fields = ("actuator_gainprm", "actuator_biasprm")
    may_be_negative = True

    def scales(self, model: Any, part: int, rows: np.ndarray) -> bool:
        """Whether a part has a gain; raises SettingsError for muscles and the like."""
        gain, bias = int(model.actuator_gaintype[part]), int(model.actuator_biastype[part])
        if gain not in LINEAR_GAINS or bias not in LINEAR_BIASES:
            raise SettingsError(
                f"The force of the actuator {model.actuator(part).name!r} is not proportional to "
                "its parameters, as that of motors and of position and velocity servos is: name "
                "others, or return its fields from `model_fields`."
            )
        return super().scales(model, part, rows)


def _matches(name: str, pattern: str, names: list[str]) -> bool:
    """Whether a pattern means a name; a name that the model has means itself."""
    return name == pattern if pattern in names else fnmatchcase(name, pattern)


@lru_cache(maxsize=256)
def _columns(factor: ModelFactor, model: Any, device: torch.device) -> Tensor:
    """Returns the column of the factors that each row of the fields takes, [rows] int64."""
    parts, rows = factor.parts(model), factor.rows(model)
    none = len(parts) if factor.each else 1
    place = {part: i if factor.each else 0 for i, part in enumerate(parts)}
    return torch.tensor([place.get(int(row), none) for row in rows], device=device)
