"""Legged robots that run forwards with a fault that they do not observe."""

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
    """A robot with a `Fault`, whose parameters differ between tasks; the robot runs forwards.

    Tasks hold one parameter per range of the fault, under the range's name: [T] float32, except
    "actuator", the remaining share of each actuator's force, [T, nu]. The control cost is that of
    the commanded controls, not of the weakened ones. The idea of adapting to damaged robots is from
    Nagabandi et al. 2019 (arXiv:1803.11347).

    Attributes:
        name: The family's name with its version.
        robot: The robot.
        fault: The fault and the ranges of its parameters.
        alive: Reward for staying alive, per step.
        control_cost: Factor on the sum of squared controls, per step.
        beyond: Samples test tasks from the `beyond` ranges instead of the `test` ranges.
        horizon: Steps per episode.
        integrator: MuJoCo's integrator; see `MujocoFamily`.
        part: The split that tasks are sampled from.
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
        """Changes of the robot's model, with a buffer long enough for delayed controls."""
        latency = self.fault.latency
        if latency is None:
            return self.robot.changes
        longest = max(latency.train[1], latency.test[1], latency.beyond[1])
        timestep = compile_model(self.robot.model).opt.timestep
        samples = math.ceil(longest / timestep) + 2
        return (*self.robot.changes, ("actuator/*", "nsample", str(samples)))

    def card(self) -> Card:
        note = "tests: beyond" if self.beyond else "tests: not beyond (setting `beyond`)"
        return self._card(
            f"{self.robot.name} runs forwards; tasks differ in {' and '.join(self.fault.ranges())}",
            Fact("tasks", self.fault.describe(), note),
            "v",
            True,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples the fault's parameters; training and test ranges are disjoint."""
        ranges = self.fault.ranges()
        draws = uniform_draws(2 * len(ranges) + 1, num_tasks, generator)
        values = {}
        for number, (name, parameter_ranges) in enumerate(ranges.items()):
            interval = parameter_ranges.of(self.part, self.beyond)
            cell, inside = draws[2 * number : 2 * number + 2]
            values[name] = split_uniform(cell, inside, self.part, *interval)
        if "actuator" in values:
            values["actuator"] = self._force_shares(values["actuator"], draws[-1])
        return ControlTasks(values)

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        changed = {}
        # Physical parameters are computed in float64, as the model's own.
        exact = {name: value.double() for name, value in tasks.items()}
        if "slope" in tasks:
            # g = -|g| (sin w, 0, cos w): tilting gravity by w is a slope of w along x.
            angle = exact["slope"].deg2rad()
            tilt = torch.stack((-angle.sin(), torch.zeros_like(angle), -angle.cos()), 1)
            changed["opt.gravity"] = tilt * self.default("opt.gravity", angle).norm()
        if "payload" in tasks:
            # m' = (1 + load) m and I' = (1 + load) I, for the torso only.
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
        """Returns the clipped actions times the remaining share of each actuator's force."""
        controls = super().controls(actions, tasks)
        if "actuator" in tasks:
            controls = controls * tasks["actuator"]
        if "strength" in tasks:
            controls = controls * tasks["strength"].unsqueeze(1)
        return controls

    def effort(self, actions: Tensor, after: WorldState) -> Tensor:
        """Returns the sum of the squared commanded controls, before the fault weakens them, [W]."""
        return super().controls(actions, {}).to(after["ctrl"].dtype).square().sum(1)

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """Returns the forward velocity, [W] float64 in m/s."""
        return self.velocity(before, after)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the parameters of the fault, [W, D]."""
        values = (tasks[name] for name in self.fault.ranges())
        return torch.cat([v.view(len(v), -1) for v in values], 1)

    def _delay(self, latency: Tensor) -> Tensor:
        """Returns the delay of each actuator in s, [W, nu], rounded to whole MuJoCo steps.

        MuJoCo holds a control from one step to the next. A delay a quarter step below k steps
        therefore delays the control by exactly k steps, however MuJoCo rounds times.
        """
        timestep = self.compiled.opt.timestep
        delay = ((latency / timestep).round() - 0.25).clamp(min=0) * timestep
        return delay.unsqueeze(1).expand(-1, self.compiled.nu)

    def _force_shares(self, share: Tensor, uniform: Tensor) -> Tensor:
        """Returns `share` [T] for one random group of actuators, 1 for the others, [T, nu]."""
        actuators, size = self.compiled.nu, self.fault.group
        group = torch.arange(actuators, device=share.device) // size
        fails = group == (uniform * -(-actuators // size)).floor().unsqueeze(1)
        return torch.where(fails, share.unsqueeze(1), 1.0)


_cheetah = partial(ChangedRobot, robot=HALF_CHEETAH, control_cost=0.05)
_walker = partial(ChangedRobot, robot=WALKER2D, alive=1.0, control_cost=1e-3)
_hopper = partial(ChangedRobot, robot=HOPPER, alive=1.0, control_cost=1e-3)
_ant = partial(ChangedRobot, robot=ANT, alive=0.05, control_cost=0.005)

# Each accepts the arguments of `ChangedRobot` that it does not fix.
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
