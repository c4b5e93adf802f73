"""Experiments on a family that is chosen by its name."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metarl.errors import SettingsError, UnknownNameError
from metarl.evaluation.control_protocol import ControlProtocol
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.experiment import Components
from metarl.ranges import COUNT, Range
from metarl.registry import check_choice
from metarl.sim.family import TaskFamily
from metarl.sim.make import FAMILIES, make_family

Protocols = Callable[[TaskFamily], Sequence[ControlProtocol]]


@dataclass(frozen=True)
class FamilySettings(ControlSettings):
    """A family of control tasks. Options and defaults are those of the chosen `--algorithm`."""

    ranges: ClassVar[Mapping[str, Range]] = {"horizon": COUNT}

    family: str = ""
    """Name of the family, such as AntGoal-v1, or module:Name of your own; an unknown name lists
    those that are installed."""
    horizon: int | None = None
    """Steps of an episode. None: the family's default."""
    options: tuple[str, ...] = ()
    """Other settings of the family, such as `fastest=3 integrator=implicitfast`."""


def build_family(
    settings: FamilySettings, robot: str = "", protocols: Protocols | None = None
) -> Components:
    """Builds policy, learner and outer update for the family that the settings name.

    Args:
        settings: The settings.
        robot: Prefix of the names of the families to choose from: "Ant".
        protocols: Returns the published evaluations of a family that the report adds.

    Raises:
        UnknownNameError: The family is not one of the robot's.
        SettingsError: An option is not usable; see also `build_control`.
    """
    family = named_family(settings, robot)
    return build_control(settings, family, () if protocols is None else protocols(family))


def named_family(settings: FamilySettings, robot: str = "") -> TaskFamily:
    """Builds the family that the settings name; see `build_family`."""
    names = [name for name in FAMILIES.names() if name.startswith(robot)]
    if robot:
        check_choice(f"family of {robot}", settings.family, names, UnknownNameError)
    options = dict(map(_option, settings.options))
    if settings.horizon is not None:
        options["horizon"] = settings.horizon
    return make_family(settings.family, **options)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise SettingsError(f"Expected options as name=value, as fastest=3; got {text!r}.")
    try:
        return name, literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name, value
