"""Legged robots that something befalls; they run forwards, and nothing tells them what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metarl.sim import Card, ControlTasks, Fact, Tasks, WorldState
from metarl.sim.mujoco.physics import compile_model
from metarl.tasks.base import Split
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs import faults
from metarl_envs.ant import ANT
from metarl_envs.faults import Fault
from metarl_envs.half_cheetah import HALF_CHEETAH
from metarl_envs.hopper import HOPPER
from metarl_envs.locomotion import Locomotion, uniform_draws
from metarl_envs.models import Change
from metarl_envs.robot import Robot
from metarl_envs.walker2d import WALKER2D

TORSO = 1


@dataclass(frozen=True, kw_only=True)
class ChangedRobot(Locomotion):
    """A robot and what befalls it; the numbers of its `Fault` tell tasks apart.

    They are [T] float32 under the names that the fault gives them; "actuator" is [T, nu], what is
    left of each. Adaptation of damaged robots is after Nagabandi et al. 2019 (arXiv:1803.11347).
    Controls cost what was asked of the actuators, not what they gave.

    Attributes:
        name: The family's name with its version.
        robot: The robot.
        fault: What befalls it.
        alive: Paid in every step.
        control_cost: What a control of 1 costs in every step.
        beyond: Whether test tasks lie beyond the range of tests.
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split that tasks are drawn from.
    """

    name: str
    robot: Robot
    fault: Fault
    alive: float = 0.0
    control_cost: float
    beyond: bool = False
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    paper = "Nagabandi et al. 2019, arXiv:1803.11347, for the idea; the ranges are MetaRL's"
    reward_note = "weights of the robot's other families"

    @property
    def changes(self) -> tuple[Change, ...]:
        """See `Locomotion.changes`: room for controls that come late."""
        latency = self.fault.latency
        if latency is None:
            return self.robot.changes
        longest = max(latency.train[1], latency.test[1], latency.beyond[1])
        timestep = compile_model(self.robot.model).opt.timestep
        samples = math.ceil(longest / timestep) + 2
        return (*self.robot.changes, ("actuator/*", "nsample", str(samples)))

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        note = "tests: beyond" if self.beyond else "tests: not beyond, a setting"
        return self._card(
            f"{self.robot.name} runs forwards; tasks differ in {' and '.join(self.fault.ranges())}",
            Fact("tasks", self.fault.told(), note),
            "v",
            True,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`; training and test ranges are apart."""
        ranges = self.fault.ranges()
        draws = uniform_draws(2 * len(ranges) + 1, num_tasks, generator)
        values = {}
        for number, (name, chosen) in enumerate(ranges.items()):
            interval = chosen.of(self.part, self.beyond)
            cell, inside = draws[2 * number : 2 * number + 2]
            values[name] = split_uniform(cell, inside, self.part, *interval)
        if "actuator" in values:
            values["actuator"] = self._of_one(values["actuator"], draws[-1])
        return ControlTasks(values)

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """See `MujocoFamily.model_fields`."""
        changed = {}
        exact = {name: value.double() for name, value in tasks.items()}
        if "slope" in tasks:
            angle = exact["slope"].deg2rad()
            tilt = torch.stack((-angle.sin(), torch.zeros_like(angle), -angle.cos()), 1)
            changed["opt.gravity"] = tilt * self.default("opt.gravity", angle).norm()
        if "payload" in tasks:
            load = exact["payload"].unsqueeze(1)
            torso = torch.arange(self.compiled.nbody, device=load.device) == TORSO
            factor = 1 + load * torso
            changed["body_mass"] = self.default("body_mass", load) * factor
            changed["body_inertia"] = self.default("body_inertia", load) * factor.unsqueeze(2)
        if "friction" in tasks:
            factor = exact["friction"].view(-1, 1, 1)
            changed["geom_friction"] = self.default("geom_friction", factor) * factor
        if "latency" in tasks:
            changed["actuator_delay"] = self._delay(exact["latency"])
        return changed

    def controls(self, actions: Tensor, tasks: Tasks) -> Tensor:
        """See `MujocoFamily.controls`: what is left of the actions."""
        controls = super().controls(actions, tasks)
        if "actuator" in tasks:
            controls = controls * tasks["actuator"]
        if "strength" in tasks:
            controls = controls * tasks["strength"].unsqueeze(1)
        return controls

    def effort(self, actions: Tensor, after: WorldState) -> Tensor:
        """See `Locomotion.effort`: of what was asked of the actuators."""
        return super().controls(actions, {}).to(after["ctrl"].dtype).square().sum(1)

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: the velocity."""
        return self.velocity(before, after)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: the numbers of the fault."""
        return torch.cat([v.view(len(v), -1) for v in tasks.values()], 1)

    def _delay(self, latency: Tensor) -> Tensor:
        """Returns the delays of actuators, [W, nu], that make whole numbers of MuJoCo's steps.

        A control is held from one of its steps to the next, so that a little less than the time of
        some steps delays it by as many, whichever way times are rounded.
        """
        timestep = self.compiled.opt.timestep
        delay = ((latency / timestep).round() - 0.25).clamp(min=0) * timestep
        return delay.unsqueeze(1).expand(-1, self.compiled.nu)

    def _of_one(self, left: Tensor, chosen: Tensor) -> Tensor:
        """Returns `left` [T] for one group of actuators and 1 for the others, [T, nu]."""
        actuators, size = self.compiled.nu, self.fault.group
        group = torch.arange(actuators, device=left.device) // size
        fails = group == (chosen * -(-actuators // size)).floor().unsqueeze(1)
        return torch.where(fails, left.unsqueeze(1), 1.0)


_cheetah = partial(ChangedRobot, robot=HALF_CHEETAH, control_cost=0.05)
_walker = partial(ChangedRobot, robot=WALKER2D, alive=1.0, control_cost=1e-3)
_hopper = partial(ChangedRobot, robot=HOPPER, alive=1.0, control_cost=1e-3)
_ant = partial(ChangedRobot, robot=ANT, alive=0.05, control_cost=0.005)

# Each takes the settings of `ChangedRobot` that it does not fix itself.
HalfCheetahSlope = partial(_cheetah, name="HalfCheetahSlope-v1", fault=faults.SLOPE)
HalfCheetahPayload = partial(_cheetah, name="HalfCheetahPayload-v1", fault=faults.PAYLOAD)
HalfCheetahFriction = partial(_cheetah, name="HalfCheetahFriction-v1", fault=faults.FRICTION)
HalfCheetahActuator = partial(_cheetah, name="HalfCheetahActuator-v1", fault=faults.ACTUATOR)
HalfCheetahStrength = partial(_cheetah, name="HalfCheetahStrength-v1", fault=faults.STRENGTH)
HalfCheetahLatency = partial(_cheetah, name="HalfCheetahLatency-v1", fault=faults.LATENCY)
Walker2dSlope = partial(_walker, name="Walker2dSlope-v1", fault=faults.SLOPE)
Walker2dPayload = partial(_walker, name="Walker2dPayload-v1", fault=faults.PAYLOAD)
Walker2dActuator = partial(_walker, name="Walker2dActuator-v1", fault=faults.ACTUATOR)
HopperSlope = partial(_hopper, name="HopperSlope-v1", fault=faults.SLOPE)
HopperPayload = partial(_hopper, name="HopperPayload-v1", fault=faults.PAYLOAD)
HopperStrength = partial(_hopper, name="HopperStrength-v1", fault=faults.STRENGTH)
AntSlope = partial(_ant, name="AntSlope-v1", fault=faults.SLOPE)
AntActuator = partial(_ant, name="AntActuator-v1", fault=faults.ACTUATOR)
AntLeg = partial(_ant, name="AntLeg-v1", fault=faults.LEG)
