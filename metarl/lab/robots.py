"""What the experiments on robots share: a family by its name, and the budget of MAML-TRPO."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metarl.adaptation import settings as learners
from metarl.errors import SettingsError, UnknownNameError
from metarl.evaluation.control_protocol import ControlProtocol
from metarl.lab.control import ControlSettings, build_control, control_configs
from metarl.lab.experiment import Components
from metarl.registry import check_choice
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim.family import TaskFamily
from metarl.sim.make import FAMILIES, make_family
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

Protocols = Callable[[TaskFamily], Sequence[ControlProtocol]]


@dataclass(frozen=True)
class FamilySettings(ControlSettings):
    """An experiment on a family; `--algorithm` chooses the defaults of all the rest."""

    family: str = ""
    """Name of the family, as "AntGoal-v1"; an unknown one lists them all."""
    horizon: int | None = None
    """Steps of an episode; None for the family's own number."""
    options: tuple[str, ...] = ()
    """Other settings of the family, as `fastest=3 integrator=implicitfast`."""


def robot_configs(family: str, **changes: Any) -> dict[str, FamilySettings]:
    """Returns the configurations of all algorithms for families in which a robot runs.

    An iteration is 40 tasks of 20 trajectories, before and after adaptation. Where PPO is the outer
    update, it has a bound on how far the policies move: without it, once they were sure of their
    actions, ProMP broke down.

    Args:
        family: Name of the default family.
        **changes: Fields of MAML-TRPO's that differ from these defaults.
    """
    fields: dict[str, Any] = {
        "learner": learners.MAMLSettings(0.1),
        "gradients": PolicyGradientSettings(gae_lambda=0.95),
        "update": TrustRegionSettings(fisher_trajectories=2),
        "training": TrainingSettings(
            iterations=200, meta_batch_size=40, task_chunk_size=4, threads=1, log_every=1,
            eval_every=20, eval_tasks=20, eval_steps=3, checkpoint_every=5,
        ),
        "init_std": 0.5,
        "film": 2,
    }  # fmt: skip
    return control_configs(FamilySettings("maml", family=family, **(fields | changes)), max_kl=0.1)


def build_family(
    settings: FamilySettings, robot: str = "", protocols: Protocols | None = None
) -> Components:
    """Builds policy, learner and outer update for the family that the settings name.

    Args:
        settings: The settings.
        robot: What the names of families begin with that may be chosen: "Ant".
        protocols: Returns published evaluations of a family, which the report adds to its test
            tasks.

    Raises:
        UnknownNameError: The family is none of the robot's.
        SettingsError: An option is not usable; or as `build_control`.
    """
    family = named_family(settings, robot)
    return build_control(settings, family, () if protocols is None else protocols(family))


def named_family(settings: FamilySettings, robot: str = "") -> TaskFamily:
    """Builds the family that the settings name; arguments and errors as of `build_family`."""
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
    except (ValueError, SyntaxError):
        return name, value
